#include "probe.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <stdexcept>
#include <vector>

#include "arena.h"
#include "isa.h"
#include "pool.h"
#include "vector.h"

namespace membound {

namespace {

constexpr int kWindows = 5;

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void require_time(double seconds) {
    if (!(seconds > 0 && seconds <= 60)) throw std::invalid_argument("seconds must be above 0 and at most 60");
}

struct alignas(64) Count {
    double done = 0, begin = 0, end = 0;
};

// Every thread repeats `work`, which returns what it did, for `seconds`; the rate of all together.
template <typename Work>
double rate(Pool& pool, double seconds, const Work& work) {
    std::vector<Count> counts(pool.threads());
    pool.run([&](int thread) {
        Count& count = counts[thread];
        pool.barrier(thread);
        count.begin = count.end = now();
        do {
            count.done += work(thread);
            count.end = now();
        } while (count.end - count.begin < seconds);
    });
    double rate = 0;
    for (const Count& count : counts) rate += count.done / (count.end - count.begin);
    return rate;
}

template <typename Work>
double best_rate(Pool& pool, double seconds, const Work& work) {
    double best = 0;
    for (int window = 0; window < kWindows; ++window) best = std::max(best, rate(pool, seconds / kWindows, work));
    return best;
}

std::atomic<uint64_t> sink;  // what was read must be used

}  // namespace

double probe_read(int64_t bytes, int threads, double seconds) {
    require_time(seconds);
    if (bytes < 1 << 16) throw std::invalid_argument("a probe reads at least 65536 bytes");
    Pool pool(threads);
    const Arena arena(bytes, "the probe's working set");
    pool.run([&](int thread) {
        const Range part = share(bytes, thread, pool.threads(), 4096);
        std::fill(arena.data() + part.begin, arena.data() + part.end, static_cast<uint8_t>(1));
    });
    const VectorKernels& kernels = vector_kernels(choose_isa());
    return best_rate(pool, seconds, [&](int thread) {
        const Range part = share(bytes, thread, pool.threads(), 4096);
        sink += kernels.read(arena.data() + part.begin, part.end - part.begin);
        return static_cast<double>(part.end - part.begin);
    });
}

std::optional<double> probe_flops(const std::string& kind, int threads, double seconds) {
    require_time(seconds);
    const VectorKernels& kernels = vector_kernels(choose_isa());
    int64_t (*multiply)(int64_t) = nullptr;
    if (kind == "fp32") multiply = kernels.multiply_fp32;
    if (kind == "bf16") multiply = kernels.multiply_bf16;
    if (kind == "int8") multiply = kernels.multiply_int8;
    if (!multiply) throw std::invalid_argument("there is no probe for " + kind + ": use fp32, bf16 or int8");
    if (multiply(1) == 0) return std::nullopt;
    Pool pool(threads);
    return best_rate(pool, seconds, [&](int) { return static_cast<double>(multiply(100000)); });
}

}  // namespace membound
