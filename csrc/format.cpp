#include "format.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace membound {

Type checked_type(uint32_t id) {
    for (const Format& f : kFormats) {
        if (static_cast<uint32_t>(f.type) == id) return f.type;
    }
    throw std::invalid_argument("weight type " + std::to_string(id) + " is not supported");
}

const char* name(Type type) { return format(type).name; }

Activations activations_of(Type type) {
    return type == Type::BF16 ? Activations::bf16 : is_float(type) ? Activations::floats : Activations::quantized;
}

size_t file_row_bytes(Type type, int64_t cols) {
    const Format& f = format(type);
    if (cols <= 0 || cols % f.block_columns != 0) {
        throw std::invalid_argument(std::to_string(cols) + " columns are no multiple of the " +
                                    std::to_string(f.block_columns) + " that a block of " + f.name + " has");
    }
    return static_cast<size_t>(cols / f.block_columns * f.block_bytes);
}

size_t packed_bytes(Type type, int64_t rows, int64_t cols) {
    return static_cast<size_t>(tiles(rows) * tile_bytes(format(type), cols));
}

size_t activation_bytes(Activations kind, int64_t m, int64_t cols) {
    if (m <= 0) return 0;
    // The instruction set says which of the two quantized ones are.
    const int64_t rows = kind == Activations::quantized ? std::max(padded_rows(m), whole_groups(m, quantized_group_rows(m)))
                                                        : padded_rows(m);
    return static_cast<size_t>(rows * records(cols) * record_row_bytes(kind));
}

}  // namespace membound
