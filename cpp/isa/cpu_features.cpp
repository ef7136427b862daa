#include "isa/cpu_features.h"

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace gt {
namespace {

#if defined(__x86_64__)

struct Registers {
    std::uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(std::uint32_t leaf, std::uint32_t subleaf) {
    Registers r;
    if (!__get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx)) return Registers{};
    return r;
}

// XCR0: which register files the operating system saves at a context switch.
std::uint64_t saved_registers() {
    constexpr std::uint32_t kOsxsave = 1u << 27;
    if (!(cpuid(1, 0).ecx & kOsxsave)) return 0;
    std::uint32_t low = 0, high = 0;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (static_cast<std::uint64_t>(high) << 32) | low;
}

bool has(std::uint64_t value, std::uint64_t wanted) { return (value & wanted) == wanted; }

// Bits by the Intel SDM, volume 2A, CPUID: leaf 1 ecx FMA 12, F16C 29; leaf 7 ebx BMI1 3, AVX2 5, BMI2 8.
bool runs_avx2() {
    constexpr std::uint64_t kYmmState = 0x6;
    return has(saved_registers(), kYmmState) && has(cpuid(1, 0).ecx, (1u << 12) | (1u << 29)) &&
           has(cpuid(7, 0).ebx, (1u << 3) | (1u << 5) | (1u << 8));
}

// Leaf 7 ebx: AVX512F 16, DQ 17, CD 28, BW 30, VL 31.
bool runs_avx512() {
    constexpr std::uint64_t kZmmState = 0xe6;
    return runs_avx2() && has(saved_registers(), kZmmState) &&
           has(cpuid(7, 0).ebx, (1u << 16) | (1u << 17) | (1u << 28) | (1u << 30) | (1u << 31));
}

// Linux gives a process the tile registers when it asks: arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA).
bool may_use_tiles() {
#if defined(__linux__)
    constexpr long kRequestPermission = 0x1023, kTileData = 18;
    static const bool granted = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
    return granted;
#else
    return false;
#endif
}

// Leaf 7 edx: AMX-BF16 22, AMX-TILE 24.
bool runs_amx() {
    constexpr std::uint64_t kTileState = 0x60000;
    return runs_avx512() && has(saved_registers(), kTileState) && has(cpuid(7, 0).edx, (1u << 22) | (1u << 24)) &&
           may_use_tiles();
}

#else

bool runs_avx2() { return false; }
bool runs_avx512() { return false; }
bool runs_amx() { return false; }

#endif

}  // namespace

bool cpu_runs(const char* isa) {
    if (std::strcmp(isa, "portable") == 0) return true;
    if (std::strcmp(isa, "avx2") == 0) return runs_avx2();
    if (std::strcmp(isa, "avx512") == 0) return runs_avx512();
    if (std::strcmp(isa, "amx") == 0) return runs_amx();
    if (std::strcmp(isa, "amx_emulated") == 0) return true;
    if (std::strcmp(isa, "amx_emulated_avx512") == 0) return runs_avx512();
    return false;
}

}  // namespace gt
