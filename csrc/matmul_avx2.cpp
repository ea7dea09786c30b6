// The matrix kernels, avx2.
#include "format.h"
#include "vector_body.h"

namespace membound::avx2 {
namespace {
#include "lanes_avx2.inc"
#include "bits.inc"
#include "record.inc"
#include "quantize.inc"
#include "pairs_fma.inc"
#include "prepare.inc"
constexpr bool kRaisedWeights = false;  // they keep their types' offsets
#include "matmul.inc"
#include "pairs.inc"
#include "panel.inc"
#include "panel_dots.inc"
#include "matmul_table.inc"
}  // namespace
}  // namespace membound::avx2

namespace membound {
const MatmulKernels& matmul_avx2() { return avx2::kernels; }
}  // namespace membound
