#include "isa.h"

#include <cstdlib>
#include <stdexcept>

#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "kernels.h"

namespace membound {

namespace {

// Tile registers are a process's only after it asked for them; its threads, of before and after, then have them too.
bool may_use_tiles() {
#if defined(__x86_64__) && defined(__linux__)
    constexpr long kAsk = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM of XFEATURE_XTILEDATA
    static const bool may = syscall(SYS_arch_prctl, kAsk, kTileData) == 0;
    return may;
#else
    return false;
#endif
}

}  // namespace

const char* name(Isa isa) {
    switch (isa) {
        case Isa::portable: return "portable";
        case Isa::avx2: return "avx2";
        case Isa::avx512: return "avx512";
        case Isa::avx512_amx: return "avx512+amx";
        case Isa::amx: return "amx";
    }
    return "";
}

std::vector<Isa> supported_isas() {
    std::vector<Isa> found = {Isa::portable};
#if defined(__x86_64__)
    // The compiler's own check: CPUID, and XGETBV for the registers that the operating system saves.
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                        __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16") &&
                        __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("gfni");
    if (avx2) found.push_back(Isa::avx2);
    const bool amx = avx512 && __builtin_cpu_supports("avx512fp16") && __builtin_cpu_supports("amx-tile") &&
                     __builtin_cpu_supports("amx-int8") && __builtin_cpu_supports("amx-bf16") && may_use_tiles();
    if (avx512) found.push_back(Isa::avx512);
    if (amx) found.push_back(Isa::amx);
#endif
    return found;
}

Isa choose_isa(const std::string& wanted) {
    const char* environment = std::getenv("MEMBOUND_ISA");
    const std::string asked = !wanted.empty() ? wanted : environment ? environment : "";
    std::vector<Isa> choices = supported_isas();
    const Isa strongest = choices.back();
    if (asked.empty()) return strongest;
    if (strongest == Isa::amx) choices.push_back(Isa::avx512_amx);
    std::string names;
    for (Isa isa : choices) {
        if (asked == name(isa)) return isa;
        names += (names.empty() ? "" : ", ") + std::string(name(isa));
    }
    throw std::invalid_argument("instruction set " + asked + " is not available on this machine; it has " + names);
}

const VectorKernels& vector_kernels(Isa isa) {
#if defined(__x86_64__)
    if (isa == Isa::amx || isa == Isa::avx512_amx) return vector_amx();
    if (isa == Isa::avx512) return vector_avx512();
    if (isa == Isa::avx2) return vector_avx2();
#endif
    (void)isa;
    return vector_portable();
}

const MatmulKernels& matmul_kernels(Isa isa) {
#if defined(__x86_64__)
    if (isa == Isa::amx) return matmul_amx();
    if (isa == Isa::avx512 || isa == Isa::avx512_amx) return matmul_avx512();
    if (isa == Isa::avx2) return matmul_avx2();
#endif
    (void)isa;
    return matmul_portable();
}

}  // namespace membound
