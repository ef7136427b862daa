// The Jacobian of a stack between two layers as a chain of factors: W of the last layer, before it da_l / da_{l-1} of
// each layer, D W with D = diag(phi'), with a skip connection 1 + s D W. A normalised layer's W is followed by the
// normalisation's own Jacobian,
//
//   diag(w) (1 - 1 1^T / n) (1 - (1 - lambda) u u^T) / sigma,  u the direction of the centred z, lambda = eps /
//   sigma^2,
//
// which takes away the mean: it goes through n - 1 coordinates of differences, so that its zero is one of the chain.
// What it does to u is a factor of its own, H diag(lambda, 1, ..., 1) H with the reflection H that turns u to the first
// axis: as a difference lambda would be lost to rounding where z is large.
#include "ops/stack_spectrum.h"

#include <algorithm>
#include <cmath>

#include "ops/spectrum.h"

namespace gt {
namespace {

class JacobianChain {
  public:
    JacobianChain(const IsaKernels& isa, const std::vector<DenseLayer<double>>& layers, const StackJacobians& at,
                  std::size_t sample)
        : layers_(layers), at_(at), sample_(sample), product_(isa) {}

    std::vector<Matrix> between(std::size_t first, std::size_t last) {
        for (std::size_t l = first; l + 1 < last; ++l) add(l);
        chain_.push_back(weight(layers_[last - 1]));
        return std::move(chain_);
    }

  private:
    using Layer = DenseLayer<double>;

    static Matrix weight(const Layer& layer) {
        Matrix w(layer.outputs, layer.inputs);
        for (std::size_t i = 0; i < w.rows; ++i) std::copy_n(layer.weight + i * w.columns, w.columns, w.row(i));
        w.normalise();
        return w;
    }

    void add(std::size_t l) {
        const Layer& layer = layers_[l];
        const KeptRows<double>& kept = at_.derivatives[l];
        const std::size_t n = layer.outputs;
        std::vector<double> slope(kept.mantissa + sample_ * n, kept.mantissa + (sample_ + 1) * n);
        const auto exponent = static_cast<double>(kept.exponent[sample_]);
        const std::size_t before = chain_.size();
        if (layer.normalised) {
            for (std::size_t i = 0; i < n && layer.norm_weight; ++i) slope[i] *= layer.norm_weight[i];
            normalise(layer, input(l));
        } else {
            chain_.push_back(weight(layer));
        }
        multiply_rows(slope, exponent);
        if (layer.residual != 0) join(before, layer.residual);
    }

    // diag(slope) in front of the last factor: beside it where QR of the transposed product would lose the small ones.
    void multiply_rows(const std::vector<double>& slope, double exponent) {
        constexpr double kFar = 0x1p-10;
        double least = 1;
        for (const double s : slope)
            if (s != 0) least = std::min(least, std::fabs(s));
        if (least < kFar) {
            Matrix diagonal(slope.size(), slope.size());
            for (std::size_t i = 0; i < slope.size(); ++i) diagonal.row(i)[i] = slope[i];
            chain_.push_back(std::move(diagonal));
        } else {
            Matrix& last = chain_.back();
            for (std::size_t i = 0; i < last.rows; ++i)
                for (std::size_t j = 0; j < last.columns; ++j) last.row(i)[j] *= slope[i];
        }
        chain_.back().exponent += exponent;
    }

    // The factors from `before` on become 1 + scale times their product.
    void join(std::size_t before, double scale) {
        Matrix branch = std::move(chain_[before]);
        for (std::size_t k = before + 1; k < chain_.size(); ++k) {
            Matrix next(chain_[k].rows, branch.columns);
            product_.multiply(chain_[k], branch, &next);
            branch = std::move(next);
        }
        for (std::size_t i = 0; i < branch.x.size(); ++i) branch.x[i] *= scale;
        branch.normalise();
        const double top = std::max(branch.exponent, 0.0);
        shift(branch.x.size(), branch.x.data(), branch.exponent - top);
        for (std::size_t i = 0; i < branch.rows; ++i) branch.row(i)[i] += scale_by(1, -top);
        branch.exponent = top;
        chain_.erase(chain_.begin() + static_cast<std::ptrdiff_t>(before), chain_.end());
        chain_.push_back(std::move(branch));
    }

    struct Row {
        const double* x;
        double exponent;
    };
    Row input(std::size_t l) const {
        if (l == 0) return {at_.x + sample_ * layers_[0].inputs, 0};
        const KeptRows<double>& a = at_.activations[l - 1];
        return {a.mantissa + sample_ * layers_[l].inputs, static_cast<double>(a.exponent[sample_])};
    }

    // An orthonormal basis (n, n - 1) of what has mean 0 (Helmert's).
    static Matrix differences(std::size_t n) {
        Matrix out(n, n - 1);
        for (std::size_t j = 1; j < n; ++j) {
            for (std::size_t i = 0; i < j; ++i) out.row(i)[j - 1] = helmert(j);
            out.row(j)[j - 1] = -helmert(j) * static_cast<double>(j);
        }
        return out;
    }
    static double helmert(std::size_t j) { return 1 / std::sqrt(static_cast<double>(j) * static_cast<double>(j + 1)); }

