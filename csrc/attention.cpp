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

// Where the blocks of one sequence stand, of a layer and a KV head.
struct Cached {
    const uint8_t* head;  // of block 0
    int64_t block_bytes, half_bytes;
    const int32_t* table;
};

// The blocks of an item that lie in a partition.
struct Blocks {
    Cached cached;
    int begin, end;

    Blocks(const Cached& cached, const AttentionItem& item, int partition, int64_t window)
        : cached(cached), begin(std::max(partition * kPartitionBlocks, item.first_key(window) / kBlockTokens)),
          end(std::min((partition + 1) * kPartitionBlocks, item.last_position() / kBlockTokens + 1)) {}

    int count() const { return end - begin; }
    // Keys, and behind them values.
    const uint8_t* tile(int index) const { return cached.head + cached.table[begin + index] * cached.block_bytes; }
    // The keys of each block in order, then the values of each.
    void put_halves(const uint8_t** halves) const {
        for (int i = 0; i < count(); ++i) {
            halves[i] = tile(i);
            halves[count() + i] = halves[i] + cached.half_bytes;
        }
    }
    // Of these; beyond them the last.
    const uint8_t* half(int index) const {
        index = std::min(index, 2 * count() - 1);
        return index < count() ? tile(index) : tile(index - count()) + cached.half_bytes;
    }
};

// So many tokens before their turn queries are fetched: those of one KV head do not lie together.
constexpr int kTokensAhead = 2;

void fetch(const float* from, int count) {
    for (int i = 0; i < count; i += 16) __builtin_prefetch(from + i);
}

}  // namespace

int64_t Model::attention_floats() const {
    int padded = 0;
    for (const AttentionPlan& plan : plans_) padded = std::max(padded, padded_head(plan.shape().head_dim));
    return int64_t{2 * kPartitionTokens + 16} * padded + int64_t{kQueryRows} * (3 * padded + 4);
}

// What readies heads of a row; `bias` is of all heads or empty.
HeadInput Model::head_input(const Layer& layer, int64_t row, const Vector& bias, const Vector& weight, int head,
                            float scale) const {
    const Rope& rope = ropes_[layer.rope];
    const int64_t turning = rope.elements(), at = positions_[row] * turning;
    return {.bias = bias.empty() ? nullptr : bias.data() + int64_t{head} * layer.attention.head_dim,
            .weight = weight.empty() ? nullptr : weight.data(),
            .eps = norm_eps_,
            .adjacent = rope.adjacent,
            .turning = turning,
            .cosines = cosines_[layer.rope].data() + at,
            .sines = sines_[layer.rope].data() + at,
            .scale = scale};
}

// The key and value of a step's row and KV head, into the cache.
void Model::store_key(const StepRows& rows, const Layer& layer, const Lane& lane, int64_t row, int kv_head) {
    const AttentionShape& shape = layer.attention;
    const int64_t at = int64_t{kv_head} * shape.head_dim;
    float* key = lane.k + (row - lane.first) * layer.k.rows + at;
    float* value = lane.v + (row - lane.first) * layer.v.rows + at;
    vector_.ready_head(head_input(layer, row, layer.k_bias, layer.k_norm, kv_head, 1), key, shape.head_dim, key);
    if (!layer.k_left_out.empty()) vector_.add(key, layer.k_left_out.data() + at, shape.head_dim);
    if (!layer.v_bias.empty()) vector_.add(value, layer.v_bias.data() + at, shape.head_dim);
    const int32_t* table = rows.tables + int64_t{rows.slots[sequence_of_[row]]} * rows.table_width;
    uint8_t* tile = layer.cache + table[positions_[row] / kBlockTokens] * layer.block_bytes +
                    kv_head * 2 * kv_tile_bytes(kv_type_, shape.head_dim);
    vector_.store_kv(kv_type_, key, value, shape.head_dim, positions_[row] % kBlockTokens, tile);
}

// A lane's part of a layer's new keys and values.
void Model::store_keys(const StepRows& rows, const Layer& layer, const Lane& lane) {
    const int64_t heads = layer.attention.kv_heads;
    const Range mine = share(lane.count * heads, lane.part, lane.parts);
    for (int64_t at = mine.begin; at < mine.end; ++at) {
        store_key(rows, layer, lane, lane.first + at / heads, static_cast<int>(at % heads));
    }
}

// The query rows of an item, scaled: (item.rows(), padded head_dim).
void Model::ready_queries(const Layer& layer, const Lane& lane, const AttentionItem& item, float* queries) const {
    const int dim = layer.attention.head_dim, padded = padded_head(dim);
    for (int row = 0; row < item.rows(); ++row, queries += padded) {
        const int token = row / item.heads, head = item.head + row % item.heads;
        const float* q = lane.q + (item.first_row - lane.first + token) * layer.q.rows + int64_t{head} * dim;
        if (token + kTokensAhead < item.tokens) fetch(q + kTokensAhead * layer.q.rows, dim);
        const HeadInput input = head_input(layer, item.first_row + token, layer.q_bias, layer.q_norm, head, layer.scale);
        vector_.ready_head(input, q, dim, queries);
        std::fill(queries + dim, queries + padded, 0.0f);
    }
}

