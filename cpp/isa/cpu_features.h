// What this CPU and operating system can run. Our own CPUID code: the names that __builtin_cpu_supports takes differ
// between GCC and Clang.
#pragma once

namespace gt {

// Whether code compiled for the ISA of this name (isa/targets.cmake) runs here.
bool cpu_runs(const char* isa);

}  // namespace gt
