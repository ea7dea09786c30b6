// The model's Python face: descriptions in as dictionaries, steps in as int32 arrays.
#include "bind_model.h"

#include <memory>
#include <numeric>
#include <optional>
#include <stdexcept>

#include <nanobind/ndarray.h>
#include <nanobind/stl/function.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "model.h"

namespace nb = nanobind;

namespace membound {
namespace {

using Ints1 = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Ids = std::vector<int32_t>;
using Ints2 = nb::ndarray<const int32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Floats1 = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<const uint8_t, nb::c_contig, nb::device::cpu>;

std::vector<float> vector_of(nb::handle array) {
    const auto values = nb::cast<Floats1>(array);
    return {values.data(), values.data() + values.size()};
}

std::map<std::string, std::vector<float>> vectors_of(nb::handle dict) {
    std::map<std::string, std::vector<float>> result;
    for (auto [name, array] : nb::cast<nb::dict>(dict)) result.emplace(nb::cast<std::string>(name), vector_of(array));
    return result;
}

// A Python object that may be let go of by whoever does not hold the interpreter.
template <typename T>
std::shared_ptr<T> shared(T object) {
    return {new T(std::move(object)), [](T* held) {
                const nb::gil_scoped_acquire acquire;
                delete held;
            }};
}

// (type id, rows, columns, bytes or a function that gives them)
FileMatrix matrix_of(nb::handle tuple) {
    const Type type = checked_type(nb::cast<uint32_t>(tuple[0]));
    const auto rows = nb::cast<int64_t>(tuple[1]), cols = nb::cast<int64_t>(tuple[2]);
    const auto read = [type, rows, cols, source = shared(nb::object(tuple[3]))]() -> std::shared_ptr<const uint8_t> {
        const nb::gil_scoped_acquire acquire;
        const auto bytes = shared(nb::cast<Bytes>(PyCallable_Check(source->ptr()) ? (*source)() : *source));
        if (rows < 1 || bytes->nbytes() != file_row_bytes(type, cols) * rows) {
            throw std::invalid_argument("a matrix of " + std::to_string(rows) + " rows and " + std::to_string(cols) +
                                        " columns of " + name(type) + " does not take " +
                                        std::to_string(bytes->nbytes()) + " bytes");
        }
        return {bytes, bytes->data()};
    };
    return {type, rows, cols, read};
}

LayerSpec layer_of(nb::handle dict) {
    LayerSpec layer;
    layer.attention = {nb::cast<int>(dict["heads"]), nb::cast<int>(dict["kv_heads"]), nb::cast<int>(dict["head_dim"]),
                       nb::cast<int64_t>(dict["window"])};
    layer.scale = nb::cast<float>(dict["scale"]);
    layer.rope = {nb::cast<bool>(dict["rope_adjacent"]), nb::cast<float>(dict["rope_amplitude"]),
                  vector_of(dict["rope_frequencies"])};
    const auto activation = nb::cast<std::string>(dict["activation"]);
    if (activation != "silu" && activation != "gelu_tanh") {
        throw std::invalid_argument("activation " + activation + " is not known");
    }
    layer.activation = activation == "silu" ? Activation::silu : Activation::gelu_tanh;
    for (auto [name, tuple] : nb::cast<nb::dict>(dict["matrices"])) {
        layer.matrices.emplace(nb::cast<std::string>(name), matrix_of(tuple));
    }
    layer.vectors = vectors_of(dict["vectors"]);
    layer.biases = vectors_of(dict["biases"]);
    return layer;
}

KvType kv_type_of(const std::string& name) {
    if (name == "f32") return KvType::f32;
    if (name == "f16") return KvType::f16;
    if (name == "bf16") return KvType::bf16;
    throw std::invalid_argument("KV cache type " + name + " is not known: use f32, f16 or bf16");
}

Model* make_model(const nb::dict& dict, int64_t blocks, const std::string& kv_type, int threads,
                  const std::string& isa, const std::optional<std::function<void(int64_t)>>& progress) {
    ModelSpec spec;
    spec.hidden = nb::cast<int64_t>(dict["hidden"]);
    spec.vocab = nb::cast<int64_t>(dict["vocab"]);
    spec.norm_eps = nb::cast<float>(dict["norm_eps"]);
    spec.embedding_scale = nb::cast<float>(dict["embedding_scale"]);
    spec.embedding = matrix_of(dict["embedding"]);
    spec.head = matrix_of(dict["head"]);
    spec.output_norm = vector_of(dict["output_norm"]);
    for (nb::handle layer : nb::cast<nb::list>(dict["layers"])) spec.layers.push_back(layer_of(layer));
    Model::Progress report;
    if (progress) {
        report = [&](int64_t bytes) {
            const nb::gil_scoped_acquire acquire;
            (*progress)(bytes);
        };
    }
    std::unique_ptr<Model> model;
    {
        const nb::gil_scoped_release release;
        model = std::make_unique<Model>(spec, blocks, kv_type_of(kv_type), threads, choose_isa(isa), report);
    }
    return model.release();
}

StepRows rows_of(const Ids& tokens, const Ids& starts, const Ids& first_positions, const Ids& slots,
                 const Ints2& tables, const Ids& sample_rows) {
    const size_t sequences = first_positions.size();
    if (starts.size() != sequences + 1 || slots.size() != sequences) {
        throw std::invalid_argument("starts, first_positions and slots do not fit together");
    }
    return {.rows = static_cast<int64_t>(tokens.size()),
            .sequences = static_cast<int64_t>(sequences),
            .samples = static_cast<int64_t>(sample_rows.size()),
            .tokens = tokens.data(),
            .starts = starts.data(),
            .first_positions = first_positions.data(),
            .slots = slots.data(),
            .tables = tables.data(),
            .table_rows = static_cast<int64_t>(tables.shape(0)),
            .table_width = static_cast<int64_t>(tables.shape(1)),
            .sample_rows = sample_rows.data()};
}

nb::tuple report_of(const RowLogprobs& row) { return nb::make_tuple(row.chosen, row.top); }

nb::object step(Model& model, const Ids& tokens, const Ids& starts, const Ids& first_positions, const Ids& slots,
                const Ints2& tables, const Ids& sample_rows,
                const std::optional<std::vector<const RowSampling*>>& settings) {
    const StepRows rows = rows_of(tokens, starts, first_positions, slots, tables, sample_rows);
    std::vector<int32_t> chosen(rows.samples);
    std::vector<RowLogprobs> logprobs;
    {
        const nb::gil_scoped_release release;
        model.sample(rows, settings ? *settings : std::vector<const RowSampling*>{}, chosen.data(), &logprobs);
    }
    nb::list ids;
    for (int32_t id : chosen) ids.append(id);
    if (!settings) return nb::make_tuple(ids, nb::none());
    nb::list reports;
    for (const RowLogprobs& row : logprobs) reports.append(report_of(row));
    return nb::make_tuple(ids, reports);
}

// Sequences that decode greedily: each has one row, and its next token is the one chosen for it.
struct DecodingRows {
    Ids tokens, first_positions, slots, starts, sample_rows;

