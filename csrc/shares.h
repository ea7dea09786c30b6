// A piece of work cut into as many ranges as there are threads, each taken by its own thread from the front, most of what is
// left at a time; whoever is done takes half of what others have left, from the back. So each thread walks through memory of its own, and
// none waits long for a slower one.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>

#include "range.h"

namespace membound {

class Shares {
  public:
    explicit Shares(int parts) : parts_(parts), left_(std::make_unique<Left[]>(parts)) {}

    // What belongs to a part of the next piece of work, [begin, end) below 2^24. Each part says so once per piece, all in the
    // same order, with a barrier between two pieces.
    void begin(int part, Range range) {
        Left& own = left_[part];
        own.piece = static_cast<uint16_t>(own.piece + 1);
        own.state.store(packed(own.piece, range), std::memory_order_relaxed);
    }

    // Some of the work, at least `grain` where there is so much, from boundaries that are multiples of it; false when there is
    // none left nearby.
    bool take(int part, int64_t grain, Range& some) {
        const uint16_t piece = left_[part].piece;
        if (take_from(part, piece, grain, true, some)) return true;
        // A few others: to look at all takes longer than it saves where there are many.
        for (int i = 1; i < std::min(parts_, kNear); ++i) {
            if (take_from((part + i) % parts_, piece, grain, false, some)) return true;
        }
        return false;
    }

  private:
    static constexpr int kNear = 5;
    static constexpr int kBits = 24;

    // Written by its part, and by those that take from it; on a cache line of its own.
    struct alignas(64) Left {
        std::atomic<uint64_t> state{0};  // the piece of work it belongs to, begin, end
        uint16_t piece = 0;              // its part's alone
    };

    static uint64_t packed(uint16_t piece, Range range) {
        return uint64_t{piece} << (2 * kBits) | static_cast<uint64_t>(range.begin) << kBits |
               static_cast<uint64_t>(range.end);
    }

    bool take_from(int part, uint16_t piece, int64_t grain, bool front, Range& some) {
        std::atomic<uint64_t>& state = left_[part].state;
        uint64_t seen = state.load(std::memory_order_relaxed);
        for (;;) {
            constexpr uint64_t mask = (uint64_t{1} << kBits) - 1;
            const Range left{static_cast<int64_t>(seen >> kBits & mask), static_cast<int64_t>(seen & mask)};
            if (seen >> (2 * kBits) != piece || left.begin >= left.end) return false;
            const int64_t count = left.end - left.begin;
            Range rest = left;
            if (front) {
                some = {left.begin, std::min((left.end - count / 4 + grain - 1) / grain * grain, left.end)};
                rest.begin = some.end;
            } else {
                some = {std::max((left.end - (count + 1) / 2) / grain * grain, left.begin), left.end};
                rest.end = some.begin;
            }
            if (state.compare_exchange_weak(seen, packed(piece, rest), std::memory_order_relaxed)) return true;
        }
    }

    int parts_;
    std::unique_ptr<Left[]> left_;
};

}  // namespace membound
