// Which instruction set the kernels use: the strongest that the machine has, or what the environment says.
#pragma once

#include <string>
#include <vector>

#include "vector.h"

namespace membound {

// avx512_amx: products on AVX-512, attention to BF16 keys on tile registers.
enum class Isa { portable, avx2, avx512, avx512_amx, amx };

const char* name(Isa isa);

// What this processor and its operating system run, weakest first; portable always, no mixtures.
std::vector<Isa> supported_isas();

// `wanted` is a name, or empty for the environment variable MEMBOUND_ISA, or the strongest there is. Throws
// std::invalid_argument for a name that is unknown or that this machine lacks.
Isa choose_isa(const std::string& wanted = "");

const VectorKernels& vector_kernels(Isa isa);

}  // namespace membound
