// The matrix kernels, amx: all on tile registers but those with F32 and F16 weights, which are avx512's.
#include <utility>

#include "format.h"
#include "tile_registers.h"
#include "vector_body.h"

namespace membound::amx {
namespace {
#include "lanes_avx512.inc"
#include "prepare.inc"
constexpr bool kRaisedWeights = false;  // they keep their types' offsets
#include "matmul.inc"
#include "unpack_amx.inc"
#include "pairs_amx.inc"

void prepare_rows(Activations kind, const float* x, int64_t ldx, int64_t m, int64_t cols, Range rows, Range columns,
                  uint8_t* buffer) {
    if (kind == Activations::quantized) make_records<RoundingQuads>(kPairsBytes, group_rows(m), x, ldx, m, cols, rows, columns, buffer);
    else matmul_avx512().prepare(kind, x, ldx, m, cols, rows, columns, buffer);
}

void multiply_matrix(const Matrix& matrix, int64_t tile_begin, int64_t tile_end, const uint8_t* activations, int64_t m,
                     bool fresh, float* out, int64_t ldo, const Next& next) {
    const bool on_tiles = activations_of(matrix.type) != Activations::floats;
    if (on_tiles) multiply_pairs(matrix, tile_begin, tile_end, activations, m, out, ldo);
    else matmul_avx512().multiply(matrix, tile_begin, tile_end, activations, m, fresh, out, ldo, next);
}

const MatmulKernels kernels = {prepare_rows, multiply_matrix};
}  // namespace
}  // namespace membound::amx

namespace membound {
const MatmulKernels& matmul_amx() { return amx::kernels; }
}  // namespace membound
