// The vector kernels, portable.
#include "vector.h"
#include "vector_body.h"

namespace membound::portable {
#include "simd.inc"
#include "exp.inc"
#include "elementwise.inc"
#include "soften.inc"
#include "attention.inc"
#include "choose.inc"
#include "probe.inc"
#include "vector_table.inc"
}  // namespace membound::portable

namespace membound {
const VectorKernels& vector_portable() { return portable::table; }
}  // namespace membound