    DecodingRows(Ids first_tokens, Ids positions, Ids table_rows)
        : tokens(std::move(first_tokens)), first_positions(std::move(positions)), slots(std::move(table_rows)),
          starts(tokens.size() + 1), sample_rows(tokens.size()) {
        std::iota(starts.begin(), starts.end(), 0);
        std::iota(sample_rows.begin(), sample_rows.end(), 0);
    }
};

Ids decode(Model& model, DecodingRows& decoding, const Ints2& tables) {
    const StepRows rows = rows_of(decoding.tokens, decoding.starts, decoding.first_positions, decoding.slots, tables,
                                  decoding.sample_rows);
    Ids chosen(rows.samples);
    {
        const nb::gil_scoped_release release;
        model.sample(rows, {}, chosen.data(), nullptr);
    }
    for (int32_t& position : decoding.first_positions) ++position;
    return decoding.tokens = std::move(chosen);
}

nb::object logits(Model& model, const Ids& tokens, const Ids& starts, const Ids& first_positions, const Ids& slots,
                  const Ints2& tables, const Ids& sample_rows) {
    const StepRows rows = rows_of(tokens, starts, first_positions, slots, tables, sample_rows);
    float* copy = new float[rows.samples * model.vocab()];
    const nb::capsule owner(copy, [](void* p) noexcept { delete[] static_cast<float*>(p); });
    {
        const nb::gil_scoped_release release;
        model.logits(rows, copy);
    }
    const size_t shape[] = {static_cast<size_t>(rows.samples), static_cast<size_t>(model.vocab())};
    return nb::cast(nb::ndarray<nb::numpy, float, nb::ndim<2>>(copy, 2, shape, owner));
}

nb::tuple sample_logits(const RowSampling& settings, int64_t position, const Floats1& logits, const std::string& isa) {
    const int64_t vocab = static_cast<int64_t>(logits.size());
    if (vocab == 0) throw std::invalid_argument("there are no logits");
    check_history(settings, vocab);
    std::vector<float> copy(logits.data(), logits.data() + vocab);
    SamplingScratch scratch;
    RowLogprobs logprobs;
    const int32_t id = sample_row(vector_kernels(choose_isa(isa)), settings, position, copy.data(), vocab, scratch, &logprobs);
    return nb::make_tuple(id, report_of(logprobs));
}

}  // namespace

void bind_model(nb::module_& m) {
    nb::class_<RowSampling>(m, "RowSampling")
        .def("__init__",
             [](RowSampling* self, double temperature, int64_t top_k, double top_p, double min_p,
                double repetition_penalty, double presence_penalty, double frequency_penalty,
                const std::vector<std::pair<int32_t, float>>& logit_bias, uint64_t seed, int64_t logprobs,
                int64_t prompt_length) {
                 new (self) RowSampling{temperature, top_k, top_p, min_p, repetition_penalty, presence_penalty,
                                        frequency_penalty, seed, logprobs, prompt_length, logit_bias, {}, {}};
             },
             nb::kw_only(), nb::arg("temperature") = 0.0, nb::arg("top_k") = 0, nb::arg("top_p") = 1.0,
             nb::arg("min_p") = 0.0, nb::arg("repetition_penalty") = 1.0, nb::arg("presence_penalty") = 0.0,
             nb::arg("frequency_penalty") = 0.0, nb::arg("logit_bias") = nb::tuple(), nb::arg("seed") = 0, nb::arg("logprobs") = -1,
             nb::arg("prompt_length") = 0)
        .def_prop_ro("plain", &RowSampling::plain)
        .def_prop_ro("penalized", &RowSampling::penalized)
        .def_prop_ro("history_length", [](const RowSampling& self) { return self.history.size(); })
        .def("extend", [](RowSampling& self, const std::vector<int32_t>& tokens) {
            self.history.insert(self.history.end(), tokens.begin(), tokens.end());
        })
        .def("allow", [](RowSampling& self, const Ints1& bits) {
            self.allowed.assign(bits.data(), bits.data() + bits.size());
        });
    m.def("sample", &sample_logits, nb::arg("settings"), nb::arg("position"), nb::arg("logits"), nb::arg("isa") = "");

    nb::class_<DecodingRows>(m, "DecodingRows")
        .def(nb::init<Ids, Ids, Ids>(), nb::arg("tokens"), nb::arg("positions"), nb::arg("slots"));

    nb::class_<Model>(m, "Model")
        .def(nb::new_(&make_model), nb::arg("spec"), nb::arg("blocks"), nb::arg("kv_type") = "f16",
             nb::arg("threads") = 0, nb::arg("isa") = "", nb::arg("progress") = nb::none())
        .def("step", &step, nb::arg("tokens"), nb::arg("starts"), nb::arg("first_positions"), nb::arg("slots"),
             nb::arg("tables"), nb::arg("sample_rows"), nb::arg("settings") = nb::none())
        .def("decode", &decode, nb::arg("rows"), nb::arg("tables"))
        .def("logits", &logits, nb::arg("tokens"), nb::arg("starts"), nb::arg("first_positions"), nb::arg("slots"),
             nb::arg("tables"), nb::arg("sample_rows"))
        .def("ready_blocks", &Model::ready_blocks, nb::arg("layer"), nb::arg("first"), nb::arg("count"),
             nb::call_guard<nb::gil_scoped_release>())
        .def("explain", [](Model& self, bool counting) { self.explain(counting); }, nb::arg("counting"))
        .def("phase_seconds", [](const Model& self) { return self.phase_seconds(); })
        .def_prop_ro("vocab", [](const Model& self) { return self.vocab(); })
        .def_prop_ro("threads", [](const Model& self) { return self.threads(); })
        .def_prop_ro("isa", [](const Model& self) { return std::string(name(self.isa())); })
        .def_prop_ro("layers", [](const Model& self) { return self.layers(); })
        .def_prop_ro("blocks", [](const Model& self) { return self.blocks(); })
        .def_prop_ro("kv_bytes", [](const Model& self) { return self.kv_bytes(); })
        .def_prop_ro("weight_bytes", [](const Model& self) { return self.weight_bytes(); })
        .def_prop_ro("arena_bytes", [](const Model& self) { return self.arena_bytes(); })
        .def_prop_ro("pages", [](const Model& self) { return std::string(self.pages()); });
}

}  // namespace membound
