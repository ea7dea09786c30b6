// The matrix kernels, amx: those of avx512 with products of many rows on tile registers.
#include "format.h"
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
#include "panel_dots.inc"
#include "panel_amx.inc"
#include "matmul_table.inc"
}  // namespace
}  // namespace membound::amx

namespace membound {
const MatmulKernels& matmul_amx() { return amx::kernels; }
}  // namespace membound
