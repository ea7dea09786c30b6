// The kernels beside the matrix products: norms, rotations, activations, attention, sampling, and the loops of the
// probe. Written once in *.inc over the vectors of simd.inc, compiled per instruction set.
//
// Whatever a kernel computes for a row, it computes by the same operations in the same order however many rows,
// threads or chunks there are, so that batching never changes a bit.
#pragma once

#include <cstddef>
#include <cstdint>

namespace membound {

// Tokens of one block of the KV cache, and of one partition of attention: partial sums are per partition, merged in
// order, whoever computed them.
constexpr int kBlockTokens = 16;
constexpr int kPartitionTokens = 256;
constexpr int kPartitionBlocks = kPartitionTokens / kBlockTokens;
// Query rows (tokens × heads that share a KV head) that attention takes at once.
constexpr int kQueryRows = 192;

enum class KvType : uint32_t { f32, f16, bf16 };

// Heads are padded to a multiple of 16 elements in the cache and in the rows of attention.
constexpr int padded_head(int head_dim) { return (head_dim + 15) / 16 * 16; }

// Bytes of one block's keys, or values, of one KV head.
constexpr int64_t kv_tile_bytes(KvType type, int head_dim) {
    return int64_t{kBlockTokens} * padded_head(head_dim) * (type == KvType::f32 ? 4 : 2);
}

// While a half of a block (its keys, or its values) of one KV head is read, the one that comes so many later is fetched.
constexpr int kHalvesAhead = 4;

// Query rows against one partition of the keys of one KV head. Rows are in the order of their tokens.
struct AttentionPart {
    KvType type;
    int head_dim;              // padded
    int rows;                  // at most kQueryRows
    const float* queries;      // (rows, head_dim), scaled
    const int32_t* first_key;  // (rows) positions of the first and last key that each row sees
    const int32_t* last_key;
    int first_block, blocks;       // of the sequence: those of the partition that any row sees
    const uint8_t* const* halves;  // (2 blocks + kHalvesAhead) keys of each block, values of each, and what is read next
    float* wide;                   // scratch: (2 kPartitionTokens, head_dim), 64-byte aligned
    float* turned;                 // scratch: (head_dim, 16), 64-byte aligned
    float* greatest;               // out: (rows) greatest score, or a very low number where a row sees no key
    float* total;                  // out: (rows) sum of exp(score - greatest)
    float* values;                 // out: (rows, head_dim) sum of exp(score - greatest) · value
};

// What makes a query's or key's head of it: a bias, a norm, a rotation of the first elements, a factor.
struct HeadInput {
    const float* bias;    // (head_dim) or null
    const float* weight;  // (head_dim) of the norm, or null
    float eps;            // of the norm
    bool adjacent;        // pairs (2i, 2i + 1) turn instead of (i, i + n/2)
    int64_t turning;      // n, elements that turn
    const float* cosines;  // (n) x · cosines + partner · sines, the sines signed
    const float* sines;
    float scale;
};

struct VectorKernels {
    // out = x / sqrt(mean(x²) + eps) · weight
    void (*rms_norm)(const float* x, const float* weight, float eps, int64_t n, float* out);
    // x += y
    void (*add)(float* x, const float* y, int64_t n);
    // out = x · factor
    void (*scale)(const float* x, float factor, int64_t n, float* out);
    // out = activation(gate) · out
    void (*gate_silu)(const float* gate, float* out, int64_t n);
    void (*gate_gelu)(const float* gate, float* out, int64_t n);
    // A head of a query or key, ready for attention. `out` may be x.
    void (*ready_head)(const HeadInput& input, const float* x, int64_t head_dim, float* out);

    // One token's key and value of one head into its slot of a block.
    void (*store_kv)(KvType type, const float* key, const float* value, int head_dim, int slot, uint8_t* tile);
    void (*attend)(const AttentionPart& part);
    // Joins a further partition to (greatest, total, values) of one row.
    void (*merge)(float* greatest, float* total, float* values, float next_greatest, float next_total,
                  const float* next_values, int head_dim);

    // The greatest of n values, the first of equals; n > 0. A NaN is never the greatest.
    int64_t (*argmax)(const float* x, int64_t n);
    // Σ exp((x - greatest) · inverse_temperature), in float64.
    double (*sum_exp)(const float* x, int64_t n, double greatest, double inverse_temperature);
    // Indices of the values that are at least `least`, ascending; at most `room` are written, all are counted.
    int64_t (*at_least)(const float* x, int64_t n, float least, int32_t* out, int64_t room);

    // Roofs. Sums all bytes once, in four streams; the result only keeps the loop from being optimised away.
    uint64_t (*read)(const uint8_t* bytes, size_t size);
    // Runs `rounds` rounds of independent multiply-adds in registers; returns the operations done (a multiply and an
    // add are two), or 0 where the instruction set has none for that precision.
    int64_t (*multiply_fp32)(int64_t rounds);
    int64_t (*multiply_bf16)(int64_t rounds);
    int64_t (*multiply_int8)(int64_t rounds);
};

const VectorKernels& vector_portable();
const VectorKernels& vector_avx2();
const VectorKernels& vector_avx512();
const VectorKernels& vector_amx();

}  // namespace membound
