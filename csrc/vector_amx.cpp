// The vector kernels, amx: those of avx512, and what tile registers multiply at most.
#include "vector.h"
#include "vector_body.h"

namespace membound::amx {
#include "simd.inc"
#include "exp.inc"
#include "elementwise.inc"
#include "attention.inc"
#include "choose.inc"
#include "probe.inc"
#include "vector_table.inc"
}  // namespace membound::amx

namespace membound {
const VectorKernels& vector_amx() { return amx::table; }
}  // namespace membound
