// From the rows of a file to tiles of 16 rows: transpositions of 32-bit words, and a new order for scales.
#include <algorithm>
#include <cstring>

#include "format.h"

namespace membound {
namespace {

// Puts a word of row `row` into line `line`.
inline void put(uint8_t* lines, int line, int row, uint32_t word) { std::memcpy(lines + 64 * line + 4 * row, &word, 4); }

inline uint32_t word(const uint8_t* bytes) {
    uint32_t value;
    std::memcpy(&value, bytes, 4);
    return value;
}

inline void put_words(uint8_t* lines, int row, const uint8_t* from, int count, uint32_t flip = 0) {
    for (int i = 0; i < count; ++i) put(lines, i, row, word(from + 4 * i) ^ flip);
}

inline void put_half(uint8_t* halves, int row, const uint8_t* from) { std::memcpy(halves + 2 * row, from, 2); }

// Bit 4j + b of the file's high bits goes to bit j of byte b.
inline uint32_t high_bits(uint32_t bits) {
    uint32_t out = 0;
    for (int b = 0; b < 4; ++b) {
        // Gathers every fourth bit: 8 bits, 4 apart, brought together by doubling.
        uint32_t x = (bits >> b) & 0x11111111u;
        x = (x | x >> 3) & 0x03030303u;
        x = (x | x >> 6) & 0x000f000fu;
        x = (x | x >> 12) & 0x000000ffu;
        out |= x << (8 * b);
    }
    return out;
}

// The 12 bytes of a K-quant's 6-bit scales and mins.
struct Scales {
    uint8_t scale[8], min[8];
    explicit Scales(const uint8_t* packed) {
        for (int s = 0; s < 4; ++s) {
            scale[s] = packed[s] & 63;
            min[s] = packed[s + 4] & 63;
            scale[s + 4] = static_cast<uint8_t>((packed[s + 8] & 15) | (packed[s] >> 6) << 4);
            min[s + 4] = static_cast<uint8_t>((packed[s + 8] >> 4) | (packed[s + 4] >> 6) << 4);
        }
    }
};

void put_scales(uint8_t* lines, int row, const uint8_t* packed) {
    const Scales from(packed);
    for (int s = 0; s < 8; ++s) {
        lines[16 * s + row] = static_cast<uint8_t>((from.scale[s] & 15) | (from.min[s] & 15) << 4);
    }
    for (int s = 0; s < 4; ++s) {
        lines[128 + 16 * s + row] =
            static_cast<uint8_t>(from.scale[s] >> 4 | (from.min[s] >> 4) << 2 | (from.scale[s + 4] >> 4) << 4 |
                                 (from.min[s + 4] >> 4) << 6);
    }
}

template <Type type>
void pack_row(const uint8_t* file, int64_t cols, int row, uint8_t* tile);

// Types with blocks of 32 and one scale: two blocks share a line of scales.
template <bool fifth_bit>
void pack_paired_nibbles(const uint8_t* file, int64_t cols, int row, uint8_t* tile) {
    constexpr int block = fifth_bit ? 320 : 256, bytes = fifth_bit ? 22 : 18;
    for (int64_t b = 0; b < cols / 32; ++b, file += bytes) {
        uint8_t* unit = tile + b / 2 * (64 + 2 * block);
        uint8_t* lines = unit + 64 + b % 2 * block;
        put_half(unit + b % 2 * 32, row, file);
        if (fifth_bit) put(lines, 0, row, high_bits(word(file + 2)));
        put_words(lines + (fifth_bit ? 64 : 0), row, file + bytes - 16, 4);
    }
}
template <>
void pack_row<Type::Q4_0>(const uint8_t* file, int64_t cols, int row, uint8_t* tile) {
    pack_paired_nibbles<false>(file, cols, row, tile);
}
template <>
void pack_row<Type::Q5_0>(const uint8_t* file, int64_t cols, int row, uint8_t* tile) {
    pack_paired_nibbles<true>(file, cols, row, tile);
}
template <>
void pack_row<Type::Q8_0>(const uint8_t* file, int64_t cols, int row, uint8_t* tile) {
    for (int64_t b = 0; b < cols / 32; ++b, file += 34) {
        uint8_t* unit = tile + b / 2 * 1088;
        put_half(unit + b % 2 * 32, row, file);
        put_words(unit + 64 + b % 2 * 512, row, file + 2, 8, 0x80808080u);
    }
}

template <bool fifth_bit>
void pack_nibbles_with_min(const uint8_t* file, int64_t cols, int row, uint8_t* tile) {
    constexpr int bytes = fifth_bit ? 24 : 20;
    for (int64_t b = 0; b < cols / 32; ++b, file += bytes, tile += fifth_bit ? 384 : 320) {
        put_half(tile, row, file);
        put_half(tile + 32, row, file + 2);
        if (fifth_bit) put(tile + 64, 0, row, high_bits(word(file + 4)));
        put_words(tile + (fifth_bit ? 128 : 64), row, file + bytes - 16, 4);
    }
}
template <>
void pack_row<Type::Q4_1>(const uint8_t* file, int64_t cols, int row, uint8_t* tile) {
    pack_nibbles_with_min<false>(file, cols, row, tile);
}
template <>
void pack_row<Type::Q5_1>(const uint8_t* file, int64_t cols, int row, uint8_t* tile) {
    pack_nibbles_with_min<true>(file, cols, row, tile);
}

template <bool fifth_bit>
void pack_k(const uint8_t* file, int64_t cols, int row, uint8_t* tile) {
    for (int64_t b = 0; b < cols / 256; ++b, file += fifth_bit ? 176 : 144, tile += fifth_bit ? 2816 : 2304) {
        put_half(tile, row, file);
        put_half(tile + 32, row, file + 2);
        put_scales(tile + 64, row, file + 4);
        put_words(tile + 256, row, file + 16, fifth_bit ? 40 : 32);
    }
}
template <>
void pack_row<Type::Q4_K>(const uint8_t* file, int64_t cols, int row, uint8_t* tile) {
    pack_k<false>(file, cols, row, tile);
}
template <>
void pack_row<Type::Q5_K>(const uint8_t* file, int64_t cols, int row, uint8_t* tile) {
    pack_k<true>(file, cols, row, tile);
}
template <>
void pack_row<Type::Q6_K>(const uint8_t* file, int64_t cols, int row, uint8_t* tile) {
    for (int64_t b = 0; b < cols / 256; ++b, file += 210, tile += 3392) {
        put_half(tile, row, file + 208);
        for (int s = 0; s < 16; ++s) tile[64 + 16 * s + row] = file[192 + s];
        for (int half = 0; half < 2; ++half) {
            uint8_t* lines = tile + 320 + half * 24 * 64;
            put_words(lines, row, file + 64 * half, 16);
            put_words(lines + 16 * 64, row, file + 128 + 32 * half, 8);
        }
    }
}

template <>
void pack_row<Type::F32>(const uint8_t* file, int64_t cols, int row, uint8_t* tile) {
    for (int64_t k = 0; k < cols; ++k) std::memcpy(tile + 64 * k + 4 * row, file + 4 * k, 4);
}
template <>
void pack_row<Type::F16>(const uint8_t* file, int64_t cols, int row, uint8_t* tile) {
    for (int64_t k = 0; k < cols; ++k) std::memcpy(tile + 32 * k + 2 * row, file + 2 * k, 2);
}
template <>
void pack_row<Type::BF16>(const uint8_t* file, int64_t cols, int row, uint8_t* tile) {
    for (int64_t k = 0; k < cols; ++k) std::memcpy(tile + 64 * (k / 2) + 4 * row + 2 * (k % 2), file + 2 * k, 2);
}

using PackRow = void (*)(const uint8_t*, int64_t, int, uint8_t*);

PackRow row_packer(Type type) {
    switch (type) {
        case Type::F32: return pack_row<Type::F32>;
        case Type::F16: return pack_row<Type::F16>;
        case Type::BF16: return pack_row<Type::BF16>;
        case Type::Q4_0: return pack_row<Type::Q4_0>;
        case Type::Q4_1: return pack_row<Type::Q4_1>;
        case Type::Q5_0: return pack_row<Type::Q5_0>;
        case Type::Q5_1: return pack_row<Type::Q5_1>;
        case Type::Q8_0: return pack_row<Type::Q8_0>;
        case Type::Q4_K: return pack_row<Type::Q4_K>;
        case Type::Q5_K: return pack_row<Type::Q5_K>;
        case Type::Q6_K: return pack_row<Type::Q6_K>;
    }
    return nullptr;
}

}  // namespace

void pack(Type type, const uint8_t* file, int64_t rows, int64_t cols, int64_t tile_begin, int64_t tile_end,
          uint8_t* out) {
    const auto row_bytes = static_cast<int64_t>(file_row_bytes(type, cols));
    const int64_t bytes = tile_bytes(format(type), cols);
    const PackRow pack_one = row_packer(type);
    // Every row writes to all lines of a tile: some columns at a time, so that they are still in the first cache for the next.
    constexpr int64_t kColumns = 1024;  // whole units of every type
    const int64_t part_bytes = tile_bytes(format(type), kColumns);
    const auto part_row_bytes = static_cast<int64_t>(file_row_bytes(type, kColumns));
    for (int64_t t = tile_begin; t < tile_end; ++t) {
        uint8_t* tile = out + t * bytes;
        const int64_t count = std::min(kTileRows, rows - t * kTileRows);
        std::memset(tile, 0, static_cast<size_t>(bytes));  // what padding holds is zero
        for (int64_t part = 0; part * kColumns < cols; ++part) {
            const uint8_t* row = file + t * kTileRows * row_bytes + part * part_row_bytes;
            const int64_t now = std::min(kColumns, cols - part * kColumns);
            for (int r = 0; r < count; ++r) pack_one(row + r * row_bytes, now, r, tile + part * part_bytes);
        }
    }
}

}  // namespace membound