void Model::attention(const StepRows& rows, const Layer& layer, const Lane& lane, AttentionPlan& plan) {
    const AttentionShape& shape = layer.attention;
    const int padded = padded_head(shape.head_dim);
    float* wide = scratch_[lane.thread].attention.data();
    float* turned = wide + 2 * kPartitionTokens * padded;
    float* queries = turned + 16 * padded;  // (kQueryRows, padded)
    float* whole_at = queries + kQueryRows * padded;
    float* part_at = whole_at + kQueryRows * (padded + 2);
    int32_t first_key[kQueryRows], last_key[kQueryRows];
    const uint8_t* halves[2 * kPartitionBlocks + kHalvesAhead];

    const auto blocks_of = [&](const AttentionItem& item, int partition) {
        const int64_t half = kv_tile_bytes(kv_type_, shape.head_dim);
        const int32_t* table = rows.tables + int64_t{rows.slots[item.sequence]} * rows.table_width;
        return Blocks({layer.cache + item.kv_head * 2 * half, layer.block_bytes, half, table}, item, partition, shape.window);
    };
    // Columns of attention's output that follow each other become ready for its matrix together.
    Range done{};
    const auto prepare_done = [&] {
        if (done.begin == done.end) return;
        const Activations kind = activations_of(layer.o.type);
        matmul_.prepare(kind, lane.attended + done.begin, layer.o.cols, 1, layer.o.cols, {0, 1}, done, lane.joint[static_cast<int>(kind)]);
    };
    const auto attend = [&](const AttentionItem& item, int begin, int end, const AttentionItem* next_item) {
        const int count = item.rows();
        ready_queries(layer, lane, item, queries);
        for (int row = 0; row < count; ++row) {
            first_key[row] = item.first_key(shape.window, row / item.heads);
            last_key[row] = item.first_position + row / item.heads;
        }
        if (plan.keys_have_one_reader()) {
            // Those that lie in the partitions attended to here.
            for (int token = 0; token < item.tokens; ++token) {
                const int partition = (item.first_position + token) / kPartitionTokens;
                if (partition >= begin && partition < end) store_key(rows, layer, lane, item.first_row + token, item.kv_head);
            }
        }
        const bool cut = end - begin < item.partitions;
        Sums whole(whole_at, count), part(part_at, count);
        const auto join = [&](const Sums& next) {
            for (int row = 0; row < count; ++row) {
                vector_.merge(whole.greatest + row, whole.total + row, whole.values + row * padded,
                              next.greatest[row], next.total[row], next.values + row * padded, padded);
            }
        };
        for (int partition = begin; partition < end; ++partition) {
            const Blocks blocks = blocks_of(item, partition);
            const Blocks ahead = partition + 1 < end ? blocks_of(item, partition + 1)
                                 : next_item         ? blocks_of(*next_item, next_item->first_partition)
                                                     : blocks;
            blocks.put_halves(halves);
            for (int i = 0; i < kHalvesAhead; ++i) halves[2 * blocks.count() + i] = ahead.half(i);
            const Sums to = cut ? Sums(plan.partial(item, partition), count) : partition == begin ? whole : part;
            vector_.attend({kv_type_, padded, count, queries, first_key, last_key, blocks.begin, blocks.count(), halves,
                            wide, turned, to.greatest, to.total, to.values});
            if (!cut && partition > begin) join(part);
        }
        if (cut) {
            if (!plan.complete(item, end - begin)) return;
            whole = Sums(plan.partial(item, item.first_partition), count);
            for (int i = 1; i < item.partitions; ++i) join(Sums(plan.partial(item, item.first_partition + i), count));
        }
        for (int row = 0; row < count; ++row) {
            const int64_t token = item.first_row - lane.first + row / item.heads, head = item.head + row % item.heads;
            vector_.scale(whole.values + row * padded, 1.0f / whole.total[row], shape.head_dim,
                          lane.attended + token * layer.q.rows + head * shape.head_dim);
        }
        if (!prepares_attended(lane, layer)) return;
        const Range columns{int64_t{item.head} * shape.head_dim, int64_t{item.head + item.heads} * shape.head_dim};
        if (columns.begin != done.end) {
            prepare_done();
            done.begin = columns.begin;
        }
        done.end = columns.end;
    };
    if (lane.walk == Walk::stretch) plan.each_of({lane.first, lane.first + lane.count}, attend);
    else plan.each(lane.thread, attend);
    prepare_done();
}

}  // namespace membound
