// Where the time of steps goes, thread by thread. Nothing is counted, and no clock read, unless somebody asks.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>

namespace membound {

// What a thread does, as far as a step's time is told apart.
enum class Phase {
    outside,    // between steps
    planning,   // checks, room for the rows, attention's plan: the calling thread's work, for which all wait
    norms,      // embedding, norms, quantization of activations, residual sums
    qkv,
    rotation,   // biases and norms of heads, rotations, keys and values into the cache
    attention,
    output,
    gate_up,    // and their activation
    down,
    head,
    sampling,
    waiting,    // at barriers, for work, and for the others to end
};
constexpr std::array kPhaseNames = {"outside", "planning", "norms", "qkv",      "rotation", "attention",
                                    "output",  "gate_up",  "down",  "head", "sampling", "waiting"};

// One thread's time by phase, without gaps: what passes between two marks belongs to the later mark's phase.
struct alignas(64) Tally {
    using Clock = std::chrono::steady_clock;

    std::array<int64_t, kPhaseNames.size()> nanoseconds{};
    Clock::time_point last = Clock::now();

    void mark(Phase phase) {
        const Clock::time_point now = Clock::now();
        nanoseconds[static_cast<size_t>(phase)] +=
            std::chrono::duration_cast<std::chrono::nanoseconds>(now - last).count();
        last = now;
    }
};

}  // namespace membound
