// What an op must know of an activation; the mathematics is in kernels/activation.h.
#pragma once

namespace gt {

// How phi behaves at 0, which decides whether a sample may keep its exponent in the forward pass.
enum class NearZero {
    homogeneous,  // phi(c z) = c phi(z) for every c > 0
    linear,       // phi(0) = 0, and phi is its slopes to rounding in some neighbourhood
    offset        // phi(0) != 0, and phi is that to rounding in some neighbourhood
};

struct Slopes {
    double above, below;
};
struct PerFormat {
    double f32, f64;
};

struct ActivationInfo {
    const char* name;
    double derivative_sup;  // sup |phi'|
    NearZero near_zero;
    Slopes slopes;                         // phi' at 0+ and 0-; used where near_zero is not homogeneous
    PerFormat linear_below_log2 = {0, 0};  // phi and phi' are as near_zero says for |z| under 2^this
    bool can_die = false;                  // phi' is 0 on a range, mathematically
    const char* parameter = nullptr;       // what its parameter is called, if it has one,
    double usual = 0;                      // and the value that the figures above are for
    bool fades = false;                    // phi goes to 0 at -infinity and is not 0: has a log_value
};

// An activation's parameter is 0 or within these: beyond, its products would leave float32.
constexpr double kLeastParameter = 1e-20, kMostParameter = 1e20;

}  // namespace gt
