#include "isa/dispatch.h"

#include <atomic>

#include "isa/cpu_features.h"

// isa_list.inc has one line for each ISA that was compiled (isa/targets.cmake), best first; behind them those for
// tests.
#define GT_ISA_ENTRY(NAME)           \
    namespace gt {                   \
    namespace NAME {                 \
    extern const IsaKernels kernels; \
    }                                \
    }
#define GT_ISA_EXTENSION(NAME, BASE)                            \
    namespace gt {                                              \
    namespace NAME {                                            \
    extern const GemmKernels<float> gemm_highest, gemm_high;    \
    extern const PanelKernels<float> panel_highest, panel_high; \
    }                                                           \
    }
#define GT_ISA_FOR_TESTS(NAME, BASE) GT_ISA_EXTENSION(NAME, BASE)
#include "isa_list.inc"
#undef GT_ISA_ENTRY
#undef GT_ISA_EXTENSION
#undef GT_ISA_FOR_TESTS

namespace gt {
namespace {

// Another ISA's kernels with float32 products of its own.
[[maybe_unused]] IsaKernels extended(const char* name, const IsaKernels& base, const GemmKernels<float>& gemm,
                                     const PanelKernels<float>& panel, const IsaKernels* high) {
    IsaKernels kernels = base;
    kernels.name = name;
    kernels.f32.gemm = &gemm;
    kernels.f32.panel = &panel;
    kernels.high = high;
    return kernels;
}

#define GT_ISA_ENTRY(NAME)
#define GT_ISA_EXTENSION(NAME, BASE)                                                                               \
    const IsaKernels* NAME##_kernels() {                                                                           \
        static const IsaKernels high = extended(#NAME, BASE::kernels, NAME::gemm_high, NAME::panel_high, nullptr); \
        static const IsaKernels highest =                                                                          \
            extended(#NAME, BASE::kernels, NAME::gemm_highest, NAME::panel_highest, &high);                        \
        return &highest;                                                                                           \
    }
#define GT_ISA_FOR_TESTS(NAME, BASE) GT_ISA_EXTENSION(NAME, BASE)
#include "isa_list.inc"
#undef GT_ISA_ENTRY
#undef GT_ISA_EXTENSION
#undef GT_ISA_FOR_TESTS

const std::vector<const IsaKernels*>& compiled() {
    static const std::vector<const IsaKernels*> list{
#define GT_ISA_ENTRY(NAME) &NAME::kernels,
#define GT_ISA_EXTENSION(NAME, BASE) NAME##_kernels(),
#define GT_ISA_FOR_TESTS(NAME, BASE)
#include "isa_list.inc"
#undef GT_ISA_ENTRY
#undef GT_ISA_EXTENSION
#undef GT_ISA_FOR_TESTS
    };
    return list;
}

const std::vector<const IsaKernels*>& for_tests() {
    static const std::vector<const IsaKernels*> list{
#define GT_ISA_ENTRY(NAME)
#define GT_ISA_EXTENSION(NAME, BASE)
#define GT_ISA_FOR_TESTS(NAME, BASE) NAME##_kernels(),
#include "isa_list.inc"
#undef GT_ISA_ENTRY
#undef GT_ISA_EXTENSION
#undef GT_ISA_FOR_TESTS
    };
    return list;
}

std::vector<std::string> names_of(const std::vector<const IsaKernels*>& list) {
    std::vector<std::string> names;
    for (const IsaKernels* isa : list) names.emplace_back(isa->name);
    return names;
}

std::vector<std::string> running(const std::vector<const IsaKernels*>& list) {
    std::vector<std::string> names;
    for (const IsaKernels* isa : list)
        if (cpu_runs(isa->name)) names.emplace_back(isa->name);
    return names;
}

const IsaKernels* best() {
    for (const IsaKernels* isa : compiled())
        if (cpu_runs(isa->name)) return isa;
    return nullptr;  // never: portable is always compiled and always runs
}

std::atomic<const IsaKernels*> g_active{nullptr};
std::atomic<Precision> g_precision{Precision::highest};

}  // namespace

std::vector<std::string> compiled_isas() { return names_of(compiled()); }
std::vector<std::string> supported_isas() { return running(compiled()); }
std::vector<std::string> isas_for_tests() { return running(for_tests()); }

const IsaKernels& active_isa() {
    const IsaKernels* active = g_active.load(std::memory_order_acquire);
    if (active == nullptr) {
        active = best();
        g_active.store(active, std::memory_order_release);
    }
    return precision() == Precision::high && active->high ? *active->high : *active;
}

Precision precision() { return g_precision.load(std::memory_order_relaxed); }
void set_precision(Precision precision) { g_precision.store(precision, std::memory_order_relaxed); }

bool use_isa(const std::string& name) {
    for (const auto* list : {&compiled(), &for_tests()})
        for (const IsaKernels* isa : *list)
            if (name == isa->name && cpu_runs(isa->name)) {
                g_active.store(isa, std::memory_order_release);
                return true;
            }
    return false;
}

}  // namespace gt
