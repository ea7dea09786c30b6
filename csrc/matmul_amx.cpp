// The matrix kernels, AMX: those of AVX-512 for few rows and for float weights, tiles of int8 for many.
#include "format.h"
#include "vector_body.h"

namespace membound::amx {
namespace {
#include "lanes_avx512.inc"
#include "matmul.inc"

#include "panel.inc"
#include "amx.inc"

// From so many rows on, AMX is faster than vectors.
constexpr int64_t kLeastRows = 16;

void multiply_amx(const Matrix& matrix, int64_t tile_begin, int64_t tile_end, const uint8_t* activations, int64_t m,
                  float* out, int64_t ldo) {
    if (m < kLeastRows || is_float(matrix.type)) {
        matmul_avx512().multiply(matrix, tile_begin, tile_end, activations, m, out, ldo);
        return;
    }
    // Loaded and released for each product: the threads that come here need not be known, and the operating system
    // has no tiles to keep for those that have gone.
    const TileConfiguration configuration(matrix.type == Type::Q6_K ? 16 : 32);
    _tile_loadconfig(&configuration);
    multiply_by_panels<AmxUnit>(matrix, tile_begin, tile_end, activations, m, out, ldo);
    _tile_release();
}

const MatmulKernels kernels = {[](Activations kind, const float* x, int64_t ldx, int64_t m, int64_t cols,
                                  int64_t row_begin, int64_t row_end, uint8_t* buffer) {
                                   matmul_avx512().prepare(kind, x, ldx, m, cols, row_begin, row_end, buffer);
                               },
                               multiply_amx};
}  // namespace
}  // namespace membound::amx

namespace membound {
const MatmulKernels& matmul_amx() { return amx::kernels; }
}  // namespace membound
