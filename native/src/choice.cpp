#include "choice.hpp"

#include <atomic>

namespace covey {

namespace {

std::vector<const Kernels *> found() {
    std::vector<const Kernels *> all{&portable::kernels};
#ifdef COVEY_HAS_neon
    all.push_back(&neon::kernels); // Every 64-bit arm has it.
#endif
#if defined(COVEY_HAS_avx2) || defined(COVEY_HAS_avx512)
    __builtin_cpu_init();
    const bool bits = __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
#endif
#ifdef COVEY_HAS_avx2
    if (bits && __builtin_cpu_supports("avx2")) all.push_back(&avx2::kernels);
#endif
#ifdef COVEY_HAS_avx512
    if (bits && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
        all.push_back(&avx512::kernels);
    }
#endif
    return all;
}

const std::vector<const Kernels *> &usable() {
    static const auto all = found();
    return all;
}

std::atomic<const Kernels *> &chosen() {
    static std::atomic<const Kernels *> kernels{usable().back()};
    return kernels;
}

} // namespace

std::vector<std::string> supported() {
    std::vector<std::string> names;
    for (const Kernels *each : usable()) names.emplace_back(each->isa);
    return names;
}

bool use(const std::string &isa) {
    for (const Kernels *each : usable()) {
        if (isa == each->isa) {
            chosen() = each;
            return true;
        }
    }
    return false;
}

const Kernels &kernels() { return *chosen().load(); }

} // namespace covey
