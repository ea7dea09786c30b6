#include "pool.h"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <stdexcept>
#include <string>

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace membound {

namespace {

inline void pause() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Spins of a thread that waits for another before the core is offered to others: some tens of microseconds.
constexpr int kBarrierSpins = 2000;
// Spins of an idle worker before it sleeps: about the time between two steps.
constexpr int kIdleSpins = 20000;

// Denormals are a hundred times slower than other numbers and never matter here.
class FlushDenormals {
  public:
    FlushDenormals() {
#if defined(__x86_64__)
        saved_ = _mm_getcsr();
        _mm_setcsr(saved_ | 0x8040);  // flush to zero, denormals are zero
#elif defined(__aarch64__)
        asm volatile("mrs %0, fpcr" : "=r"(saved_));
        asm volatile("msr fpcr, %0" ::"r"(saved_ | (uint64_t{1} << 24)));
#endif
    }
    ~FlushDenormals() {
#if defined(__x86_64__)
        _mm_setcsr(saved_);
#elif defined(__aarch64__)
        asm volatile("msr fpcr, %0" ::"r"(saved_));
#endif
    }

  private:
#if defined(__x86_64__)
    unsigned saved_;
#elif defined(__aarch64__)
    uint64_t saved_;
#endif
};

// Processors' worth of quota of this process's control group, or 0 where there is none.
double cgroup_quota() {
    std::ifstream v2("/sys/fs/cgroup/cpu.max");
    std::string quota;
    double period = 0;
    if (v2 >> quota >> period && quota != "max" && period > 0) return std::stod(quota) / period;
    std::ifstream v1_quota("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), v1_period("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
    double microseconds = 0;
    if (v1_quota >> microseconds && v1_period >> period && microseconds > 0 && period > 0) return microseconds / period;
    return 0;
}

}  // namespace

int default_threads() {
    int processors = static_cast<int>(std::thread::hardware_concurrency());
#if defined(__linux__)
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) processors = CPU_COUNT(&allowed);
#endif
    const double quota = cgroup_quota();
    if (quota > 0) processors = std::min(processors, static_cast<int>(quota + 0.5));
    return std::max(processors, 1);
}

Pool::Pool(int threads) : threads_(threads == 0 ? default_threads() : threads) {
    if (threads_ < 1 || threads_ > 1024) {
        throw std::invalid_argument("threads must be between 1 and 1024, not " + std::to_string(threads));
    }
    reached_ = std::make_unique<Progress[]>(threads_);
    finished_ = std::make_unique<Progress[]>(threads_);
    for (int thread = 1; thread < threads_; ++thread) workers_.emplace_back(&Pool::work, this, thread);
}

Pool::~Pool() {
    closing_.store(true);
    started_.value.fetch_add(1);
    started_.value.notify_all();
    for (auto& worker : workers_) worker.join();
}

void Pool::run(const Task& task) {
    const std::lock_guard lock(running_);
    const FlushDenormals flush;
    task_ = &task;
    const uint32_t number = started_.value.fetch_add(1, std::memory_order_release) + 1;
    if (threads_ > 1) started_.value.notify_all();
    task(0);
    for (int thread = 1; thread < threads_; ++thread) {
        await([&] { return finished_[thread].value.load(std::memory_order_acquire) == number; });
    }
}

void Pool::relax(int spins) {
    if (spins < kBarrierSpins) pause(); else std::this_thread::yield();
}

void Pool::work(int thread) {
    const FlushDenormals flush;
    for (uint32_t done = 0;;) {
        for (int spins = 0; started_.value.load(std::memory_order_acquire) == done; ++spins) {
            if (spins < kIdleSpins) pause(); else started_.value.wait(done);
        }
        if (closing_.load()) return;
        (*task_)(thread);
        finished_[thread].value.store(++done, std::memory_order_release);
    }
}

}  // namespace membound
