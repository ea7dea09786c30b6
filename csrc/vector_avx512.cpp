// The vector kernels, avx512.
#include "vector.h"
#include "vector_body.h"

namespace membound::avx512 {
#include "simd.inc"
#include "exp.inc"
#include "elementwise.inc"
#include "soften.inc"
#include "attention.inc"
#include "choose.inc"
#include "probe.inc"
#include "vector_table.inc"
}  // namespace membound::avx512

namespace membound {
const VectorKernels& vector_avx512() { return avx512::table; }
}  // namespace membound
