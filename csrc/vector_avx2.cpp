// The vector kernels, avx2.
#include "vector.h"
#include "vector_body.h"

namespace membound::avx2 {
#include "simd.inc"
#include "exp.inc"
#include "elementwise.inc"
#include "soften.inc"
#include "attention.inc"
#include "choose.inc"
#include "probe.inc"
#include "vector_table.inc"
}  // namespace membound::avx2

namespace membound {
const VectorKernels& vector_avx2() { return avx2::table; }
}  // namespace membound
