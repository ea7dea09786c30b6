// One thread's part of a layer's attention.
#include <algorithm>

#include "model.h"

namespace membound {

namespace {

// Softmax under way, of some query rows: (rows) greatest scores and sums of weights, (rows, elements) sums of values.
struct Sums {
    float *greatest, *total, *values;

    Sums(float* at, int rows) : greatest(at), total(at + rows), values(at + 2 * rows) {}
};

// Where the blocks of one sequence stand.
struct Cached {
    const uint8_t* head;  // block 0 of the layer, from the KV head on
    int64_t block_bytes, half_bytes;
    const int32_t* table;

    const uint8_t* keys(int block) const { return head + table[block] * block_bytes; }
    const uint8_t* values(int block) const { return keys(block) + half_bytes; }
};

// The blocks of an item that lie in a partition.
struct Blocks {
    int begin, end;

    Blocks(const AttentionItem& item, int partition, int64_t window)
        : begin(std::max(partition * kPartitionBlocks, item.first_key(window) / kBlockTokens)),
          end(std::min((partition + 1) * kPartitionBlocks, item.last_position() / kBlockTokens + 1)) {}
};

}  // namespace

int64_t Model::attention_floats() const {
    int padded = 0;
    for (const AttentionPlan& plan : plans_) padded = std::max(padded, padded_head(plan.shape().head_dim));
    return int64_t{kQueryRows} * (3 * padded + 4);
}

void Model::attention(const StepRows& rows, const Layer& layer, int thread) {
    AttentionPlan& plan = plans_[layer.plan];
    const AttentionShape& shape = layer.attention;
    const int padded = padded_head(shape.head_dim);
    float* queries = scratch_[thread].attention.data();  // (kQueryRows, padded)
    float* whole_at = queries + kQueryRows * padded;
    float* part_at = whole_at + kQueryRows * (padded + 2);
    int32_t first_key[kQueryRows], last_key[kQueryRows];

    const auto cached = [&](const AttentionItem& item) {
        const int64_t half = kv_tile_bytes(kv_type_, shape.head_dim);
        return Cached{layer.cache + item.kv_head * 2 * half, layer.block_bytes, half,
                      rows.tables + int64_t{rows.slots[item.sequence]} * rows.table_width};
    };
    plan.each(thread, [&](const AttentionItem& item, int begin, int end, const AttentionItem* next_item) {
        const int count = item.rows();
        for (int row = 0; row < count; ++row) {
            const int token = row / item.heads, head = item.head + row % item.heads;
            const float* q = q_.data() + (item.first_row + token) * layer.q.rows + int64_t{head} * shape.head_dim;
            for (int d = 0; d < shape.head_dim; ++d) queries[row * padded + d] = q[d] * layer.scale;
            std::fill(queries + row * padded + shape.head_dim, queries + (row + 1) * padded, 0.0f);
            first_key[row] = item.first_key(shape.window, token);
            last_key[row] = item.first_position + token;
        }
        const Cached cache = cached(item);
        const bool cut = end - begin < item.partitions;
        Sums whole(whole_at, count), part(part_at, count);
        const auto join = [&](const Sums& next) {
            for (int row = 0; row < count; ++row) {
                vector_.merge(whole.greatest + row, whole.total + row, whole.values + row * padded,
                              next.greatest[row], next.total[row], next.values + row * padded, padded);
            }
        };
        for (int partition = begin; partition < end; ++partition) {
            const Blocks blocks(item, partition, shape.window);
            const int here = blocks.end - blocks.begin;
            const uint8_t* halves[2 * kPartitionBlocks + kHalvesAhead];
            for (int i = 0; i < here; ++i) {
                halves[i] = cache.keys(blocks.begin + i);
                halves[here + i] = cache.values(blocks.begin + i);
            }
            const bool stays = partition + 1 < end || !next_item;
            const AttentionItem& following = stays ? item : *next_item;
            const Blocks ahead(following, partition + 1 < end ? partition + 1 : following.first_partition, shape.window);
            const Cached ahead_cache = cached(following);
            for (int i = 0; i < kHalvesAhead; ++i) {
                const int left = ahead.end - ahead.begin;
                halves[2 * here + i] = i < left ? ahead_cache.keys(ahead.begin + i)
                                                : ahead_cache.values(ahead.begin + std::min(i - left, left - 1));
            }
            const Sums& to = cut ? Sums(plan.partial(item, partition), count) : partition == begin ? whole : part;
            vector_.attend({kv_type_, padded, count, queries, first_key, last_key, blocks.begin, here, halves,
                            to.greatest, to.total, to.values});
            if (!cut && partition > begin) join(part);
        }
        if (cut) {
            if (!plan.complete(item, end - begin)) return;
            whole = Sums(plan.partial(item, item.first_partition), count);
            for (int i = 1; i < item.partitions; ++i) join(Sums(plan.partial(item, item.first_partition + i), count));
        }
        for (int row = 0; row < count; ++row) {
            const int64_t token = item.first_row + row / item.heads, head = item.head + row % item.heads;
            float* out = attended_.data() + token * layer.q.rows + head * shape.head_dim;
            const float inverse = 1.0f / whole.total[row];
            for (int d = 0; d < shape.head_dim; ++d) out[d] = whole.values[row * padded + d] * inverse;
        }
    });
}

}  // namespace membound
