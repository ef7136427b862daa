#include "isa/dispatch.h"

#include <atomic>

#include "isa/cpu_features.h"

// isa_list.inc has one GT_ISA_ENTRY(name) for each ISA that was compiled (isa/targets.cmake), best first.
#define GT_ISA_ENTRY(NAME)           \
    namespace gt {                   \
    namespace NAME {                 \
    extern const IsaKernels kernels; \
    }                                \
    }
#include "isa_list.inc"
#undef GT_ISA_ENTRY

namespace gt {
namespace {

constexpr const IsaKernels* kCompiled[] = {
#define GT_ISA_ENTRY(NAME) &NAME::kernels,
#include "isa_list.inc"
#undef GT_ISA_ENTRY
};

const IsaKernels* best() {
    for (const IsaKernels* isa : kCompiled)
        if (cpu_runs(isa->name)) return isa;
    return nullptr;  // never: portable is always compiled and always runs
}

std::atomic<const IsaKernels*> g_active{nullptr};

}  // namespace

std::vector<std::string> compiled_isas() {
    std::vector<std::string> names;
    for (const IsaKernels* isa : kCompiled) names.emplace_back(isa->name);
    return names;
}

std::vector<std::string> supported_isas() {
    std::vector<std::string> names;
    for (const IsaKernels* isa : kCompiled)
        if (cpu_runs(isa->name)) names.emplace_back(isa->name);
    return names;
}

const IsaKernels& active_isa() {
    const IsaKernels* active = g_active.load(std::memory_order_acquire);
    if (active == nullptr) {
        active = best();
        g_active.store(active, std::memory_order_release);
    }
    return *active;
}

bool use_isa(const std::string& name) {
    for (const IsaKernels* isa : kCompiled)
        if (name == isa->name && cpu_runs(isa->name)) {
            g_active.store(isa, std::memory_order_release);
            return true;
        }
    return false;
}

}  // namespace gt
