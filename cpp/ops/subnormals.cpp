#include "ops/subnormals.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace gt {

#if defined(__x86_64__)
SubnormalMode::SubnormalMode(Subnormals mode) : saved_(_mm_getcsr()) {
    constexpr unsigned kFlushToZero = 1u << 15, kDenormalsAreZero = 1u << 6, kBoth = kFlushToZero | kDenormalsAreZero;
    const auto now = static_cast<unsigned>(saved_);
    _mm_setcsr(mode == Subnormals::flush ? now | kBoth : now & ~kBoth);
}
SubnormalMode::~SubnormalMode() { _mm_setcsr(static_cast<unsigned>(saved_)); }
#elif defined(__aarch64__)
SubnormalMode::SubnormalMode(Subnormals mode) {
    constexpr unsigned long long kFlushToZero = 1ull << 24;
    __asm__ __volatile__("mrs %0, fpcr" : "=r"(saved_));
    const unsigned long long now = mode == Subnormals::flush ? saved_ | kFlushToZero : saved_ & ~kFlushToZero;
    __asm__ __volatile__("msr fpcr, %0" : : "r"(now));
}
SubnormalMode::~SubnormalMode() { __asm__ __volatile__("msr fpcr, %0" : : "r"(saved_)); }
#else
SubnormalMode::SubnormalMode(Subnormals) : saved_(0) {}
SubnormalMode::~SubnormalMode() {}
#endif

}  // namespace gt
