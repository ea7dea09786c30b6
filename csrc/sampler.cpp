#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

namespace membound {

namespace {

uint64_t splitmix64(uint64_t state) {
    state += 0x9e3779b97f4a7c15u;
    state = (state ^ (state >> 30)) * 0xbf58476d1ce4e5b9u;
    state = (state ^ (state >> 27)) * 0x94d049bb133111ebu;
    return state ^ (state >> 31);
}

double uniform(uint64_t seed, int64_t position) {
    const uint64_t z = splitmix64(splitmix64(seed) ^ static_cast<uint64_t>(position));
    return static_cast<double>(z >> 11) * 0x1p-53;
}

// Biases, and what is forbidden: out of reach of any bias.
void restrict_to(const RowSampling& settings, float* logits, int64_t vocab) {
    for (const auto& [id, bias] : settings.biases) logits[id] = static_cast<float>(static_cast<double>(logits[id]) + bias);
    if (settings.allowed.empty()) return;
    const int64_t words = static_cast<int64_t>(settings.allowed.size());
    for (int64_t begin = 0; begin < vocab; begin += 32) {
        const uint32_t bits = begin / 32 < words ? settings.allowed[begin / 32] : 0;
        if (bits == ~0u) continue;
        for (int64_t id = begin; id < std::min(begin + 32, vocab); ++id) {
            if (!(bits >> (id - begin) & 1)) logits[id] = -std::numeric_limits<float>::infinity();
        }
    }
}

void penalize(const RowSampling& settings, float* logits, int64_t vocab, std::vector<int32_t>& counts) {
    if (static_cast<int64_t>(counts.size()) < vocab) counts.resize(vocab);
    const std::vector<int32_t>& history = settings.history;
    for (size_t i = settings.prompt_length; i < history.size(); ++i) ++counts[history[i]];
    for (int32_t id : history) {
        int32_t& count = counts[id];
        if (count < 0) continue;  // done
        double logit = logits[id];
        logit = logit > 0 ? logit / settings.repetition_penalty : logit * settings.repetition_penalty;
        if (count > 0) logit -= settings.presence_penalty + settings.frequency_penalty * count;
        logits[id] = static_cast<float>(logit);
        count = -1;
    }
    for (int32_t id : history) counts[id] = 0;
}

// Orders ids by descending logit, ties by lower id.
struct Before {
    const float* logits;
    bool operator()(int32_t a, int32_t b) const {
        return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
    }
};

// Candidates are sought above a depth below the greatest logit, in units of the temperature, that grows while they do
// not suffice: at first e^-4 = 2 %. Looking once more is cheaper than sorting many.
constexpr double kFirstDepth = 4, kDeeper = 1.4;
// Below, weights are 0.
constexpr double kLastDepth = 750;

// Ids of at least `wanted` greatest logits, or of all that are at least `least`, whichever are fewer: in order.
void gather_greatest(const VectorKernels& kernels, const float* logits, int64_t vocab, double greatest, double step,
                     double least, int64_t wanted, std::vector<int32_t>& ids) {
    ids.resize(vocab);
    int64_t found = 0;
    for (double depth = step;; depth *= kDeeper) {
        const double threshold = depth < 1e38 ? std::max(greatest - depth, least) : least;
        found = kernels.at_least(logits, vocab, static_cast<float>(threshold), ids.data(), vocab);
        if (found >= wanted || threshold == least) break;
    }
    ids.resize(found);
    if (found > wanted) {
        std::nth_element(ids.begin(), ids.begin() + wanted, ids.end(), Before{logits});
        ids.resize(wanted);
    }
    std::sort(ids.begin(), ids.end(), Before{logits});
}

constexpr double kLowest = -std::numeric_limits<double>::infinity();

RowLogprobs logprobs_of(const VectorKernels& kernels, const float* logits, int64_t vocab, int64_t alternatives,
                        double* log_total, std::vector<int32_t>& ids) {
    const double greatest = logits[kernels.argmax(logits, vocab)];
    *log_total = greatest + std::log(kernels.sum_exp(logits, vocab, greatest, 1.0));
    RowLogprobs result;
    if (alternatives > 0) {
        gather_greatest(kernels, logits, vocab, greatest, kFirstDepth, kLowest, std::min(alternatives, vocab), ids);
        for (int32_t id : ids) result.top.emplace_back(id, logits[id] - *log_total);
    }
    return result;
}

// The inverse of the cumulative distribution.
int32_t draw(const VectorKernels& kernels, const RowSampling& settings, int64_t position, const float* logits,
             int64_t vocab, std::vector<int32_t>& ids) {
    const int64_t first = kernels.argmax(logits, vocab);
    const double greatest = logits[first], temperature = settings.temperature;
    if (!std::isfinite(greatest)) return static_cast<int32_t>(first);  // no distribution
    const double u = uniform(settings.seed, position);
    const auto weight = [&](int32_t id) { return std::exp((logits[id] - greatest) / temperature); };
    // A little below the exact bound: float32 rounds it, and the weights decide.
    const double least =
        settings.min_p > 0 ? greatest + temperature * std::log(settings.min_p) - 1e-5 * (1 + std::fabs(greatest)) : kLowest;
    const int64_t most = settings.top_k > 0 ? std::min(settings.top_k, vocab) : vocab;
    const bool few = settings.top_k > 0 || settings.min_p > 0;  // what is kept is found before it is weighed
    double total = 0;
    if (!few) total = kernels.sum_exp(logits, vocab, greatest, 1 / temperature);

    for (double step = kFirstDepth * temperature;; step *= kDeeper) {
        const double floor = few ? least : greatest - step;
        gather_greatest(kernels, logits, vocab, greatest, step, floor, most, ids);
        if (few) {
            while (weight(ids.back()) < settings.min_p) ids.pop_back();
            total = 0;
            for (int32_t id : ids) total += weight(id);
        }
        const bool everything = few || static_cast<int64_t>(ids.size()) == vocab || step > kLastDepth * temperature;
        double head = 0, kept = total;  // mass up to here, and of all that top-p keeps
        if (settings.top_p < 1) {
            size_t length = 0;
            while (length < ids.size() && head < settings.top_p * total) head += weight(ids[length++]);
            if (length == ids.size() && head < settings.top_p * total && !everything) continue;
            ids.resize(length);
            kept = head;
        }
        head = 0;
        for (int32_t id : ids) {
            head += weight(id);
            if (head > u * kept) return id;
        }
        // Rounding may leave the last one short of the total.
        if (everything || settings.top_p < 1) return ids.back();
    }
}

}  // namespace

void check_history(const RowSampling& settings, int64_t vocab) {
    for (const auto& [id, bias] : settings.biases) {
        if (id < 0 || id >= vocab) throw std::invalid_argument("a bias is of a token outside the vocabulary");
    }
    for (int32_t id : settings.history) {
        if (id < 0 || id >= vocab) throw std::invalid_argument("the history holds a token outside the vocabulary");
    }
    if (!settings.penalized()) return;
    if (settings.prompt_length < 0 || settings.prompt_length > static_cast<int64_t>(settings.history.size())) {
        throw std::invalid_argument("the history is shorter than its prompt");
    }
}

int32_t sample_row(const VectorKernels& kernels, const RowSampling& settings, int64_t position, float* logits,
                   int64_t vocab, SamplingScratch& scratch, RowLogprobs* logprobs) {
    double log_total = 0;
    std::vector<float> raw;
    if (settings.logprobs >= 0 && logprobs) {
        *logprobs = logprobs_of(kernels, logits, vocab, settings.logprobs, &log_total, scratch.ids);
        if (settings.changes()) raw.assign(logits, logits + vocab);
    }
    if (settings.restricted()) restrict_to(settings, logits, vocab);
    if (settings.penalized()) penalize(settings, logits, vocab, scratch.counts);
    const int32_t chosen = settings.temperature == 0
                               ? static_cast<int32_t>(kernels.argmax(logits, vocab))
                               : draw(kernels, settings, position, logits, vocab, scratch.ids);
    if (settings.logprobs >= 0 && logprobs) {
        logprobs->chosen = (raw.empty() ? logits[chosen] : raw[chosen]) - log_total;
    }
    return chosen;
}

}  // namespace membound
