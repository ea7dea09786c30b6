#include "attention_plan.h"

#include <algorithm>

#include "vector.h"

namespace membound {

namespace {

// Query rows of an item where there are few, and items per thread from which on they have more: the more, the less often keys
// and values become F32.
constexpr int64_t kFewQueryRows = 96, kItemsPerThread = 4;

}  // namespace

int64_t AttentionPlan::partial_floats(const AttentionItem& item) const {
    return int64_t{item.rows()} * (2 + padded_head(shape_.head_dim));
}

void AttentionPlan::make(const StepRows& rows, int threads, int64_t height, bool keys_stored) {
    items_.clear();
    const int group = shape_.heads / shape_.kv_heads;
    const int heads_together = std::min(group, kQueryRows);
    const int64_t query_rows =
        std::clamp<int64_t>(rows.rows * shape_.heads / (kItemsPerThread * threads), kFewQueryRows, kQueryRows);
    const int64_t tokens_together = std::max<int64_t>(query_rows / heads_together, 1);
    int64_t units = 0;
    std::vector<int64_t> costs;  // before each unit
    int64_t cost = 0;
    for (int64_t sequence = 0; sequence < rows.sequences; ++sequence) {
        const int64_t begin = rows.starts[sequence], end = rows.starts[sequence + 1];
        for (int64_t row = begin, tokens; row < end; row += tokens) {
            tokens = std::min(tokens_together, end - row);
            if (height > 0) tokens = std::min(tokens, height - row % height);
            const int64_t position = rows.first_positions[sequence] + row - begin, last = position + tokens - 1;
            const int64_t first = shape_.window > 0 ? std::max<int64_t>(0, position - shape_.window + 1) : 0;
            const int first_partition = static_cast<int>(first / kPartitionTokens);
            const int partitions = static_cast<int>(last / kPartitionTokens) - first_partition + 1;
            for (int kv_head = 0; kv_head < shape_.kv_heads; ++kv_head) {
                for (int head = 0; head < group; head += heads_together) {
                    const int heads = std::min(heads_together, group - head);
                    items_.push_back({sequence, row, tokens, static_cast<int>(position), kv_head,
                                      kv_head * group + head, heads, first_partition, partitions, units, -1, -cost});
                    units += partitions;
                    for (int p = first_partition; p < first_partition + partitions; ++p) {
                        const int64_t low = std::max<int64_t>(first, int64_t{p} * kPartitionTokens);
                        const int64_t high = std::min<int64_t>(last + 1, int64_t{p + 1} * kPartitionTokens);
                        costs.push_back(cost);
                        // Reading a key costs about as much as eight rows' arithmetic with it; a row itself some keys.
                        cost += (high - low + kBlockTokens) * (tokens * heads + 8);
                    }
                    items_.back().cost += cost;
                }
            }
        }
    }

    one_reader_ = !keys_stored && height == 0 && static_cast<int64_t>(items_.size()) == rows.sequences * shape_.kv_heads;
    begins_.assign(threads + 1, units);
    first_item_.assign(threads, 0);
    for (int thread = 0; thread < threads; ++thread) {
        const int64_t target = cost * thread / threads;
        begins_[thread] = std::lower_bound(costs.begin(), costs.end(), target) - costs.begin();
        const auto after = std::upper_bound(items_.begin(), items_.end(), begins_[thread],
                                            [](int64_t unit, const AttentionItem& item) { return unit < item.first_unit; });
        first_item_[thread] = after == items_.begin() ? 0 : after - items_.begin() - 1;
    }

    int64_t floats = 0;
    for (int thread = 1; thread < threads; ++thread) {
        if (begins_[thread] >= units) continue;
        AttentionItem& item = items_[first_item_[thread]];
        if (begins_[thread] == item.first_unit || item.scratch >= 0) continue;
        item.scratch = floats;
        floats += item.partitions * partial_floats(item);
    }
    if (static_cast<int64_t>(scratch_.size()) < floats) scratch_.resize(floats);
    if (arrived_size_ < items_.size()) {
        arrived_size_ = 2 * items_.size();
        arrived_ = std::make_unique<std::atomic<int>[]>(arrived_size_);
    }
}

}  // namespace membound
