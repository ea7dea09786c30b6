// The matrix kernels, portable.
#include "format.h"
#include "vector_body.h"

namespace membound::portable {
namespace {
#include "lanes_portable.inc"
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
}  // namespace membound::portable

namespace membound {
const MatmulKernels& matmul_portable() { return portable::kernels; }
}  // namespace membound
