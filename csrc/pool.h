// Threads that carry out one step together.
//
// `run` gives one function to every thread, the caller among them; inside it, `barrier` separates phases. A waiting
// thread spins for a bounded time, because phases are microseconds long, and then yields or sleeps, so that a stolen
// core or a second pool on the same machine slows it down but never hangs it.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "range.h"

namespace membound {

// Processors that this process may use: its affinity mask, limited by the control group's CPU quota; at least 1.
int default_threads();

class Pool {
  public:
    using Task = std::function<void(int thread)>;

    // `threads` of 0 means default_threads(). Throws std::invalid_argument beyond 1 … 1024.
    explicit Pool(int threads = 0);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int threads() const { return threads_; }

    // Runs task(0) here and task(1 … threads-1) on the workers; returns when all have. The task must not throw.
    // Concurrent calls wait for each other.
    void run(const Task& task);

    // Inside a task: waits until every thread has reached the same barrier. Meanwhile calls meanwhile() as long as that has
    // something to do, which it says.
    template <typename Meanwhile>
    void barrier(int thread, const Meanwhile& meanwhile) {
        const uint32_t number = reached_[thread].value.load(std::memory_order_relaxed) + 1;
        reached_[thread].value.store(number, std::memory_order_release);
        for (int other = 0; other < threads_; ++other) {
            // Another thread may already be one barrier further, so compare by distance.
            const auto& reached = reached_[other].value;
            await([&] { return static_cast<int32_t>(reached.load(std::memory_order_acquire) - number) >= 0; }, meanwhile);
        }
    }
    void barrier(int thread) {
        barrier(thread, [] { return false; });
    }

    // Inside a task: waits until ready(), which another thread brings about.
    template <typename Ready, typename Meanwhile>
    static void await(const Ready& ready, const Meanwhile& meanwhile) {
        for (int spins = 0; !ready();) {
            if (!meanwhile()) relax(spins++);
        }
    }
    template <typename Ready>
    static void await(const Ready& ready) {
        await(ready, [] { return false; });
    }

  private:
    // One cache line each, so that a thread's progress does not disturb another's.
    struct alignas(64) Progress {
        std::atomic<uint32_t> value{0};
    };

    void work(int thread);
    static void relax(int spins);  // between two looks, after so many

    int threads_;
    std::unique_ptr<Progress[]> reached_;   // (threads) barriers that each thread has reached
    std::unique_ptr<Progress[]> finished_;  // (threads) tasks that each thread has finished
    Progress started_;                      // tasks given out
    const Task* task_ = nullptr;
    std::atomic<bool> closing_{false};
    std::mutex running_;
    std::vector<std::thread> workers_;
};

// The part of `total` that belongs to `index` of `parts`, in multiples of `grain`.
inline Range share(int64_t total, int index, int parts, int64_t grain = 1) {
    const int64_t grains = (total + grain - 1) / grain;
    const int64_t begin = grains * index / parts * grain, end = grains * (index + 1) / parts * grain;
    return {begin < total ? begin : total, end < total ? end : total};
}

}  // namespace membound
