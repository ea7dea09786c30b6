// Who computes which part of a step's attention.
//
// An item is some query rows of one sequence against one KV head; a unit is one partition of its keys. The units of all
// items, in order, are cut into one run per thread, equal in cost. An item that lies within one run is computed and
// merged there; one that is cut leaves partial sums per partition, and whoever completes it merges them in order. So the
// result is the same wherever the cuts are. Or the rows come in stretches: then each item's rows are of one of them, and
// it is computed whole.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "range.h"
#include "step.h"

namespace membound {

struct AttentionShape {
    int heads, kv_heads, head_dim;
    int64_t window;  // keys that a query sees, its own among them; 0 sees all
    bool operator==(const AttentionShape&) const = default;
};

struct AttentionItem {
    int64_t sequence, first_row, tokens;  // rows of the step
    int first_position;                   // of its first row
    int kv_head, head, heads;             // query heads [head, head + heads) share kv_head
    int first_partition, partitions;
    int64_t first_unit;                   // among all units
    int64_t scratch;                      // where its partial sums begin, if it is cut; else -1
    int64_t cost;                         // about the pairs of a key and a row

    int rows() const { return static_cast<int>(tokens) * heads; }
    int last_position() const { return first_position + static_cast<int>(tokens) - 1; }
    // Position of the first key that one of its tokens sees.
    int first_key(int64_t window, int token = 0) const {
        const int64_t first = window > 0 ? first_position + token - window + 1 : 0;
        return first > 0 ? static_cast<int>(first) : 0;
    }
};

class AttentionPlan {
  public:
    explicit AttentionPlan(const AttentionShape& shape) : shape_(shape) {}

    const AttentionShape& shape() const { return shape_; }
    // `height` is that of stretches, or 0; `keys_stored` says that the rows' own keys are in the cache.
    void make(const StepRows& rows, int threads, int64_t height, bool keys_stored = false);

    // Whether whoever attends to a key is to store it: no other item, and no other part of its item, reads it.
    bool keys_have_one_reader() const { return one_reader_; }

    // Calls work(item, first partition, last partition + 1, the item after it or null) for what belongs to a thread.
    template <typename Work>
    void each(int thread, const Work& work) const {
        const int64_t begin = begins_[thread], end = begins_[thread + 1];
        if (begin == end) return;
        for (size_t index = first_item_[thread]; index < items_.size() && items_[index].first_unit < end; ++index) {
            const AttentionItem& item = items_[index];
            const int64_t low = begin > item.first_unit ? begin - item.first_unit : 0;
            const int64_t high = end - item.first_unit < item.partitions ? end - item.first_unit : item.partitions;
            const AttentionItem* next =
                index + 1 < items_.size() && items_[index + 1].first_unit < end ? &items_[index + 1] : nullptr;
            work(item, item.first_partition + static_cast<int>(low), item.first_partition + static_cast<int>(high), next);
        }
    }

    // The same for a stretch of rows.
    template <typename Work>
    void each_of(Range rows, const Work& work) const {
        const auto end = first_of(rows.end);
        for (auto item = first_of(rows.begin); item != end; ++item) {
            work(*item, item->first_partition, item->first_partition + item->partitions, item + 1 == end ? nullptr : &item[1]);
        }
    }
    int64_t cost(Range rows) const {
        int64_t sum = 0;
        each_of(rows, [&](const AttentionItem& item, int, int, const AttentionItem*) { sum += item.cost; });
        return sum;
    }

    // Where a cut item keeps what a partition gave: rows greatest, rows totals, then rows of values.
    float* partial(const AttentionItem& item, int partition) {
        return scratch_.data() + item.scratch + (partition - item.first_partition) * partial_floats(item);
    }
    // Notes that partitions of a cut item are done; true for whoever completes it.
    bool complete(const AttentionItem& item, int partitions) {
        std::atomic<int>& arrived = arrived_[&item - items_.data()];
        if (arrived.fetch_add(partitions, std::memory_order_acq_rel) + partitions < item.partitions) return false;
        arrived.store(0, std::memory_order_relaxed);  // for the next layer
        return true;
    }

  private:
    // Items are in the order of their rows.
    std::vector<AttentionItem>::const_iterator first_of(int64_t row) const {
        return std::partition_point(items_.begin(), items_.end(), [&](const AttentionItem& item) { return item.first_row < row; });
    }
    int64_t partial_floats(const AttentionItem& item) const;

    AttentionShape shape_;
    std::vector<AttentionItem> items_;
    std::vector<int64_t> begins_;     // (threads + 1) units
    std::vector<size_t> first_item_;  // (threads) item that holds the first unit
    std::vector<float> scratch_;
    std::unique_ptr<std::atomic<int>[]> arrived_;  // (items)
    size_t arrived_size_ = 0;
    bool one_reader_ = false;
};

}  // namespace membound
