// The matrix kernels, avx512.
#include "format.h"
#include "vector_body.h"

namespace membound::avx512 {
namespace {
#include "lanes_avx512.inc"
#include "prepare.inc"
#include "matmul.inc"
const MatmulKernels kernels = {prepare_rows, multiply_matrix};
}  // namespace
}  // namespace membound::avx512

namespace membound {
const MatmulKernels& matmul_avx512() { return avx512::kernels; }
}  // namespace membound
