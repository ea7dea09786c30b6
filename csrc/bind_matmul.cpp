// Packed matrices for Python: tests and benchmarks of the matrix kernels.
#include "bind_matmul.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <chrono>
#include <stdexcept>
#include <string>

#include "arena.h"
#include "buffer.h"
#include "isa.h"
#include "kernels.h"
#include "pool.h"

namespace nb = nanobind;

namespace membound {
namespace {

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Rows = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Result = nb::ndarray<nb::numpy, float, nb::ndim<2>>;

class PackedMatrix {
  public:
    PackedMatrix(uint32_t type, Bytes file, int64_t rows, int64_t cols, const std::string& isa)
        : kernels_(&matmul_kernels(choose_isa(isa))) {
        matrix_ = {checked_type(type), rows, cols, nullptr};
        if (rows <= 0) throw std::invalid_argument("a matrix has at least one row");
        const size_t wanted = static_cast<size_t>(rows) * file_row_bytes(matrix_.type, cols);
        if (file.size() != wanted) {
            throw std::invalid_argument("a matrix of " + std::to_string(rows) + " x " + std::to_string(cols) + " " +
                                        name(matrix_.type) + " has " + std::to_string(wanted) + " bytes, not " +
                                        std::to_string(file.size()));
        }
        arena_ = Arena(packed_bytes(matrix_.type, rows, cols), "a packed matrix");
        pack(matrix_.type, file.data(), rows, cols, 0, tiles(rows), arena_.data());
        matrix_.data = arena_.data();
    }

    size_t bytes() const { return packed_bytes(matrix_.type, matrix_.rows, matrix_.cols); }

    Result multiply(Rows x, int parts) const {
        if (parts < 1) throw std::invalid_argument("a product has at least one part");
        const auto m = static_cast<int64_t>(x.shape(0));
        const Arena prepared = prepare(x, parts);
        auto* out = new float[static_cast<size_t>(m * matrix_.rows + 1)];
        nb::capsule owner(out, [](void* p) noexcept { delete[] static_cast<float*>(p); });
        for (int part = 0; part < parts; ++part) {
            const Range range = share(tiles(matrix_.rows), part, parts);
            kernels_->multiply(matrix_, range.begin, range.end, prepared.data(), m, true, out, matrix_.rows, {});
        }
        return Result(out, {static_cast<size_t>(m), static_cast<size_t>(matrix_.rows)}, owner);
    }

    double seconds(Rows x, int rounds) const {
        const auto m = static_cast<int64_t>(x.shape(0));
        const Arena prepared = prepare(x, 1);
        Buffer<float> out(static_cast<size_t>(m * matrix_.rows));
        const auto start = std::chrono::steady_clock::now();
        for (int i = 0; i < rounds; ++i) {
            kernels_->multiply(matrix_, 0, tiles(matrix_.rows), prepared.data(), m, true, out.data(), matrix_.rows, {});
        }
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    }

  private:
    Arena prepare(const Rows& x, int parts) const {
        if (static_cast<int64_t>(x.shape(1)) != matrix_.cols) {
            throw std::invalid_argument("activations have " + std::to_string(x.shape(1)) +
                                        " columns, the matrix has " + std::to_string(matrix_.cols));
        }
        const auto m = static_cast<int64_t>(x.shape(0));
        const Activations kind = activations_of(matrix_.type);
        Arena prepared(activation_bytes(kind, m, matrix_.cols) + 64, "activations");
        for (int part = 0; part < parts; ++part) {
            const Range range = share(m, part, parts);
            kernels_->prepare(kind, x.data(), matrix_.cols, m, matrix_.cols, range, {0, matrix_.cols}, prepared.data());
        }
        return prepared;
    }

    const MatmulKernels* kernels_;
    Matrix matrix_;
    Arena arena_;
};

Result dequantize_rows(uint32_t type_id, Bytes file, int64_t rows, int64_t cols) {
    const Type type = checked_type(type_id);
    const size_t row_bytes = file_row_bytes(type, cols);
    if (rows < 0 || file.size() != static_cast<size_t>(rows) * row_bytes) {
        throw std::invalid_argument("the bytes do not hold that many rows");
    }
    auto* out = new float[static_cast<size_t>(rows * cols + 1)];
    nb::capsule owner(out, [](void* p) noexcept { delete[] static_cast<float*>(p); });
    for (int64_t r = 0; r < rows; ++r) dequantize(type, file.data() + r * row_bytes, cols, out + r * cols);
    return Result(out, {static_cast<size_t>(rows), static_cast<size_t>(cols)}, owner);
}

}  // namespace

void bind_matmul(nb::module_& m) {
    nb::class_<PackedMatrix>(m, "PackedMatrix")
        .def(nb::init<uint32_t, Bytes, int64_t, int64_t, const std::string&>(), nb::arg("type"), nb::arg("file"),
             nb::arg("rows"), nb::arg("cols"), nb::arg("isa") = "")
        .def_prop_ro("bytes", &PackedMatrix::bytes)
        .def("multiply", &PackedMatrix::multiply, nb::arg("x"), nb::arg("parts") = 1)
        .def("seconds", &PackedMatrix::seconds, nb::arg("x"), nb::arg("rounds") = 1);
    m.def("dequantize", &dequantize_rows, nb::arg("type"), nb::arg("file"), nb::arg("rows"), nb::arg("cols"));
}

}  // namespace membound
