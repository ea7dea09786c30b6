// The matrix kernels, avx512.
#include "format.h"
#include "vector_body.h"

namespace membound::avx512 {
namespace {
#include "lanes_avx512.inc"
#include "record.inc"
#include "quantize_avx512.inc"
#include "prepare.inc"
// Weights of five, six and eight bits get an offset of 128.
constexpr bool kRaisedWeights = true;
#include "matmul.inc"
#include "pairs.inc"
#include "panel.inc"
#include "panel_dots.inc"
#include "matmul_table.inc"
}  // namespace
}  // namespace membound::avx512

namespace membound {
const MatmulKernels& matmul_avx512() { return avx512::kernels; }
}  // namespace membound
