#include "model.h"

#include <algorithm>
#include <stdexcept>

#include "format.h"

namespace membound {

namespace {

constexpr int64_t kPackBytes = 8 << 20;  // of the file between two reports: its pages can be given back meanwhile

// How many parts of at most `part` there are.
int64_t up(int64_t total, int64_t part) { return (total + part - 1) / part; }

// The activations of so many rows stay in a second cache; with fewer than the least, unpacking the weights anew for each
// stretch takes too long.
constexpr int64_t kStretchRows = 128, kLeastStretch = 64;

// When each thread had better take rows of its own through all layers (own_rows), measured with AVX-512 and two threads.
// All of them read all weights: not too often for the memory if each has so many rows for each thread that there is.
constexpr int64_t kOwnRowsPerThread = 5;
// What a layer's barriers take and cost, some 15 µs, as multiply-adds that take as long.
constexpr int64_t kLayerMeetings = 3 << 20;
// What each part of rows that a product takes together takes beside them, in rows.
constexpr int64_t kPartEffort = 2;
// In rows, how long weights take that are unpacked once more.
double unpack_rows(Type type) { return type == Type::Q4_0 || type == Type::Q4_1 ? 0.7 : 2.4; }

// Those parts.
int64_t parts_of(int64_t rows) {
    const int64_t group = quantized_group_rows(rows);
    return rows / group * up(group, kPanelRows) + up(rows % group, kPanelRows);
}

template <typename Array>
void grow(Array& buffer, int64_t size) {
    if (static_cast<int64_t>(buffer.size()) < size) buffer.resize(size);
}

[[noreturn]] void refuse(const std::string& message) { throw std::invalid_argument(message); }

void require_size(const std::vector<float>& vector, int64_t size, const std::string& name) {
    if (!vector.empty() && static_cast<int64_t>(vector.size()) != size) {
        refuse(name + " has " + std::to_string(vector.size()) + " elements, not " + std::to_string(size));
    }
}

// What is added to turned keys before they are kept: less the part of their bias that hardly turns, which in Qwen2.5 is so
// large that bf16 has no bits for the rest. All scores of a query are then less by the same, which softmax does not notice.
std::vector<float> left_out(const std::vector<float>& bias, const AttentionShape& shape, const Rope& rope) {
    constexpr float kStill = 1.0f / 1024;  // radians per position
    std::vector<float> added(bias.size());
    const int64_t half = rope.elements() / 2;
    for (size_t at = 0; at < bias.size(); ++at) {
        const int64_t element = static_cast<int64_t>(at) % shape.head_dim;
        const bool turns = element < 2 * half;
        if (turns && rope.frequencies[rope.adjacent ? element / 2 : element % half] >= kStill) continue;
        added[at] = turns ? -bias[at] * rope.amplitude : -bias[at];
    }
    return added;
}

}  // namespace

Model::Model(const ModelSpec& spec, int64_t blocks, KvType kv_type, int threads, Isa isa, const Progress& progress)
    : hidden_(spec.hidden), vocab_(spec.vocab), norm_eps_(spec.norm_eps), embedding_scale_(spec.embedding_scale),
      isa_(isa), matmul_(matmul_kernels(isa)), vector_(vector_kernels(isa)), pool_(threads), shares_(pool_.threads()),
      embedding_(spec.embedding), embedding_rows_(embedding_.bytes()), output_norm_(spec.output_norm), kv_type_(kv_type), blocks_(blocks) {
    if (blocks < 1 || blocks > INT32_MAX) refuse("blocks must be between 1 and 2147483647");
    if (embedding_.rows != vocab_ || embedding_.cols != hidden_) refuse("token_embd is not (vocab, hidden)");
    require_size(output_norm_, hidden_, "output_norm");
    for (size_t i = 0; i < spec.layers.size(); ++i) layers_.push_back(describe(spec.layers[i], i));
    if (!layers_.empty()) sampled_plan_.emplace(layers_.back().attention);
    widest_ = std::max({hidden_, query_width_, feed_forward_width_});

    int64_t cache_bytes = 0;
    for (const Layer& layer : layers_) {
        if (__builtin_add_overflow(cache_bytes, layer.block_bytes * blocks, &cache_bytes)) refuse("too many blocks");
    }
    cache_ = Arena(static_cast<size_t>(cache_bytes), "the KV cache; give it less (kv_memory)");
    uint8_t* next = cache_.data();
    for (Layer& layer : layers_) {
        layer.cache = next;
        next += layer.block_bytes * blocks;
    }
    pack_weights(spec, progress);
    count_work();
    scratch_.resize(pool_.threads());
    cosines_.resize(ropes_.size());
    sines_.resize(ropes_.size());
}

// For plans of steps.
void Model::count_work() {
    // A multiply-add of attention takes about so many of a matrix.
    constexpr int64_t kAttention = 4;
    pair_work_.resize(plans_.size());
    for (const Layer& layer : layers_) {
        for (const Matrix* matrix : {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down}) {
            const int64_t work = matrix->rows * matrix->cols;
            row_work_ += work;
            unpack_work_ += static_cast<int64_t>(unpack_rows(matrix->type) * static_cast<double>(work));
        }
        pair_work_[layer.plan] += 2 * kAttention * layer.attention.head_dim;
    }
}

Model::Layer Model::describe(const LayerSpec& spec, size_t index) {
    const AttentionShape& a = spec.attention;
    const std::string prefix = "blk." + std::to_string(index) + ".";
    if (a.heads < 1 || a.kv_heads < 1 || a.heads % a.kv_heads != 0 || a.head_dim < 2 || a.window < 0) {
        refuse(prefix + "attn: bad dimensions");
    }
    if (spec.rope.elements() > a.head_dim) refuse(prefix + "attn: more elements turn than a head has");
    const auto vector = [&](const std::string& name, int64_t size, bool needed) {
        const auto found = spec.vectors.find(name);
        if (found == spec.vectors.end()) {
            if (needed) refuse(prefix + name + " is missing");
            return Vector{};
        }
        require_size(found->second, size, prefix + name);
        return found->second;
    };
    const auto bias = [&](const std::string& name, int64_t size) {
        const auto found = spec.biases.find(name);
        if (found == spec.biases.end()) return Vector{};
        require_size(found->second, size, prefix + name + ".bias");
        return found->second;
    };
    const int64_t queries = int64_t{a.heads} * a.head_dim, keys = int64_t{a.kv_heads} * a.head_dim;
    Layer layer{};
    layer.attention = a;
    layer.scale = spec.scale;
    layer.activation = spec.activation;
    layer.rope = std::find(ropes_.begin(), ropes_.end(), spec.rope) - ropes_.begin();
    if (layer.rope == ropes_.size()) ropes_.push_back(spec.rope);
    while (layer.plan < plans_.size() && !(plans_[layer.plan].shape() == a)) ++layer.plan;
    if (layer.plan == plans_.size()) plans_.emplace_back(a);
    layer.attn_norm = vector("attn_norm", hidden_, true);
    layer.ffn_norm = vector("ffn_norm", hidden_, true);
    layer.q_norm = vector("attn_q_norm", a.head_dim, false);
    layer.k_norm = vector("attn_k_norm", a.head_dim, false);
    layer.post_attention_norm = vector("post_attention_norm", hidden_, false);
    layer.post_ffw_norm = vector("post_ffw_norm", hidden_, false);
    layer.q_bias = bias("attn_q", queries);
    layer.k_bias = bias("attn_k", keys);
    layer.k_left_out = left_out(layer.k_bias, a, spec.rope);
    layer.v_bias = bias("attn_v", keys);
    layer.o_bias = bias("attn_output", hidden_);
    const auto gate = spec.matrices.find("ffn_gate");
    const int64_t width = gate == spec.matrices.end() ? 0 : gate->second.rows;
    const auto matrix = [&](const std::string& name, int64_t rows, int64_t cols) {
        const auto found = spec.matrices.find(name);
        if (found == spec.matrices.end()) refuse(prefix + name + " is missing");
        if (found->second.rows != rows || found->second.cols != cols) {
            refuse(prefix + name + " is not (" + std::to_string(rows) + ", " + std::to_string(cols) + ")");
        }
        file_row_bytes(found->second.type, cols);  // refuses half blocks
        return Matrix{found->second.type, rows, cols, nullptr};
    };
    layer.q = matrix("attn_q", queries, hidden_);
    layer.k = matrix("attn_k", keys, hidden_);
    layer.v = matrix("attn_v", keys, hidden_);
    layer.o = matrix("attn_output", hidden_, queries);
    layer.gate = matrix("ffn_gate", width, hidden_);
    layer.up = matrix("ffn_up", width, hidden_);
    layer.down = matrix("ffn_down", hidden_, width);
    layer.block_bytes = 2 * kv_tile_bytes(kv_type_, a.head_dim) * a.kv_heads;
    query_width_ = std::max(query_width_, queries);
    kv_width_ = std::max(kv_width_, keys);
    feed_forward_width_ = std::max(feed_forward_width_, width);
    return layer;
}

void Model::pack_weights(const ModelSpec& spec, const Progress& progress) {
    if (spec.head.rows != vocab_ || spec.head.cols != hidden_) refuse("the head is not (vocab, hidden)");
    struct Packing {
        Matrix* matrix;
        const FileMatrix* file;
    };
    std::vector<Packing> order;
    for (size_t i = 0; i < layers_.size(); ++i) {
        const auto& files = spec.layers[i].matrices;
        Layer& layer = layers_[i];
        for (const auto& [name, matrix] : {std::pair{"attn_q", &layer.q}, {"attn_k", &layer.k}, {"attn_v", &layer.v},
                                           {"attn_output", &layer.o}, {"ffn_gate", &layer.gate},
                                           {"ffn_up", &layer.up}, {"ffn_down", &layer.down}}) {
            order.push_back({matrix, &files.at(name)});
        }
    }
    head_ = {spec.head.type, vocab_, hidden_, nullptr};
    order.push_back({&head_, &spec.head});

    size_t total = 0;
    for (const Packing& packing : order) {
        total += packed_bytes(packing.matrix->type, packing.matrix->rows, packing.matrix->cols);
    }
    weights_ = Arena(total, "the weights");
    uint8_t* next = weights_.data();
    for (const Packing& packing : order) {
        Matrix& matrix = *packing.matrix;
        const std::shared_ptr<const uint8_t> file = packing.file->bytes();
        const int64_t row_bytes = static_cast<int64_t>(file_row_bytes(matrix.type, matrix.cols));
        const int64_t all_tiles = tiles(matrix.rows);
        const int64_t at_once = std::max<int64_t>(pool_.threads(), kPackBytes / (row_bytes * kTileRows));
        for (int64_t done = 0; done < all_tiles; done += at_once) {
            const int64_t count = std::min(at_once, all_tiles - done);
            pool_.run([&](int thread) {
                const Range part = share(count, thread, pool_.threads());
                pack(matrix.type, file.get(), matrix.rows, matrix.cols, done + part.begin, done + part.end, next);
            });
            if (progress) progress(weight_bytes_ + row_bytes * std::min(matrix.rows, (done + count) * kTileRows));
        }
        matrix.data = next;
        next += packed_bytes(matrix.type, matrix.rows, matrix.cols);
        weight_bytes_ += row_bytes * matrix.rows;
    }
}

void Model::check(const StepRows& rows) const {
    if (rows.rows < 1 || rows.sequences < 1) refuse("a step needs at least one row");
    if (rows.starts[0] != 0 || rows.starts[rows.sequences] != rows.rows) refuse("starts do not cover the rows");
    for (int64_t s = 0; s < rows.sequences; ++s) {
        if (rows.starts[s] >= rows.starts[s + 1]) refuse("starts must ascend");
        if (rows.first_positions[s] < 0) refuse("positions must not be negative");
        if (rows.slots[s] < 0 || rows.slots[s] >= rows.table_rows) refuse("a slot lies outside the block tables");
        const int64_t length = int64_t{rows.first_positions[s]} + rows.starts[s + 1] - rows.starts[s];
        const int64_t needed = (length + kBlockTokens - 1) / kBlockTokens;
        if (needed > rows.table_width) refuse("a position lies outside its block table");
        const int32_t* table = rows.tables + int64_t{rows.slots[s]} * rows.table_width;
        for (int64_t i = 0; i < needed; ++i) {
            if (table[i] < 0 || table[i] >= blocks_) refuse("block " + std::to_string(table[i]) + " is not in the cache");
        }
    }
    for (int64_t i = 0; i < rows.rows; ++i) {
        if (rows.tokens[i] < 0 || rows.tokens[i] >= vocab_) {
            refuse("token " + std::to_string(rows.tokens[i]) + " is not in the vocabulary of " + std::to_string(vocab_));
        }
    }
    if (rows.samples > rows.rows) refuse("more samples than rows");
    for (int64_t i = 0; i < rows.samples; ++i) {
        if (rows.sample_rows[i] < 0 || rows.sample_rows[i] >= rows.rows) refuse("a sampled row is none of the step's");
    }
}

// Who walks which rows, and who computes which part of attention.
void Model::plan(const StepRows& rows) {
    const int threads = pool_.threads();
    // So many stretches that a quicker thread finds something to take, as equal as may be.
    const int64_t most = std::min(kStretchRows, up(rows.rows, 2 * threads));
    int64_t height = up(up(rows.rows, up(rows.rows, most)), kTileRows) * kTileRows;
    if (height < kLeastStretch) height = 0;
    const auto make = [&] {
        for (AttentionPlan& plan : plans_) plan.make(rows, threads, height);
    };
    make();
    if (height > 0 && !balanced(rows.rows, height)) {
        height = 0;
        make();
    }
    stretches_.make(rows.rows, height, static_cast<int64_t>(layers_.size()));
    own_rows_ = height > 0 ? std::vector<Range>() : own_rows(rows);
    samples_apart_ = rows.rows > kAloneRows && 2 * rows.samples <= rows.rows && sampled_plan_;
}

// Multiply-adds of some rows in all layers: of matrices, and as many as their attention, of whole items, takes as long.
int64_t Model::work(Range rows) const {
    int64_t sum = (rows.end - rows.begin) * row_work_;
    for (size_t i = 0; i < plans_.size(); ++i) sum += pair_work_[i] * plans_[i].cost(rows);
    return sum;
}

// Whether no stretch takes a thread longer than all of them take all threads: where one has sequences with long contexts,
// threads share them better.
bool Model::balanced(int64_t rows, int64_t height) const {
    int64_t most = 0, all = 0;
    for (int64_t begin = 0; begin < rows; begin += height) {
        const int64_t stretch = work({begin, std::min(begin + height, rows)});
        most = std::max(most, stretch);
        all += stretch;
    }
    return most <= all / pool_.threads();
}

// The rows in one part for each thread, equal in work; none if they had better share each layer.
std::vector<Range> Model::own_rows(const StepRows& rows) const {
    const int threads = pool_.threads();
    if (threads == 1 || isa_ == Isa::amx || rows.rows < kOwnRowsPerThread * threads * threads) return {};
    for (const AttentionPlan& plan : plans_) {
        if (!plan.keys_have_one_reader()) return {};
    }
    const auto in_parts = [&](int64_t count) { return parts_of(count) * kPartEffort * row_work_ + unpack_work_; };
    const int64_t all = work({0, rows.rows});
    std::vector<Range> parts;
    int64_t sequence = 0, done = 0, longest = 0;
    for (int thread = 0; thread < threads; ++thread) {
        const int64_t first = sequence, before = done, end = all * (thread + 1) / threads;
        for (; sequence < rows.sequences; ++sequence) {
            const int64_t next = work({rows.starts[sequence], rows.starts[sequence + 1]});
            if (done + next / 2 >= end) break;
            done += next;
        }
        const Range own{rows.starts[first], rows.starts[sequence]};
        if (own.begin == own.end) return {};
        parts.push_back(own);
        longest = std::max(longest, done - before + in_parts(own.end - own.begin));
    }
    const int64_t shared = (all + in_parts(rows.rows)) / threads + static_cast<int64_t>(layers_.size()) * kLayerMeetings;
    return longest <= shared ? parts : std::vector<Range>();
}

void Model::make_room(const StepRows& rows) {
    const int64_t n = rows.rows, samples = rows.samples;
    int64_t height = stretches_.height();
    for (const Range& own : own_rows_) height = std::max(height, own.end - own.begin);
    const int64_t alone = std::min(std::max(n, samples), kAloneRows);
    // Rows of buffers that threads share, but for the residual stream, and of each thread's own.
    const int64_t shared = std::max(height > 0 ? 0 : n, samples_apart_ ? samples : 0), own = height > 0 ? height : alone;
    const auto fit_prepared = [&](Prepared& prepared, int64_t count) {
        for (Activations kind : kActivations) {
            grow(prepared[static_cast<int>(kind)], static_cast<int64_t>(activation_bytes(kind, count, widest_)));
        }
    };
    const auto fit_inputs = [&](Stream& stream, int64_t count) {
        grow(stream.normed, count * hidden_);
        fit_prepared(stream.prepared, count);
    };
    const auto fit_branches = [&](Branches& branches, int64_t count) {
        grow(branches.q, count * query_width_);
        grow(branches.k, count * kv_width_);
        grow(branches.v, count * kv_width_);
        grow(branches.attended, count * query_width_);
        grow(branches.out, count * hidden_);
        fit_prepared(branches.joint, count);
    };
    grow(stream_.x, (samples_apart_ ? n + samples : n) * hidden_);
    fit_inputs(stream_, std::max(shared, samples));
    fit_branches(branches_, shared);
    // Few rows compute all columns of gate and up before they are activated, many some.
    const int64_t some_columns = std::min(kGateTiles * kTileRows, feed_forward_width_);
    const int64_t gate_floats = std::max(alone * feed_forward_width_, std::max(shared, own) * some_columns);
    for (Scratch& scratch : scratch_) {
        grow(scratch.stream.x, alone * hidden_);
        fit_inputs(scratch.stream, std::max(own, alone));
        if (height > 0) fit_branches(scratch.branches, own);
        grow(scratch.gate, gate_floats);
        grow(scratch.gated, gate_floats);
        grow(scratch.attention, attention_floats());
    }
    if (!rows.greatest_only) grow(logits_, samples * vocab_);
    grow(greatest_, samples * pool_.threads());
    grow(positions_, n + samples);
    grow(sequence_of_, n);
    for (int64_t s = 0; s < rows.sequences; ++s) {
        for (int32_t row = rows.starts[s]; row < rows.starts[s + 1]; ++row) {
            positions_[row] = rows.first_positions[s] + row - rows.starts[s];
            sequence_of_[row] = static_cast<int32_t>(s);
        }
        needed_positions_ = std::max<int64_t>(needed_positions_, rows.first_positions[s] + rows.starts[s + 1] - rows.starts[s]);
    }
    for (size_t i = 0; i < ropes_.size(); ++i) {
        grow(cosines_[i], needed_positions_ * ropes_[i].elements());
        grow(sines_[i], needed_positions_ * ropes_[i].elements());
    }
    if (samples_apart_) set_samples_apart(rows);
}

// The step of the sampled rows alone; needs the positions of all rows.
void Model::set_samples_apart(const StepRows& rows) {
    const int64_t samples = rows.samples;
    grow(sampled_slots_, samples);
    for (int64_t i = 0; i < samples; ++i) {
        const int32_t row = rows.sample_rows[i];
        positions_[rows.rows + i] = positions_[row];
        sampled_slots_[i] = rows.slots[sequence_of_[row]];
    }
    for (auto number = static_cast<int32_t>(numbers_.size()); number <= rows.rows + samples; ++number) numbers_.push_back(number);
    sampled_ = rows;
    sampled_.rows = sampled_.sequences = samples;
    sampled_.starts = numbers_.data() + rows.rows;
    sampled_.first_positions = positions_.data() + rows.rows;
    sampled_.slots = sampled_slots_.data();
    sampled_.sample_rows = numbers_.data();
    sampled_plan_->make(sampled_, pool_.threads(), 0, true);
}

void Model::run(const StepRows& rows, const std::function<void(int)>& after) {
    const auto mark_all = [&](Phase phase) {
        for (int thread = 0; thread < pool_.threads(); ++thread) mark(thread, phase);
    };
    mark_all(Phase::outside);
    check(rows);
    plan(rows);
    make_room(rows);
    mark_all(Phase::planning);
    pool_.run([&](int thread) {
        mark(thread, Phase::waiting);
        forward(rows, thread);
        after(thread);
    });
    turned_positions_ = needed_positions_;
    mark_all(Phase::waiting);
}

void Model::explain(bool counting) {
    tallies_ = counting ? std::make_unique<Tally[]>(pool_.threads()) : nullptr;
}

std::map<std::string, std::vector<double>> Model::phase_seconds() const {
    std::map<std::string, std::vector<double>> seconds;
    if (!tallies_) return seconds;
    for (size_t phase = 0; phase < kPhaseNames.size(); ++phase) {
        for (int thread = 0; thread < pool_.threads(); ++thread) {
            seconds[kPhaseNames[phase]].push_back(static_cast<double>(tallies_[thread].nanoseconds[phase]) * 1e-9);
        }
    }
    return seconds;
}

void Model::logits(const StepRows& rows, float* out) {
    const std::lock_guard lock(stepping_);
    run(rows, [](int) {});
    std::copy_n(logits_.data(), rows.samples * vocab_, out);
}

void Model::ready_blocks(int64_t layer, int64_t first, int64_t count) const {
    if (layer < 0 || layer >= layers()) refuse("there is no such layer");
    if (first < 0 || count < 0 || first > blocks_ || count > blocks_ - first) refuse("there are no such blocks");
    const Layer& its = layers_[layer];
    const int64_t offset = its.cache - cache_.data() + first * its.block_bytes;
    cache_.ready(static_cast<size_t>(offset), static_cast<size_t>(count * its.block_bytes));
}

void Model::sample(const StepRows& rows, const std::vector<const RowSampling*>& settings, int32_t* out,
                   std::vector<RowLogprobs>* logprobs) {
    const auto plain = [](const RowSampling* row) { return !row || row->plain(); };
    if (!settings.empty() && static_cast<int64_t>(settings.size()) != rows.samples) refuse("one setting per sample");
    for (const RowSampling* row : settings) {
        if (row) check_history(*row, vocab_);
    }
    if (logprobs) logprobs->resize(rows.samples);
    const std::lock_guard lock(stepping_);
    if (std::all_of(settings.begin(), settings.end(), plain)) return take_greatest(rows, out);
    run(rows, [&](int thread) {
        meet(thread, Phase::head);
        static const RowSampling greedy;
        const Range mine = share(rows.samples, thread, pool_.threads());
        for (int64_t sample = mine.begin; sample < mine.end; ++sample) {
            const RowSampling& row = settings[sample] ? *settings[sample] : greedy;
            out[sample] = sample_row(vector_, row, positions_[rows.sample_rows[sample]] + 1,
                                     logits_.data() + sample * vocab_, vocab_, scratch_[thread].sampling,
                                     logprobs ? &(*logprobs)[sample] : nullptr);
        }
        mark(thread, Phase::sampling);
    });
}

void Model::take_greatest(const StepRows& rows, int32_t* out) {
    StepRows step = rows;
    step.greatest_only = true;
    run(step, [](int) {});
    for (int64_t sample = 0; sample < rows.samples; ++sample) {
        Greatest best = greatest_[sample];
        for (int thread = 1; thread < pool_.threads(); ++thread) best.take(greatest_[thread * rows.samples + sample]);
        out[sample] = best.token;
    }
}

}  // namespace membound
