// The vector kernels, amx: those of avx512, but attention to BF16 keys, and what tile registers multiply at most.
#include "tile_registers.h"
#include "vector.h"
#include "vector_body.h"

namespace membound::amx {
namespace {
#include "simd.inc"
#include "exp.inc"
#include "soften.inc"
#include "attention_amx.inc"

// Four products of whole tile registers at a time, of `depth` columns.
template <int depth, typename Multiply>
int64_t multiply_tiles(int64_t rounds, const Multiply& multiply) {
    const TileRegisters registers(64);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(6);
    for (int64_t round = 0; round < rounds; ++round) multiply();
    return rounds * 4 * 2 * 16 * 16 * depth;
}

int64_t multiply_bf16(int64_t rounds) {
    return multiply_tiles<32>(rounds, [] {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 6);
        _tile_dpbf16ps(2, 4, 6);
        _tile_dpbf16ps(3, 4, 6);
    });
}

int64_t multiply_int8(int64_t rounds) {
    return multiply_tiles<64>(rounds, [] {
        _tile_dpbusd(0, 4, 6);
        _tile_dpbusd(1, 4, 6);
        _tile_dpbusd(2, 4, 6);
        _tile_dpbusd(3, 4, 6);
    });
}

VectorKernels with_tiles(VectorKernels kernels) {
    kernels.attend = attend;
    kernels.multiply_bf16 = multiply_bf16;
    kernels.multiply_int8 = multiply_int8;
    return kernels;
}

}  // namespace
}  // namespace membound::amx

namespace membound {
const VectorKernels& vector_amx() {
    static const VectorKernels table = amx::with_tiles(vector_avx512());
    return table;
}
}  // namespace membound
