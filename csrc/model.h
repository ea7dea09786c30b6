// A model in memory, and one step of it.
//
// A step computes some tokens of some sequences: prompt chunks and decoding tokens alike are sequences with new rows.
// Activations are (rows, elements) in F32. All threads walk the layers together, each with a part of the matrices, and a
// barrier stands wherever one needs what another wrote; or, with many rows, each takes stretches of the rows through
// one layer after the other (stretches.h); or, with fewer rows of many sequences, each takes its own through all layers.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "arena.h"
#include "attention_plan.h"
#include "buffer.h"
#include "isa.h"
#include "kernels.h"
#include "pool.h"
#include "sampler.h"
#include "shares.h"
#include "step.h"
#include "stretches.h"
#include "tally.h"
#include "vector.h"

namespace membound {

// A matrix as the file holds it: rows of whole quantization blocks, there for as long as what `bytes` gives is kept.
struct FileMatrix {
    Type type;
    int64_t rows, cols;
    std::function<std::shared_ptr<const uint8_t>()> bytes;
};

struct Rope {
    bool adjacent;                   // pairs (2i, 2i + 1) instead of (i, i + n/2)
    float amplitude;                 // of cosines and sines
    std::vector<float> frequencies;  // (n/2) radians per position

    int64_t elements() const { return 2 * static_cast<int64_t>(frequencies.size()); }
    bool operator==(const Rope&) const = default;
};

enum class Activation { silu, gelu_tanh };

// One layer by the names of its tensors: matrices attn_q, attn_k, attn_v, attn_output, ffn_gate, ffn_up, ffn_down;
// vectors attn_norm, ffn_norm, and where the layer has them attn_q_norm, attn_k_norm, post_attention_norm,
// post_ffw_norm; biases of attn_q, attn_k, attn_v, attn_output.
struct LayerSpec {
    AttentionShape attention;
    float scale;  // of attention's dot products
    Rope rope;
    Activation activation;
    std::map<std::string, FileMatrix> matrices;
    std::map<std::string, std::vector<float>> vectors, biases;
};

struct ModelSpec {
    int64_t hidden, vocab;
    float norm_eps, embedding_scale;
    FileMatrix embedding, head;
    std::vector<float> output_norm;
    std::vector<LayerSpec> layers;
};

class Model {
  public:
    using Progress = std::function<void(int64_t bytes_done)>;

    // Packs the weights, calling `progress` from this thread. `blocks` blocks of KV cache are reserved, not touched.
    // Throws std::invalid_argument for a spec that does not fit together, std::runtime_error without memory.
    Model(const ModelSpec& spec, int64_t blocks, KvType kv_type, int threads, Isa isa, const Progress& progress);

    // Logits of the sampled rows into `out`, (samples, vocab). Steps of several callers take turns. Throws
    // std::invalid_argument for rows that point outside the vocabulary, the tables or the cache.
    void logits(const StepRows& rows, float* out);

    // Chooses a token for each sampled row as its settings say (null or no settings at all: greedy); ids into `out`
    // (samples). `logprobs`, if given, gets one entry per sample.
    void sample(const StepRows& rows, const std::vector<const RowSampling*>& settings, int32_t* out,
                std::vector<RowLogprobs>* logprobs);

    // Has the system give the memory of some blocks of a layer's cache, which steps may use meanwhile. Throws
    // std::invalid_argument for what is not there.
    void ready_blocks(int64_t layer, int64_t first, int64_t count) const;

    // Counts the time of steps by phase from now on, from zero, or no longer. Not while a step runs.
    void explain(bool counting);
    // Seconds by phase, one entry per thread, of the steps since `explain`; none unless it is counting.
    std::map<std::string, std::vector<double>> phase_seconds() const;

    int64_t vocab() const { return vocab_; }
    int threads() const { return pool_.threads(); }
    Isa isa() const { return isa_; }
    int64_t layers() const { return static_cast<int64_t>(layers_.size()); }
    int64_t blocks() const { return blocks_; }
    KvType kv_type() const { return kv_type_; }
    int64_t kv_bytes() const { return static_cast<int64_t>(cache_.size()); }
    int64_t weight_bytes() const { return weight_bytes_; }  // of the matrices packed here, as the file has them
    int64_t arena_bytes() const { return static_cast<int64_t>(weights_.size()); }
    const char* pages() const { return name(weights_.pages()); }

  private:
    using Vector = std::vector<float>;  // empty where a layer has none

