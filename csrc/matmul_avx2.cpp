// The matrix kernels, avx2.
#include "format.h"
#include "vector_body.h"

namespace membound::avx2 {
namespace {
#include "lanes_avx2.inc"
#include "prepare.inc"
#include "matmul.inc"
const MatmulKernels kernels = {prepare_rows, multiply_matrix};
}  // namespace
}  // namespace membound::avx2

namespace membound {
const MatmulKernels& matmul_avx2() { return avx2::kernels; }
}  // namespace membound
