// The turns of a step of many rows that threads walk in stretches.
//
// A stretch is some of the step's rows. A thread takes it through a whole layer, with all columns of all matrices: what the
// layer's operations hand on stays in that core's cache, no barrier stands between them, and the quicker thread takes
// more turns. Turns are taken layer by layer and stretch by stretch. One needs its rows from the layer before and the
// keys of the stretches before it in its own layer, which were all taken earlier: so whoever waits, waits for one at work.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>

#include "pool.h"
#include "range.h"

namespace membound {

class Stretches {
  public:
    struct Turn {
        int64_t layer, stretch;
        Range rows;
    };

    // `height` rows each, the last may have fewer; a height of 0 makes none. Not while a step runs.
    void make(int64_t rows, int64_t height, int64_t layers) {
        rows_ = rows;
        height_ = height;
        count_ = height == 0 ? 0 : (rows + height - 1) / height;
        turns_ = count_ * layers;
        taken_.store(0, std::memory_order_relaxed);
        if (count_ > room_) {
            room_ = 2 * count_;
            progress_ = std::make_unique<Progress[]>(room_);
        }
        for (int64_t i = 0; i < count_; ++i) {
            progress_[i].keys.store(0, std::memory_order_relaxed);
            progress_[i].layers.store(0, std::memory_order_relaxed);
        }
    }

    int64_t height() const { return height_; }

    // The next turn, as soon as its rows have come out of the layer before. False when none is left.
    bool take(Turn& turn) {
        const int64_t number = taken_.fetch_add(1, std::memory_order_relaxed);
        if (number >= turns_) return false;
        const int64_t layer = number / count_, stretch = number % count_, begin = stretch * height_;
        turn = {layer, stretch, {begin, std::min(begin + height_, rows_)}};
        Pool::await([&] { return progress_[stretch].layers.load(std::memory_order_acquire) >= layer; });
        return true;
    }
    // The keys and values of this turn's rows are in the cache.
    void keys_stored(const Turn& turn) { progress_[turn.stretch].keys.store(turn.layer + 1, std::memory_order_release); }
    // Waits until those of all earlier rows are.
    void await_keys(const Turn& turn) const {
        for (int64_t i = 0; i < turn.stretch; ++i) {
            Pool::await([&] { return progress_[i].keys.load(std::memory_order_acquire) > turn.layer; });
        }
    }
    void done(const Turn& turn) { progress_[turn.stretch].layers.store(turn.layer + 1, std::memory_order_release); }

  private:
    // Layers whose keys are stored, and layers that are done, of one stretch; on a cache line of its own.
    struct alignas(64) Progress {
        std::atomic<int64_t> keys{0}, layers{0};
    };

    int64_t rows_ = 0, height_ = 0, count_ = 0, turns_ = 0, room_ = 0;
    std::atomic<int64_t> taken_{0};
    std::unique_ptr<Progress[]> progress_;
};

}  // namespace membound
