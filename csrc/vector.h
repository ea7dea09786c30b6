// The kernels beside the matrix products: norms, rotations, activations, attention, sampling, and the loops of the
// probe. Written once in *.inc over the vectors of simd.inc, compiled per instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

namespace membound {

struct VectorKernels {
    // Roofs. Sums all bytes once, in four streams; the result only keeps the loop from being optimised away.
    uint64_t (*read)(const uint8_t* bytes, size_t size);
    // Runs `rounds` rounds of independent multiply-adds in registers; returns the operations done (a multiply and an
    // add are two), or 0 where the instruction set has none for that precision.
    int64_t (*multiply_fp32)(int64_t rounds);
    int64_t (*multiply_bf16)(int64_t rounds);
    int64_t (*multiply_int8)(int64_t rounds);
};

const VectorKernels& vector_portable();
const VectorKernels& vector_avx2();
const VectorKernels& vector_avx512();

}  // namespace membound
