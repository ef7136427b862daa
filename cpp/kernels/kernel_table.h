// The seam between ops and kernels: plain tables of function pointers, one set per ISA and scalar type.
//
// A tile is a matrix of units x samples: row u holds unit u of all samples of a block, samples contiguous, row stride
// `ld`. Columns come in multiples of kColumnMultiple, those beyond the last sample being padding that kernels may
// compute on and that ops never read; or there is a single one with ld = 1, and vectors run over the units. Kernels run
// on one thread, allocate nothing and throw nothing. All outputs are written, never accumulated, unless the name says
// `add_`. Sums over units are float64 whatever T is.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/activation_info.h"
#include "core/cells.h"
#include "core/prefetch.h"
#include "kernels/cell_table.h"

namespace gt {

// One AVX-512 register of float32; every narrower register divides it.
constexpr std::size_t kColumnMultiple = 16;
constexpr std::size_t kMaxColumns = 64;  // of one block of samples

// Columns of a product.
template <class T>
struct GemmColumns {
    std::size_t n;  // not 0
    const T* b;     // (k, n)
    T* c;           // (m, n)
};

// One left operand, which is read, copied or split once for all sets of columns. Each n is a multiple of
// kColumnMultiple, as are ldb and ldc, or there is one set and all three are 1. How columns are shared out among sets
// and calls changes no bit. `prefetch` (or null): what to fetch meanwhile. `scratch`: scratch_bytes of the caller's,
// 64-byte aligned; a thread's stack may be too small for them.
template <class T>
struct GemmKernels {
    // c (m, n) [+]= a (m, k) b (k, n)
    void (*nn)(std::size_t m, std::size_t k, const T* a, std::size_t lda, const GemmColumns<T>* sets, std::size_t count,
               std::size_t ldb, std::size_t ldc, bool add, Prefetch* prefetch, void* scratch);
    // c (m, n) [+]= a^T b with a (k, m).
    void (*tn)(std::size_t m, std::size_t k, const T* a, std::size_t lda, const GemmColumns<T>* sets, std::size_t count,
               std::size_t ldb, std::size_t ldc, bool add, Prefetch* prefetch, void* scratch);
    // c (m,) = a (m, k) b (k,) as nn has it, and the sum of the squares of a, which is read once for both.
    double (*nv_squares)(std::size_t m, std::size_t k, const T* a, const T* b, T* c);
    std::size_t strip_elements;  // of a result that comes in strips of rows, each used before the next
    std::size_t scratch_bytes;
};

// Per-sample sums over the units of a layer, each an array of kMaxColumns.
struct ForwardSums {
    double z[kMaxColumns];           // sum of z
    double z_squared[kMaxColumns];   //        z^2
    double a[kMaxColumns];           //        phi(z)
    double a_squared[kMaxColumns];   //        phi(z)^2
    double derivative[kMaxColumns];  //        |phi'(z)|
    double saturated[kMaxColumns];   // units with |phi'(z)| under kSaturatedShare of its largest
    double on[kMaxColumns];          // units with phi'(z) != 0; activations that can die only

