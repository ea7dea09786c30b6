// Matrix products with the weights of a GGUF file: how they are packed, and the kernels per instruction set.
//
// Weights are packed once into tiles of 16 rows; activations are quantized once per step and shared by all matrices of
// one kind: to integers with a scale per 32 columns (format.h). Every output element is the same sequence of float
// operations whatever the number of rows, threads or tiles: integer dot products per 32 columns (16 in Q6_K) are exact,
// and are added by fused multiply-adds in column order. So batching never changes a token. Nor does the instruction set,
// with two exceptions. BF16 weights: their products are added as the set's instructions for bf16 add them, or, where it has
// none, by fused multiply-adds. Quantized weights on AMX: they are rounded to bf16, scales included, as are activations, and
// the instruction for tiles adds products of 32 columns at a time, in its order.
#pragma once

#include <cstddef>
#include <cstdint>

#include "range.h"

namespace membound {

enum class Isa;

// The ids that GGUF files use.
enum class Type : uint32_t {
    F32 = 0, F16 = 1, Q4_0 = 2, Q4_1 = 3, Q5_0 = 6, Q5_1 = 7, Q8_0 = 8, Q4_K = 12, Q5_K = 13, Q6_K = 14, BF16 = 30
};

// y = x W^T with W (rows, cols), packed, 64-byte aligned.
struct Matrix {
    Type type;
    int64_t rows, cols;
    const uint8_t* data;
};

// Activations are quantized for integer weights (on AMX rounded to bf16 as well, in another order of columns), rounded to
// bf16 for BF16 weights, and stay float32 for F16 and F32.
enum class Activations { quantized, floats, bf16 };
constexpr Activations kActivations[] = {Activations::quantized, Activations::floats, Activations::bf16};

constexpr int64_t kTileRows = 16;

static inline int64_t tiles(int64_t rows) { return (rows + kTileRows - 1) / kTileRows; }

// Throws std::invalid_argument for an id that is none of `Type`.
Type checked_type(uint32_t id);
const char* name(Type type);
Activations activations_of(Type type);

// Bytes of one row as the file has it. Throws std::invalid_argument if `cols` is no multiple of the type's block.
size_t file_row_bytes(Type type, int64_t cols);

// Bytes of the packed matrix; a multiple of 64. A tile takes packed_bytes(type, 16, cols).
size_t packed_bytes(Type type, int64_t rows, int64_t cols);

// Packs the tiles [tile_begin, tile_end) of a matrix whose rows stand one after the other in `file`. `out` is where
// the whole packed matrix begins. Rows beyond `rows` become zero.
void pack(Type type, const uint8_t* file, int64_t rows, int64_t cols, int64_t tile_begin, int64_t tile_end,
          uint8_t* out);

// One row of the file as float32, exactly as the format defines it.
void dequantize(Type type, const uint8_t* row, int64_t cols, float* out);

// Bytes of the prepared activations of `m` rows; the buffer is 64-byte aligned.
size_t activation_bytes(Activations kind, int64_t m, int64_t cols);

// How far ahead of its use a line of weights is asked for: covers the latency of memory at its full rate, and no more, so that
// it is still in the first cache.
constexpr int kAhead = 4096;

// Where a thread reads on after a product with one row, which reads its tiles as two streams: the first half, and the rest.
struct Next {
    const uint8_t *first = nullptr, *second = nullptr;  // null: not known
};

struct MatmulKernels {
    // Prepares some rows and columns of activations (m, cols): x has all rows, `ldx` floats apart, of these columns. They
    // begin and end at multiples of 32, or at the end. Threads that share the work best split at groups of rows (format.h), or at
    // multiples of 8.
    void (*prepare)(Activations kind, const float* x, int64_t ldx, int64_t m, int64_t cols, Range rows, Range columns,
                    uint8_t* buffer);

    // out[i][r] for all m rows of the prepared activations and the matrix rows r of the tiles [tile_begin, tile_end);
    // rows of `out` stand `ldo` floats apart. `fresh` activations have not been read since other threads too made them: they
    // are asked for ahead of their use. The first lines of `next` are fetched meanwhile.
    void (*multiply)(const Matrix& matrix, int64_t tile_begin, int64_t tile_end, const uint8_t* activations, int64_t m,
                     bool fresh, float* out, int64_t ldo, const Next& next);
};

const MatmulKernels& matmul_portable();
const MatmulKernels& matmul_avx2();
const MatmulKernels& matmul_avx512();
const MatmulKernels& matmul_amx();
const MatmulKernels& matmul_kernels(Isa isa);

}  // namespace membound