    struct Layer {
        AttentionShape attention;
        float scale;
        size_t rope, plan;  // indices into ropes_ and plans_
        Activation activation;
        Vector attn_norm, q_norm, k_norm, post_attention_norm, ffn_norm, post_ffw_norm;
        Vector q_bias, k_bias, v_bias, o_bias;
        Vector k_left_out;  // added to keys after their rotation
        Matrix q, k, v, o, gate, up, down;
        uint8_t* cache;       // of this layer
        int64_t block_bytes;  // of one block of this layer
    };

    // Up to so many rows a thread works alone.
    static constexpr int64_t kAloneRows = 8;
    // With more, so many tiles of gate and up are computed before they are activated: while they are in the cache.
    static constexpr int64_t kGateTiles = 16;

    static constexpr int kKinds = std::size(kActivations);  // prepared activations are by kind

    using Prepared = Buffer<uint8_t>[kKinds];
    // The residual stream, and what goes into its branches.
    struct Stream {
        Buffer<float> x, normed;  // (rows, hidden)
        Prepared prepared;
    };
    // What the branches make of it: (rows, elements).
    struct Branches {
        Buffer<float> q, k, v, attended, out;
        Prepared joint;  // by whoever made a part of them: of gate and up, and where there is one row of attention's output
    };
    // Weights that a thread reads next, in two streams, beyond the lines that its last product asked for: fetched while it
    // waits for others, so that who is early at one barrier is early at the next.
    class ReadingOn {
      public:
        ReadingOn() = default;
        explicit ReadingOn(const Next& next) : first_(next.first + kAhead), second_(next.second + kAhead), lines_(kMost / 64) {}
        // Asks for a line of each stream; false if there are no more.
        bool some() {
            if (lines_ == 0) return false;
            __builtin_prefetch(first_), __builtin_prefetch(second_);
            first_ += 64, second_ += 64, --lines_;
            return true;
        }

      private:
        static constexpr int64_t kMost = 16 << 10;  // of a stream: what a short wait has time for
        const uint8_t *first_ = nullptr, *second_ = nullptr;
        int64_t lines_ = 0;
    };
    struct Scratch {
        ReadingOn reading_on;
        Stream stream;
        Branches branches;
        Buffer<float> gate, gated, attention, logits;
        SamplingScratch sampling;
    };

    // How threads share a step. `alone`: with few rows each keeps up the whole residual stream by itself, which is cheaper
    // than a barrier, and has a part of the matrices. `shared`: each keeps up some rows of one stream, and has a part of
    // the matrices. `stretch`: some rows are one thread's, with whole matrices.
    enum class Walk { alone, shared, stretch };

    // What one thread works on.
    struct Lane {
        int thread;
        Walk walk;
        int64_t first, count;  // rows of the step: what follows is of these, numbered from 0
        Range rows;            // those of them that this thread keeps up
        int part, parts;       // of the matrices
        float *x = nullptr, *normed = nullptr, *q = nullptr, *k = nullptr, *v = nullptr, *attended = nullptr, *out = nullptr;
        uint8_t *prepared[kKinds] = {}, *joint[kKinds] = {};

        void take(Stream& stream);
        void take(Branches& branches);
    };
    // The greatest logit that a thread found.
    struct Greatest {
        float logit;
        int32_t token;
        // The first of equals wins.
        void take(const Greatest& other) {
            if (other.logit > logit || (other.logit == logit && other.token < token)) *this = other;
        }
    };
    // A matrix of a region that threads share, and where its products go.
    struct Product {
        const Matrix* matrix;
        float* out;  // (rows, matrix rows)
    };

    void pack_weights(const ModelSpec& spec, const Progress& progress);
    void count_work();
    Layer describe(const LayerSpec& spec, size_t index);
    void check(const StepRows& rows) const;
    void plan(const StepRows& rows);
    int64_t work(Range rows) const;
    bool balanced(int64_t rows, int64_t height) const;
    std::vector<Range> own_rows(const StepRows& rows) const;
    void make_room(const StepRows& rows);
    void set_samples_apart(const StepRows& rows);
    void run(const StepRows& rows, const std::function<void(int thread)>& after);
    void take_greatest(const StepRows& rows, int32_t* out);