    // Rows x in that basis: of (n, columns) the (n - 1, columns).
    static Matrix in_differences(const Matrix& x) {
        Matrix out(x.rows - 1, x.columns);
        std::vector<double> sum(x.columns, 0.0);  // of the rows above
        for (std::size_t i = 0; i < x.rows; ++i)
            for (std::size_t c = 0; c < x.columns; ++c) {
                if (i > 0) out.row(i - 1)[c] = helmert(i) * (sum[c] - static_cast<double>(i) * x.row(i)[c]);
                sum[c] += x.row(i)[c];
            }
        out.exponent = x.exponent;
        return out;
    }

    // W and the normalisation's Jacobian; z = W a + b, in units of 2^e that neither z nor epsilon is large in.
    void normalise(const Layer& layer, const Row& a) {
        const std::size_t n = layer.outputs;
        const Matrix w = weight(layer);
        const double own = a.exponent + w.exponent, e = std::max(own, 0.0);
        Matrix z(n, 1);
        for (std::size_t i = 0; i < n; ++i) {
            double sum = 0;
            for (std::size_t j = 0; j < layer.inputs; ++j) sum += w.row(i)[j] * a.x[j];
            z.row(i)[0] = scale_by(sum, own - e) + (layer.bias ? scale_by(layer.bias[i], -e) : 0);
        }
        Matrix u = in_differences(z), first = in_differences(w), last = differences(n);
        double squares = 0;
        for (std::size_t i = 0; i < u.rows; ++i) squares += u.row(i)[0] * u.row(i)[0];
        const double epsilon = scale_by(kLayerNormEpsilon, -2 * e),
                     variance = squares / static_cast<double>(n) + epsilon;
        std::vector<double> diagonal(n - 1, 1 / std::sqrt(variance));
        if (n > 1) diagonal[0] *= epsilon / variance;
        const std::vector<double> normal = reflection(u);
        reflect_columns(normal, &first);
        reflect_rows(normal, &last);
        chain_.push_back(std::move(first));
        multiply_rows(diagonal, -e);
        chain_.push_back(std::move(last));
    }

    // v with 1 - 2 v v^T / |v|^2 turning u to the first axis, of length sqrt(2); zeros where u is.
    static std::vector<double> reflection(const Matrix& u) {
        std::vector<double> v(u.rows);
        for (std::size_t i = 0; i < u.rows; ++i) v[i] = u.row(i)[0];
        take_exponent(v.size(), v.data());
        double squares = 0;
        for (const double x : v) squares += x * x;
        if (squares == 0) return v;
        v[0] += std::copysign(std::sqrt(squares), v[0]);
        squares = 0;
        for (const double x : v) squares += x * x;
        for (double& x : v) x *= std::sqrt(2 / squares);
        return v;
    }
    static void reflect_columns(const std::vector<double>& v, Matrix* x) {
        for (std::size_t c = 0; c < x->columns; ++c) {
            double along = 0;
            for (std::size_t i = 0; i < x->rows; ++i) along += v[i] * x->row(i)[c];
            for (std::size_t i = 0; i < x->rows; ++i) x->row(i)[c] -= along * v[i];
        }
    }
    static void reflect_rows(const std::vector<double>& v, Matrix* x) {
        for (std::size_t i = 0; i < x->rows; ++i) {
            double along = 0;
            for (std::size_t c = 0; c < x->columns; ++c) along += v[c] * x->row(i)[c];
            for (std::size_t c = 0; c < x->columns; ++c) x->row(i)[c] -= along * v[c];
        }
    }

    const std::vector<Layer>& layers_;
    const StackJacobians& at_;
    std::size_t sample_;
    MatrixProduct product_;
    std::vector<Matrix> chain_;
};

}  // namespace

void stack_spectrum(const IsaKernels& isa, const std::vector<DenseLayer<double>>& layers, const StackJacobians& at,
                    std::size_t first, std::size_t last, double* log2, Interrupt& interrupt) {
    const std::size_t count = std::min(layers[first].inputs, layers[last - 1].outputs);
    double operations = 0;
    for (std::size_t l = first; l < last; ++l)
        operations += 30.0 * static_cast<double>(layers[l].inputs) * static_cast<double>(layers[l].outputs) *
                      static_cast<double>(count);
    parallel_for({at.batch, operations * static_cast<double>(at.batch)}, [&](std::size_t sample, std::size_t worker) {
        if (interrupt.stopped()) return;
        std::vector<Matrix> chain = JacobianChain(isa, layers, at, sample).between(first, last);
        log2_singular_values(isa, &chain, log2 + sample * count, interrupt, worker);
    });
}

}  // namespace gt
