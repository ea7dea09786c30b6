// The matrix kernels, amx: those of avx512, but products of many rows, and all with BF16 weights, on tile registers.
#include "format.h"
#include "tile_registers.h"
#include "vector_body.h"

namespace membound::amx {
namespace {
#include "lanes_avx512.inc"
#include "record.inc"
#include "quantize_avx512.inc"
#include "quantize_amx.inc"
#include "prepare.inc"
#include "matmul.inc"
#include "panel.inc"
#include "panel_amx.inc"
#include "pairs_amx.inc"

// With fewer rows, making bf16s of the weights takes too long.
constexpr int64_t kLeastRows = 32;

void prepare_rows(Activations kind, const float* x, int64_t ldx, int64_t m, int64_t cols, Range rows, Range columns,
                  uint8_t* buffer) {
    if (kind == Activations::quantized && m >= kLeastRows) {
        make_records<Quantizing<Bf16Row>>(kBf16RecordRowBytes, x, ldx, m, cols, rows, columns, buffer);
    } else {
        matmul_avx512().prepare(kind, x, ldx, m, cols, rows, columns, buffer);
    }
}

void multiply_matrix(const Matrix& matrix, int64_t tile_begin, int64_t tile_end, const uint8_t* activations, int64_t m,
                     float* out, int64_t ldo) {
    const bool on_tiles = !is_float(matrix.type) && m >= kLeastRows;
    const auto product = matrix.type == Type::BF16 ? multiply_pairs
                         : on_tiles                ? multiply_by_panels<AmxPanel>
                                                   : matmul_avx512().multiply;
    product(matrix, tile_begin, tile_end, activations, m, out, ldo);
}

const MatmulKernels kernels = {prepare_rows, multiply_matrix};
}  // namespace
}  // namespace membound::amx

namespace membound {
const MatmulKernels& matmul_amx() { return amx::kernels; }
}  // namespace membound