    // The walk of one thread through a step: forward.cpp.
    void forward(const StepRows& rows, int thread);
    void mark(int thread, Phase phase);
    void meet(int thread, Phase phase);
    void finish(const Lane& lane, Phase phase);
    Lane lane(int64_t rows, int thread);
    Lane stretch(Range rows, int thread);
    void turn_tables(int thread);
    void embed(const StepRows& rows, const Lane& lane);
    void norm(const Lane& lane, const Vector& weight);
    void prepare(const Lane& lane, const float* x, int64_t columns, std::initializer_list<const Matrix*> readers);
    void prepared(const Lane& lane);
    template <typename Work>
    void share_tiles(const Lane& lane, int64_t bytes, Range own, const Work& work);
    static int64_t bytes_of(std::initializer_list<Product> products);
    static Range part_of(const Lane& lane, std::initializer_list<Product> products);
    static Next beginning(const Lane& lane, std::initializer_list<Product> products);
    Next after_layer(const Lane& lane, const Layer& layer) const;
    void multiply(const Lane& lane, uint8_t* const* prepared, std::initializer_list<Product> products, const Next& next);
    static bool prepares_attended(const Lane& lane, const Layer& layer);
    void enter(const Lane& lane, const Layer& layer, const Layer* before);
    void queries_and_keys(const Lane& lane, const Layer& layer, const Layer* before);
    void keys(const StepRows& rows, const Lane& lane, const Layer& layer, const Layer* before);
    void last_layer(const StepRows& rows, const Lane& all);
    void after_attention(const Lane& lane, const Layer& layer);
    void read_on(const Lane& lane, const Next& next);
    static Range part_of_gate(const Lane& lane, const Layer& layer);
    void gate_and_up(const Lane& lane, const Layer& layer);
    void multiply_tiles(const Matrix& matrix, Range some, const uint8_t* prepared, int64_t m, bool fresh, float* out,
                        const Next& next) const;
    void join(const Lane& lane, const Vector& bias, const Vector& post_norm);
    void head(const StepRows& rows, const Lane& lane);
    void greatest_logits(const Lane& lane);

    // Attention's part of it: attention.cpp.
    void attention(const StepRows& rows, const Layer& layer, const Lane& lane, AttentionPlan& plan);
    void store_keys(const StepRows& rows, const Layer& layer, const Lane& lane);
    void store_key(const StepRows& rows, const Layer& layer, const Lane& lane, int64_t row, int kv_head);
    void ready_queries(const Layer& layer, const Lane& lane, const AttentionItem& item, float* queries) const;
    HeadInput head_input(const Layer& layer, int64_t row, const Vector& bias, const Vector& weight, int head,
                         float scale) const;
    int64_t attention_floats() const;  // that it needs per thread

    int64_t hidden_, vocab_;
    float norm_eps_, embedding_scale_;
    Isa isa_;
    const MatmulKernels& matmul_;
    const VectorKernels& vector_;
    Pool pool_;
    Shares shares_;  // of the tiles of matrices
    std::unique_ptr<Tally[]> tallies_;  // (threads), while time is counted
    FileMatrix embedding_;
    std::shared_ptr<const uint8_t> embedding_rows_;
    Vector output_norm_;
    Matrix head_{};
    std::vector<Layer> layers_;
    std::vector<Rope> ropes_;
    Arena weights_;
    int64_t weight_bytes_ = 0;
    KvType kv_type_;
    int64_t blocks_;
    Arena cache_;

    // For plans of steps, in multiply-adds of all layers.
    int64_t row_work_ = 0;            // of a row in the matrices
    int64_t unpack_work_ = 0;         // as many as take as long as unpacking the matrices
    std::vector<int64_t> pair_work_;  // per plan: as many as a key and a row take

    // Buffers of a step; they grow to the largest that there was.
    int64_t widest_ = 0, query_width_ = 0, kv_width_ = 0, feed_forward_width_ = 0;
    Stretches stretches_;          // none where all walk together
    std::vector<Range> own_rows_;  // (threads) rows that each takes through all layers by itself, or none
    std::vector<AttentionPlan> plans_;
    std::vector<Scratch> scratch_;  // (threads)
    Stream stream_;
    Branches branches_;
    Buffer<float> logits_;                                                      // (samples, vocab)
    std::vector<Greatest> greatest_;                                            // (threads, samples)
    std::mutex stepping_;  // one step at a time, whoever calls: what it needs is made ready before threads meet
    std::vector<Buffer<float>> cosines_, sines_;                                // per rope: (positions, elements)
    int64_t turned_positions_ = 0, needed_positions_ = 0;                       // of them filled, and for this step
    std::vector<int32_t> positions_;                                            // (rows, then samples)
    std::vector<int32_t> sequence_of_;                                          // (rows)

    // Where few rows are sampled, the last layer after its keys, and the head, are a step of these alone: one sequence each,
    // in rows that follow all others.
    bool samples_apart_ = false;
    StepRows sampled_{};
    std::optional<AttentionPlan> sampled_plan_;
    std::vector<int32_t> sampled_slots_;  // (samples)
    std::vector<int32_t> numbers_;        // 0, 1, … to the rows and samples of the largest such step
};

}  // namespace membound
