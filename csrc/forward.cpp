// One thread's walk through a step.
#include <algorithm>
#include <cmath>
#include <limits>

#include "format.h"
#include "model.h"

namespace membound {

namespace {

// Logits of which only the greatest are wanted are computed so many at a time: while they are in the cache.
constexpr int64_t kLogitsTogether = 32768;

// Bytes of weights times rows from which threads help each other out: some 80 µs of work for one.
constexpr int64_t kWorthSharing = 8 << 20;

// Rows that pass through several operations together, so that they stay in the cache.
constexpr int64_t kRowsTogether = 16;

int64_t tile_bytes(const Matrix& matrix) { return static_cast<int64_t>(packed_bytes(matrix.type, kTileRows, matrix.cols)); }

int64_t all_bytes(const Matrix& matrix) { return tiles(matrix.rows) * tile_bytes(matrix); }

// Where the streams of some tiles begin.
Next streams(const Matrix& matrix, Range some) {
    const auto at = [&](int64_t tile) { return matrix.data + tile * tile_bytes(matrix); };
    return {at(some.begin), at(some.begin + (some.end - some.begin) / 2)};
}

// Calls work(lane of some rows) for all rows of a lane.
template <typename Lane, typename Work>
void in_groups(const Lane& lane, const Work& work) {
    Lane group = lane;
    for (int64_t row = lane.rows.begin; row < lane.rows.end; row += kRowsTogether) {
        group.rows = {row, std::min(row + kRowsTogether, lane.rows.end)};
        work(group);
    }
}

}  // namespace

void Model::forward(const StepRows& rows, int thread) {
    const Lane lane = this->lane(rows.rows, thread);
    scratch_[thread].reading_on = {};
    turn_tables(thread);
    embed(rows, lane);
    const Layer* const shortened = samples_apart_ ? &layers_.back() : nullptr;
    // Others embedded some of what is then a thread's own, and made the rotations.
    if (stretches_.height() > 0 || !own_rows_.empty()) meet(thread, Phase::norms);
    if (stretches_.height() > 0) {
        for (Stretches::Turn turn; stretches_.take(turn);) {
            mark(thread, Phase::waiting);
            const Layer& layer = layers_[turn.layer];
            const Lane own = stretch(turn.rows, thread);
            if (&layer == shortened) {
                keys(rows, own, layer, nullptr);
                continue;
            }
            queries_and_keys(own, layer, nullptr);
            store_keys(rows, layer, own);
            stretches_.keys_stored(turn);
            mark(thread, Phase::rotation);
            stretches_.await_keys(turn);
            mark(thread, Phase::waiting);
            attention(rows, layer, own, plans_[layer.plan]);
            after_attention(own, layer);
            join(own, {}, layer.post_ffw_norm);
            stretches_.done(turn);
            mark(thread, Phase::norms);
        }
    } else {
        const Lane mine = own_rows_.empty() ? lane : stretch(own_rows_[thread], thread);
        const Layer* before = nullptr;
        for (const Layer& layer : layers_) {
            if (&layer == shortened) {
                keys(rows, mine, layer, before);
                break;
            }
            queries_and_keys(mine, layer, before);
            AttentionPlan& plan = plans_[layer.plan];
            if (!plan.keys_have_one_reader()) {
                store_keys(rows, layer, mine);
                meet(thread, Phase::rotation);
            }
            attention(rows, layer, mine, plan);
            after_attention(mine, layer);
            before = &layer;
        }
        if (before && !shortened) join(mine, {}, before->post_ffw_norm);
        mark(thread, Phase::norms);
    }
    if (rows.samples == 0) return;
    if (shortened) {
        meet(thread, Phase::norms);  // for the keys of all rows
        last_layer(rows, lane);
    } else {
        head(rows, lane);
    }
}

// What a layer's queries, keys and values are made of; what the layer before it left to join comes first.
void Model::enter(const Lane& lane, const Layer& layer, const Layer* before) {
    in_groups(lane, [&](const Lane& group) {
        if (before) join(group, {}, before->post_ffw_norm);
        norm(group, layer.attn_norm);
        prepare(group, lane.normed, hidden_, {&layer.q, &layer.k, &layer.v});
    });
    prepared(lane);
}

void Model::queries_and_keys(const Lane& lane, const Layer& layer, const Layer* before) {
    enter(lane, layer, before);
    multiply(lane, lane.prepared, {{&layer.q, lane.q}, {&layer.k, lane.k}, {&layer.v, lane.v}}, beginning(lane, {{&layer.o, lane.out}}));
    finish(lane, Phase::qkv);
}

// All that a row has to do in the last layer if it is not sampled: later tokens see its key and value.
void Model::keys(const StepRows& rows, const Lane& lane, const Layer& layer, const Layer* before) {
    enter(lane, layer, before);
    multiply(lane, lane.prepared, {{&layer.k, lane.k}, {&layer.v, lane.v}}, {});
    finish(lane, Phase::qkv);
    store_keys(rows, layer, lane);
    mark(lane.thread, Phase::rotation);
}

// The rest of the last layer, and the head, for the sampled rows of a lane with all rows.
void Model::last_layer(const StepRows& rows, const Lane& all) {
    const Layer& layer = layers_.back();
    Lane lane = this->lane(sampled_.rows, all.thread);
    lane.first = all.count;
    if (lane.walk == Walk::shared) lane.x += all.count * hidden_;
    for (int64_t row = lane.rows.begin; row < lane.rows.end; ++row) {
        std::copy_n(stream_.x.data() + rows.sample_rows[row] * hidden_, hidden_, lane.x + row * hidden_);
    }
    enter(lane, layer, nullptr);
    multiply(lane, lane.prepared, {{&layer.q, lane.q}}, beginning(lane, {{&layer.o, lane.out}}));
    finish(lane, Phase::qkv);
    attention(sampled_, layer, lane, *sampled_plan_);
    after_attention(lane, layer);
    join(lane, {}, layer.post_ffw_norm);
    mark(lane.thread, Phase::norms);
    head(sampled_, lane);
}

// A layer from its attention's output on, but for the last branch's join.
void Model::after_attention(const Lane& lane, const Layer& layer) {
    finish(lane, Phase::attention);
    const Next gate = streams(layer.gate, part_of_gate(lane, layer));
    if (prepares_attended(lane, layer)) {
        multiply(lane, lane.joint, {{&layer.o, lane.out}}, gate);
    } else {
        prepare(lane, lane.attended, layer.o.cols, {&layer.o});
        prepared(lane);
        multiply(lane, lane.prepared, {{&layer.o, lane.out}}, gate);
    }
    finish(lane, Phase::output);
    in_groups(lane, [&](const Lane& group) {
        join(group, layer.o_bias, layer.post_attention_norm);
        norm(group, layer.ffn_norm);
        prepare(group, lane.normed, hidden_, {&layer.gate, &layer.up});
    });
    prepared(lane);
    gate_and_up(lane, layer);
    finish(lane, Phase::gate_up);
    multiply(lane, lane.joint, {{&layer.down, lane.out}}, after_layer(lane, layer));
    finish(lane, Phase::down);
}

// Where a lane reads on after a layer.
Next Model::after_layer(const Lane& lane, const Layer& layer) const {
    if (&layer == &layers_.back()) return streams(head_, share(tiles(vocab_), lane.part, lane.parts));
    const Layer& next = (&layer)[1];
    return beginning(lane, {{&next.q, lane.q}, {&next.k, lane.k}, {&next.v, lane.v}});
}

void Model::mark(int thread, Phase phase) {
    if (tallies_) tallies_[thread].mark(phase);
}

// Ends a phase where every thread needs what the others wrote in it.
void Model::meet(int thread, Phase phase) {
    mark(thread, phase);
    pool_.barrier(thread, [&] { return scratch_[thread].reading_on.some(); });
    mark(thread, Phase::waiting);
}

// Ends a phase after which a lane's rows need all columns.
void Model::finish(const Lane& lane, Phase phase) {
    lane.walk == Walk::stretch ? mark(lane.thread, phase) : meet(lane.thread, phase);
}

void Model::Lane::take(Stream& stream) {
    x = stream.x.data();
    normed = stream.normed.data();
    for (int kind = 0; kind < kKinds; ++kind) prepared[kind] = stream.prepared[kind].data();
}

void Model::Lane::take(Branches& branches) {
    q = branches.q.data();
    k = branches.k.data();
    v = branches.v.data();
    attended = branches.attended.data();
    out = branches.out.data();
    for (int kind = 0; kind < kKinds; ++kind) joint[kind] = branches.joint[kind].data();
}

// All rows of a step, or of the samples.
Model::Lane Model::lane(int64_t rows, int thread) {
    const bool alone = rows <= kAloneRows;
    // Shared in whole groups of prepared activations where there are enough rows.
    const int64_t group = quantized_group_rows(rows), grain = rows >= group * pool_.threads() ? group : 8;
    const Range mine = alone ? Range{0, rows} : share(rows, thread, pool_.threads(), grain);
    Lane lane{.thread = thread, .walk = alone ? Walk::alone : Walk::shared, .first = 0, .count = rows, .rows = mine,
              .part = thread, .parts = pool_.threads()};
    lane.take(alone ? scratch_[thread].stream : stream_);
    lane.take(branches_);
    return lane;
}

// Some rows that are one thread's.
Model::Lane Model::stretch(Range rows, int thread) {
    const int64_t first = rows.begin, count = rows.end - first;
    Lane lane{.thread = thread, .walk = Walk::stretch, .first = first, .count = count, .rows = {0, count},
              .part = 0, .parts = 1};
    lane.take(scratch_[thread].stream);
    lane.take(scratch_[thread].branches);
    lane.x = stream_.x.data() + first * hidden_;
    return lane;
}

// Rotations of the positions that no step has had yet.
void Model::turn_tables(int thread) {
    const Range mine = share(needed_positions_ - turned_positions_, thread, pool_.threads());
    for (size_t i = 0; i < ropes_.size(); ++i) {
        const Rope& rope = ropes_[i];
        const int64_t n = rope.elements();
        for (int64_t position = turned_positions_ + mine.begin; position < turned_positions_ + mine.end; ++position) {
            float* cosines = cosines_[i].data() + position * n;
            float* sines = sines_[i].data() + position * n;
            for (int64_t pair = 0; pair < n / 2; ++pair) {
                // The angle is rounded to float32, as where the models were trained.
                const double angle = static_cast<float>(position) * rope.frequencies[pair];
                const float c = static_cast<float>(std::cos(angle)) * rope.amplitude;
                const float s = static_cast<float>(std::sin(angle)) * rope.amplitude;
                const int64_t low = rope.adjacent ? 2 * pair : pair, high = rope.adjacent ? low + 1 : pair + n / 2;
                cosines[low] = cosines[high] = c;
                sines[low] = -s;
                sines[high] = s;
            }
        }
    }
}

void Model::embed(const StepRows& rows, const Lane& lane) {
    const int64_t row_bytes = static_cast<int64_t>(file_row_bytes(embedding_.type, hidden_));
    for (int64_t row = lane.rows.begin; row < lane.rows.end; ++row) {
        float* x = lane.x + row * hidden_;
        dequantize(embedding_.type, embedding_rows_.get() + rows.tokens[row] * row_bytes, hidden_, x);
        if (embedding_scale_ != 1) vector_.scale(x, embedding_scale_, hidden_, x);
    }
}

void Model::norm(const Lane& lane, const Vector& weight) {
    for (int64_t row = lane.rows.begin; row < lane.rows.end; ++row) {
        vector_.rms_norm(lane.x + row * hidden_, weight.data(), norm_eps_, hidden_, lane.normed + row * hidden_);
    }
}

// Makes this lane's rows of x (rows, columns) ready for the matrices that read them.
void Model::prepare(const Lane& lane, const float* x, int64_t columns, std::initializer_list<const Matrix*> readers) {
    for (Activations kind : kActivations) {
        const auto takes = [&](const Matrix* matrix) { return activations_of(matrix->type) == kind; };
        if (lane.rows.begin == lane.rows.end || std::none_of(readers.begin(), readers.end(), takes)) continue;
        matmul_.prepare(kind, x, columns, lane.count, columns, lane.rows, {0, columns},
                        lane.prepared[static_cast<int>(kind)]);
    }
}

// All rows are ready: whoever shares them meets.
void Model::prepared(const Lane& lane) {
    lane.walk == Walk::shared ? meet(lane.thread, Phase::norms) : mark(lane.thread, Phase::norms);
}

// Calls work(some tiles) until none is left of `bytes` of them in all. `own` is this lane's part.
template <typename Work>
void Model::share_tiles(const Lane& lane, int64_t bytes, Range own, const Work& work) {
    // Reading weights takes about as long as three rows' arithmetic with them. What is soon done is over before a thread has
    // found what others left of it.
    if (lane.parts == 1 || bytes / lane.parts * (lane.count + 3) < kWorthSharing) return work(own);
    // As few as keep products of one row in two streams, and of many in strips of two tiles.
    const int64_t grain = lane.walk == Walk::alone ? 4 : 2;
    shares_.begin(lane.part, own);
    for (Range some; shares_.take(lane.part, grain, some);) work(some);
}

int64_t Model::bytes_of(std::initializer_list<Product> products) {
    int64_t bytes = 0;
    for (const Product& product : products) bytes += all_bytes(*product.matrix);
    return bytes;
}

// A lane's part of matrices that read the same activations: their tiles in one line, cut where each part's share of the bytes
// ends.
Range Model::part_of(const Lane& lane, std::initializer_list<Product> products) {
    // The first tile that begins at or after a byte of all.
    const auto tile_at = [&](int64_t byte) {
        int64_t at = 0;
        for (const Product& product : products) {
            const Matrix& matrix = *product.matrix;
            const int64_t count = tiles(matrix.rows);
            const int64_t tile = std::max<int64_t>((byte + tile_bytes(matrix) - 1) / tile_bytes(matrix), 0);
            if (tile < count) return at + tile;
            byte -= count * tile_bytes(matrix);
            at += count;
        }
        return at;
    };
    const int64_t bytes = bytes_of(products);
    return {tile_at(bytes * lane.part / lane.parts), tile_at(bytes * (lane.part + 1) / lane.parts)};
}

// Where a lane begins to read such matrices.
Next Model::beginning(const Lane& lane, std::initializer_list<Product> products) {
    Range part = part_of(lane, products);
    for (const Product& product : products) {
        const int64_t count = tiles(product.matrix->rows);
        if (part.begin < count) return streams(*product.matrix, {part.begin, std::min(part.end, count)});
        part = {part.begin - count, part.end - count};
    }
    return {};
}

// Products with such matrices; then this thread reads on at `next`.
void Model::multiply(const Lane& lane, uint8_t* const* prepared, std::initializer_list<Product> products, const Next& next) {
    const Range own = part_of(lane, products);
    share_tiles(lane, bytes_of(products), own, [&](Range some) {
        bool fresh = lane.walk == Walk::shared && some.begin == own.begin;
        const bool whole = some.begin == own.begin && some.end == own.end;
        for (const Product* product = products.begin(); product != products.end(); ++product) {
            const Matrix& matrix = *product->matrix;
            const int64_t count = tiles(matrix.rows);
            const Range here{std::max<int64_t>(some.begin, 0), std::min(some.end, count)};
            some = {some.begin - count, some.end - count};
            if (here.begin >= here.end) continue;
            Next then;
            if (some.end > 0) {
                then = streams(*product[1].matrix, {0, std::min(some.end, tiles(product[1].matrix->rows))});
            } else if (whole) {
                then = next;
                read_on(lane, next);
            }
            matmul_.multiply(matrix, here.begin, here.end, prepared[static_cast<int>(activations_of(matrix.type))], lane.count,
                             fresh, product->out, matrix.rows, then);
            fresh = false;
        }
    });
}

// Notes what this thread reads after a product.
void Model::read_on(const Lane& lane, const Next& next) {
    const bool in_streams = lane.walk == Walk::alone && lane.count == 1 && next.first;
    scratch_[lane.thread].reading_on = in_streams ? ReadingOn(next) : ReadingOn();
}

// In twos, as activations are prepared.
Range Model::part_of_gate(const Lane& lane, const Layer& layer) {
    return share(tiles(layer.gate.rows), lane.part, lane.parts, 2);
}

// What comes out is made ready for `down` while it is in the cache: its columns have scales of their own.
void Model::gate_and_up(const Lane& lane, const Layer& layer) {
    const int64_t width = layer.gate.rows;
    const Range own = part_of_gate(lane, layer);
    const auto activate = layer.activation == Activation::silu ? vector_.gate_silu : vector_.gate_gelu;
    const Activations kind = activations_of(layer.down.type);
    float *gate = scratch_[lane.thread].gate.data(), *gated = scratch_[lane.thread].gated.data();
    const auto gate_tiles = [&](Range some) {
        const Range columns{some.begin * kTileRows, std::min(some.end * kTileRows, width)};
        const int64_t count = columns.end - columns.begin;
        const auto product = [&](const Matrix& matrix, bool fresh, float* out, const Next& next) {
            const uint8_t* prepared = lane.prepared[static_cast<int>(activations_of(matrix.type))];
            multiply_tiles(matrix, some, prepared, lane.count, fresh, out, next);
        };
        product(layer.gate, lane.walk == Walk::shared && some.begin == own.begin, gate, streams(layer.up, some));
        const Next next = some.end == own.end ? beginning(lane, {{&layer.down, lane.out}}) : Next{};
        product(layer.up, false, gated, next);
        read_on(lane, next);
        for (int64_t begin = 0; begin < lane.count; begin += kRowsTogether) {
            const int64_t end = std::min(begin + kRowsTogether, lane.count);
            activate(gate + begin * count, gated + begin * count, (end - begin) * count);
            matmul_.prepare(kind, gated, count, lane.count, width, {begin, end}, columns, lane.joint[static_cast<int>(kind)]);
        }
    };
    share_tiles(lane, all_bytes(layer.gate) + all_bytes(layer.up), own, [&](Range some) {
        const int64_t together = lane.walk == Walk::alone ? some.end - some.begin : kGateTiles;
        for (int64_t begin = some.begin; begin < some.end; begin += together) {
            gate_tiles({begin, std::min(begin + together, some.end)});
        }
    });
}

// Some tiles of a matrix as one of their own: out is (m, their rows).
void Model::multiply_tiles(const Matrix& matrix, Range some, const uint8_t* prepared, int64_t m, bool fresh, float* out,
                           const Next& next) const {
    const int64_t rows = std::min(some.end * kTileRows, matrix.rows) - some.begin * kTileRows;
    const Matrix part{matrix.type, rows, matrix.cols, matrix.data + some.begin * tile_bytes(matrix)};
    matmul_.multiply(part, 0, tiles(rows), prepared, m, fresh, out, rows, next);
}

// Whether whoever attends makes its heads ready for the output's matrix, instead of every thread all heads. Of several rows
// the records would have lines that threads both write.
bool Model::prepares_attended(const Lane& lane, const Layer& layer) {
    return lane.walk == Walk::alone && lane.count == 1 && layer.attention.head_dim % 32 == 0;
}

// A branch joins the residual stream.
void Model::join(const Lane& lane, const Vector& bias, const Vector& post_norm) {
    for (int64_t row = lane.rows.begin; row < lane.rows.end; ++row) {
        float* x = lane.x + row * hidden_;
        float* normed = lane.normed + row * hidden_;
        const float* branch = lane.out + row * hidden_;
        if (!bias.empty()) {
            std::copy(branch, branch + hidden_, normed);
            vector_.add(normed, bias.data(), hidden_);
            branch = normed;
        }
        if (!post_norm.empty()) {
            vector_.rms_norm(branch, post_norm.data(), norm_eps_, hidden_, normed);
            branch = normed;
        }
        vector_.add(x, branch, hidden_);
    }
}

// Logits of the sampled rows, or the greatest of each thread's share of them.
void Model::head(const StepRows& rows, const Lane& lane) {
    if (lane.walk != Walk::alone) meet(lane.thread, Phase::norms);  // the rows may be another thread's
    const Lane top = this->lane(rows.samples, lane.thread);
    for (int64_t sample = top.rows.begin; sample < top.rows.end; ++sample) {
        vector_.rms_norm(lane.x + rows.sample_rows[sample] * hidden_, output_norm_.data(), norm_eps_, hidden_,
                         top.normed + sample * hidden_);
    }
    prepare(top, top.normed, hidden_, {&head_});
    prepared(top);
    if (rows.greatest_only) {
        greatest_logits(top);
    } else {
        multiply(top, top.prepared, {{&head_, logits_.data()}}, {});
    }
    mark(lane.thread, Phase::head);
}

void Model::greatest_logits(const Lane& lane) {
    const int64_t samples = lane.count;
    // Whole tiles by the sixteen, as products take them best.
    const int64_t together = std::max<int64_t>(kLogitsTogether / samples / (16 * kTileRows), 1) * 16;
    Buffer<float>& logits = scratch_[lane.thread].logits;
    if (static_cast<int64_t>(logits.size()) < samples * together * kTileRows) logits.resize(samples * together * kTileRows);
    Greatest* greatest = greatest_.data() + lane.part * samples;
    std::fill(greatest, greatest + samples, Greatest{-std::numeric_limits<float>::infinity(), 0});
    const auto look = [&](Range some) {
        multiply_tiles(head_, some, lane.prepared[static_cast<int>(activations_of(head_.type))], samples, false, logits.data(), {});
        const int64_t begin = some.begin * kTileRows, count = std::min(some.end * kTileRows, vocab_) - begin;
        for (int64_t sample = 0; sample < samples; ++sample) {
            const float* row = logits.data() + sample * count;
            const int64_t best = vector_.argmax(row, count);
            greatest[sample].take({row[best], static_cast<int32_t>(begin + best)});
        }
    };
    share_tiles(lane, all_bytes(head_), share(tiles(vocab_), lane.part, lane.parts), [&](Range some) {
        for (int64_t begin = some.begin; begin < some.end; begin += together) {
            look({begin, std::min(begin + together, some.end)});
        }
    });
}

}  // namespace membound