    void clear(std::size_t columns) {
        double* const all[] = {z, z_squared, a, a_squared, derivative, saturated, on};
        for (double* sums : all)
            for (std::size_t b = 0; b < columns; ++b) sums[b] = 0;
    }
};

constexpr double kSaturatedShare = 0.05;

// How the product W a becomes z: z = product * scale + bias * bias_scale, per sample. Powers of two, so exact.
template <class T>
struct PreactivationScale {
    T scale[kMaxColumns];
    T bias_scale[kMaxColumns];  // finite also without a bias
    T linear[kMaxColumns];      // 1 where the sample is so small that phi is its slope, or its value, at 0 to rounding
};

// What some sample has shown of a unit; together: on, and (where there is a bias) it would be on without it.
enum UnitLife : std::uint8_t { kOn = 1, kOnWithoutBias = 2 };

template <class T>
struct ForwardTile {
    std::size_t rows, columns, ld;
    T* z;                                // in: the product W a; out: z
    T* a;                                // out: phi(z)
    T* derivative;                       // out: phi'(z)
    const T* bias;                       // (rows,) or null
    const PreactivationScale<T>* scale;  // null: z = product + bias
    const T* valid;                      // (columns,): 1 for a sample, 0 for padding
    ForwardSums* add_sums;               // added to, so that a layer may come in strips of rows
    std::uint8_t* alive;  // (rows,): UnitLife flags set where a valid sample shows them; activations that can die only
    double parameter;     // of the activation, if it has one
};

template <class T>
struct BackwardTile {
    std::size_t rows, columns, ld;
    const T* da;            // dL/da
    T* delta;               // in: phi'(z); out: delta = phi'(z) * da
    double* da_squared;     // out (columns,): sum over units of da^2
    double* delta_squared;  // out (columns,)
    T* delta_max;           // out (columns,): largest |delta|; NaN may be missed, delta_squared shows it
};

template <class T>
struct ActivationKernels {
    const ActivationInfo* info;  // kCount of them; the index is the activation's identity everywhere
    std::size_t count;
    ActivationInfo (*const* described)(double parameter);  // info, with this parameter if it has one
    void (*const* forward)(const ForwardTile<T>&);
    void (*backward)(const BackwardTile<T>&);  // the same for all: phi' was kept
    // ln |phi'(z)| without underflow, and the sign of phi' (0 where phi' is 0 mathematically).
    void (*const* log_derivative)(double parameter, std::size_t count, const double* z, double* log_magnitude,
                                  double* sign);
    // ln |phi(z)| without underflow, and the sign of phi; does nothing for those that do not fade.
    void (*const* log_value)(std::size_t count, const double* z, double* log_magnitude, double* sign);
    // phi and phi' of a flat array of any length, for the tests of the mathematics.
    void (*const* evaluate)(double parameter, std::size_t count, const T* z, T* a, T* derivative);
};

// z = product * scale + bias * bias_scale, then less its mean over the units.
template <class T>
struct CentreTile {
    std::size_t rows, columns, ld;
    T* z;                         // in: the product W a; out: centred
    const T* bias;                // (rows,) or null
    const T *scale, *bias_scale;  // (columns,)
    double *mean, *squares;       // out (columns,): mean, and sum of the centred squares
};

// normal = z * factor, z = normal * weight.
template <class T>
struct LayerNormForward {
    std::size_t rows, columns, ld;
    T* z;             // in: centred; out: normalised, times the weight
    T* normal;        // out: normalised
    const T* weight;  // (rows,) or null
    const T* factor;  // (columns,)
};

template <class T>
struct LayerNormBackward {
    std::size_t rows, columns, ld;
    T* delta;  // in: dL/dz of the forward pass's output; out: of its input
    const T *normal, *weight;
    const T* factor;        // (columns,)
    double* delta_squared;  // out (columns,)
    T* delta_max;           // out (columns,): largest |delta|; NaN may be missed
};

template <class T>
struct LayerNormKernels {
    void (*centre)(const CentreTile<T>&);
    void (*forward)(const LayerNormForward<T>&);
    void (*backward)(const LayerNormBackward<T>&);
    // x[r, c] = x[r, c] * x_factor[c] + y[r, c] * y_factor[c]
    void (*add_tiles)(std::size_t rows, std::size_t columns, std::size_t ld, T* x, const T* x_factor, const T* y,
                      const T* y_factor);
};

template <class T>
struct ReduceKernels {
    // sums[c] = sum over rows of x[r, c] - shift, squares[c] = of its square; differences and squares in T.
    void (*column_moments)(std::size_t rows, std::size_t columns, std::size_t ld, const T* x, T shift, double* sums,
                           double* squares);
    // largest[c] = max over rows of |x[r, c]|; NaN may be missed.
    void (*column_max)(std::size_t rows, std::size_t columns, std::size_t ld, const T* x, T* largest);
    // x[r, c] *= factor[c]
    void (*scale_columns)(std::size_t rows, std::size_t columns, std::size_t ld, T* x, const T* factor);
    // sums[r] = sum over c of x[r, c] * weight[c], in float64.
    void (*row_dot)(std::size_t rows, std::size_t columns, std::size_t ld, const T* x, const double* weight,
                    double* sums);
    double (*flat_squares)(std::size_t count, const T* x);  // sum of the squares, squared in T
    // Sum over all entries of the square of x[r, c] less the mean of its column; means and differences in T.
    double (*apart_squares)(std::size_t rows, std::size_t columns, std::size_t ld, const T* x);
    bool (*all_finite)(std::size_t count, const T* x);
    // to[c, r] = from[r, c] * factor[c] (factor null: 1); any sizes.
    void (*transpose)(std::size_t rows, std::size_t columns, const T* from, std::size_t ld_from, T* to,
                      std::size_t ld_to, const T* factor);
    // pair[0] = sum over i < m, j < n of p[i, j] q[i, j] both_rows[i] both_columns[j];
    // pair[1] = sum of p[i, j] p_rows[i] p_columns[j]; n a multiple of kColumnMultiple.
    void (*pair_sums)(std::size_t m, std::size_t n, std::size_t ld, const T* p, const T* q, const double* both_rows,
                      const double* both_columns, const double* p_rows, const double* p_columns, double* pair);
    // out[i] = log2(squares[i]) / 2, any count; out may be squares.
    void (*log2_norms)(std::size_t count, const double* squares, double* out);
    // out[i] = 2^log2[i], 0 for -inf, to some roundings; any count, out may be log2.
    void (*powers)(std::size_t count, const double* log2, double* out);
};

// A network's few samples: tiles are samples x units here, units contiguous, row stride `ld` a multiple of
// kColumnMultiple. What lies beyond the units of a tile is zero in products and cotangents, and anything in values.
// Sums over units are taken in T over up to 16 vectors, then in float64; one entry a sample.
template <class T>
struct RowsForward {
    std::size_t samples, units, ld;
    T* z;               // in: the product; out: with the bias
    T *a, *derivative;  // out
    const T* bias;      // (ld,), zero beyond the units; or null
    const T* linear;    // (samples,): not 0 where phi is its slope at 0 to rounding; or null
    double parameter;
    double *z_squared, *a_squared;  // out
    double* on;                     // out: units with phi'(z) != 0; all where phi cannot die
    double *size, *saturated;       // out: of |phi'|, and counts as ForwardSums has them; or null both
};

template <class T>
struct EnsembleKernels {
    // to (columns, ld_to) = from^T, from (rows, columns); rows at most ld_to, zero up to there.
    void (*transpose)(std::size_t rows, std::size_t columns, const T* from, std::size_t ld_from, T* to,
                      std::size_t ld_to);
    // y (samples, n) = x (samples, k) p (k, n); n and ldp multiples of kColumnMultiple.
    void (*product)(std::size_t samples, std::size_t k, std::size_t n, const T* x, std::size_t ldx, const T* p,
                    std::size_t ldp, T* y, std::size_t ldy);
    void (*const* forward)(const RowsForward<T>&);  // by activation
    // delta *= da * factor, where delta comes as phi'(z); sums of squares of both, `da_squared` or null.
    void (*backward)(std::size_t samples, std::size_t n, std::size_t ld, T factor, const T* da, T* delta,
                     double* da_squared, double* delta_squared);
    // x = y + factor * x, and the sums of squares over the first `units` of each row.
    void (*add)(std::size_t samples, std::size_t units, std::size_t ld, T factor, const T* y, T* x, double* squared);
    double (*dot)(std::size_t n, const T* x, const T* y);  // n a multiple of kColumnMultiple, zero beyond the units
    // gram[b * samples + c], c <= b: the products of rows b and c over the first n units.
    void (*gram)(std::size_t samples, std::size_t units, std::size_t ld, const T* x, double* gram);
    // Units whose derivative is 0 in every row.
    std::size_t (*off)(std::size_t samples, std::size_t units, std::size_t ld, const T* derivative);
    void (*scale)(std::size_t n, T factor, T* x);  // of one row
};

// Element i of stream (seed, stream, kind) is a pure function of these four, the same bits on every ISA.
struct RandomKernels {
    // Standard normals: elements [16 * first_block, 16 * (first_block + blocks)).
    void (*normal)(std::uint64_t seed, std::uint32_t stream, std::uint32_t kind, std::uint64_t first_block,
                   std::size_t blocks, double* out);
    // Uniform on (0, 1), the same elements.
    void (*uniform)(std::uint64_t seed, std::uint32_t stream, std::uint32_t kind, std::uint64_t first_block,
                    std::size_t blocks, double* out);
    // The same in float32, other numbers: elements [32 * first_block, 32 * (first_block + blocks)) of standard normals
    // times factor, and of uniforms on [-1, 1] times factor.
    void (*fast_normal)(std::uint64_t seed, std::uint32_t stream, std::uint32_t kind, std::uint64_t first_block,
                        std::size_t blocks, float factor, float* out);
    void (*fast_uniform)(std::uint64_t seed, std::uint32_t stream, std::uint32_t kind, std::uint64_t first_block,
                         std::size_t blocks, float factor, float* out);
};
constexpr std::size_t kRandomBlock = 16;
constexpr std::size_t kFastRandomBlock = 32;

// Householder QR of a tile (rows, columns), rows >= columns, of magnitudes up to 1; entries between `columns` and the
// next multiple of kQrPanel are 0.
constexpr std::size_t kQrPanel = 8;  // reflectors at a time
struct QrTile {
    std::size_t rows, columns, ld;
    double *reflectors, *products, *factors;  // what `factor` leaves for `form`; qr_sizes says how many numbers
};
struct QrKernels {
    // R on and above the diagonal of a, the rest left open; a zero column has a zero on it. False, a left open, where
    // squares underflow.
    bool (*factor)(const QrTile&, double* a);
    // q (rows, columns) with a = q R.
    void (*form)(const QrTile&, double* q);
};

// The bare functions of simd/math.h on flat arrays of any length, for the tests of the mathematics.
template <class T>
struct MathFunction {
    const char* name;
    void (*evaluate)(std::size_t count, const T* x, T* y);
};
template <class T>
struct MathKernels {
    const MathFunction<T>* functions;
    std::size_t count;
};

// The limits of a core, for benchmarks.
template <class T>
struct PeakKernels {
    std::size_t operations;  // of a round; a multiplication and an addition are two
    double (*multiply_add)(std::size_t rounds, T factor, T term);
    double (*read)(std::size_t count, const T* x);
};

template <class T>
struct KernelTable {
    const GemmKernels<T>* gemm;
    const GemmKernels<T>* gram;  // for sums of pairs, which cancel: by FMA whatever the precision
    const ActivationKernels<T>* activation;
    const ReduceKernels<T>* reduce;
    const RandomKernels* random;
    const QrKernels* qr;
    const MathKernels<T>* math;
    const PanelKernels<T>* panel;
    const RowKernels<T>* rows;
    const CellKernels<T>* cells[kCellKinds];  // by CellKind
    const PeakKernels<T>* peak;
    const LayerNormKernels<T>* layer_norm;
    const EnsembleKernels<T>* ensemble;
};

// How a table leaves the file that fills it, and its names in the ISA's namespace: gemm_f32, gemm_f64.
#define GT_DECLARE_KERNELS(TABLE, NAME)   \
    extern const TABLE<float> NAME##_f32; \
    extern const TABLE<double> NAME##_f64;
#define GT_DEFINE_KERNELS(TABLE, NAME, VALUE)    \
    GT_DECLARE_KERNELS(TABLE, NAME)              \
    const TABLE<float> NAME##_f32{VALUE<float>}; \
    const TABLE<double> NAME##_f64{VALUE<double>};

// What a float32 product may leave out; named as in PyTorch. `high` differs where there is a matrix unit.
enum class Precision { highest, high };

// One ISA: its name, both tables, and the same at a lower precision where it has one (else null).
struct IsaKernels {
    const char* name;
    KernelTable<float> f32;
    KernelTable<double> f64;
    const IsaKernels* high = nullptr;

    template <class T>
    const KernelTable<T>& get() const;
};
template <>
inline const KernelTable<float>& IsaKernels::get<float>() const {
    return f32;
}
template <>
inline const KernelTable<double>& IsaKernels::get<double>() const {
    return f64;
}

}  // namespace gt
