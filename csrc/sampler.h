// How the next token is chosen from a row of logits: the order of serving/sampling.py.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "vector.h"

namespace membound {

// Settings of one request, and what penalties need of it.
struct RowSampling {
    double temperature = 0;
    int64_t top_k = 0;
    double top_p = 1, min_p = 0;
    double repetition_penalty = 1, presence_penalty = 0, frequency_penalty = 0;
    uint64_t seed = 0;
    int64_t logprobs = -1;         // alternatives to report; -1 reports nothing
    int64_t prompt_length = 0;     // leading tokens of the history that are the prompt
    std::vector<std::pair<int32_t, float>> biases;  // (token, what is added to its logit)
    std::vector<int32_t> history;                   // prompt and output, for penalties only
    std::vector<uint32_t> allowed;                  // bit t % 32 of word t / 32: token t may come; empty allows all

    bool penalized() const { return repetition_penalty != 1 || presence_penalty != 0 || frequency_penalty != 0; }
    bool restricted() const { return !biases.empty() || !allowed.empty(); }
    bool changes() const { return restricted() || penalized(); }
    bool plain() const { return temperature == 0 && !changes() && logprobs < 0; }
};

struct RowLogprobs {
    double chosen = 0;
    std::vector<std::pair<int32_t, double>> top;
};

// Scratch of one thread, kept between rows.
struct SamplingScratch {
    std::vector<int32_t> ids;
    std::vector<int32_t> counts;  // (vocab) zero between rows
};

// Throws std::invalid_argument if a bias is of a token outside the vocabulary, or the history holds a token outside the vocabulary or is shorter than its prompt.
void check_history(const RowSampling& settings, int64_t vocab);

// Samples the token at index `position` of a sequence from `vocab` logits, which penalties change in place. The history
// must have been checked.
int32_t sample_row(const VectorKernels& kernels, const RowSampling& settings, int64_t position, float* logits,
                   int64_t vocab, SamplingScratch& scratch, RowLogprobs* logprobs);

}  // namespace membound
