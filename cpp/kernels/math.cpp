// The functions of simd/math.h on flat arrays: what the accuracy tests measure, on every ISA in one process.
#include "simd/math.h"

#include "kernels/kernel_table.h"
#include "simd/map.h"

namespace gt {
namespace GT_ISA {
namespace {

#define GT_MATH_FUNCTION(NAME)                                                              \
    template <class T>                                                                      \
    void evaluate_##NAME(std::size_t count, const T* x, T* y) {                             \
        for_each_vector(count, x, T(0), [&](Vec<T> v, std::size_t first) GT_INLINE_LAMBDA { \
            store_vector<T>(count, y, NAME(v), first);                                      \
        });                                                                                 \
    }
GT_MATH_FUNCTION(exp)
GT_MATH_FUNCTION(expm1)
GT_MATH_FUNCTION(log)
GT_MATH_FUNCTION(log1p)
GT_MATH_FUNCTION(log2)
GT_MATH_FUNCTION(tanh)
GT_MATH_FUNCTION(sigmoid)
GT_MATH_FUNCTION(erf)
GT_MATH_FUNCTION(erfc)
#undef GT_MATH_FUNCTION

template <class T>
constexpr MathFunction<T> functions[] = {
    {"exp", evaluate_exp<T>},         {"expm1", evaluate_expm1<T>}, {"log", evaluate_log<T>},
    {"log1p", evaluate_log1p<T>},     {"log2", evaluate_log2<T>},   {"tanh", evaluate_tanh<T>},
    {"sigmoid", evaluate_sigmoid<T>}, {"erf", evaluate_erf<T>},     {"erfc", evaluate_erfc<T>},
};

template <class T>
constexpr MathKernels<T> table{.functions = functions<T>, .count = sizeof functions<T> / sizeof functions<T>[0]};

}  // namespace

GT_DEFINE_KERNELS(MathKernels, math, table)

}  // namespace GT_ISA
}  // namespace gt
