// Rows of a file as float32: the same operations in the same order as the format's own definition.
#include <bit>
#include <cstring>

#include "format.h"

namespace membound {
namespace {

float half(const uint8_t* bytes) {
    uint16_t bits;
    std::memcpy(&bits, bytes, 2);
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16, magnitude = bits & 0x7fff;
    if (magnitude >= 0x7c00) return std::bit_cast<float>(sign | 0x7f800000u | (magnitude & 0x3ff) << 13);
    // Scaling by 2^112 corrects the exponent's bias, for subnormal numbers too.
    const float value = std::bit_cast<float>(magnitude << 13) * 0x1p112f;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(value));
}

// The quants of 32 columns in nibbles, with a fifth bit each from `high`: unsigned.
void nibbles(const uint8_t* bytes, uint32_t high, int* out) {
    for (int i = 0; i < 16; ++i) {
        out[i] = (bytes[i] & 15) | static_cast<int>(high >> i & 1) << 4;
        out[i + 16] = bytes[i] >> 4 | static_cast<int>(high >> (i + 16) & 1) << 4;
    }
}

// One block of Q4_0, Q4_1, Q5_0 or Q5_1.
void nibble_block(Type type, const uint8_t* block, float* out) {
    const bool has_min = type == Type::Q4_1 || type == Type::Q5_1;
    const bool fifth_bit = type == Type::Q5_0 || type == Type::Q5_1;
    uint32_t high = 0;
    if (fifth_bit) std::memcpy(&high, block + (has_min ? 4 : 2), 4);
    int quants[32];
    nibbles(block + format(type).block_bytes - 16, high, quants);
    const float d = half(block);
    if (has_min) {
        const float min = half(block + 2);
        for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(quants[i]) + min;
    } else {
        for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(quants[i] - (fifth_bit ? 16 : 8));
    }
}

// One block of Q4_K or Q5_K.
void k_block(bool fifth_bit, const uint8_t* block, float* out) {
    const float d = half(block), dmin = half(block + 2);
    const uint8_t* packed = block + 4;
    const uint8_t* high = block + 16;
    const uint8_t* low = fifth_bit ? block + 48 : block + 16;
    for (int s = 0; s < 8; ++s) {
        const int scale = s < 4 ? packed[s] & 63 : (packed[s + 4] & 15) | (packed[s - 4] >> 6) << 4;
        const int min = s < 4 ? packed[s + 4] & 63 : packed[s + 4] >> 4 | (packed[s] >> 6) << 4;
        const float d_s = d * static_cast<float>(scale), m_s = dmin * static_cast<float>(min);
        for (int i = 0; i < 32; ++i) {
            int quant = low[s / 2 * 32 + i] >> (s % 2 * 4) & 15;
            if (fifth_bit) quant |= (high[i] >> s & 1) << 4;
            out[32 * s + i] = d_s * static_cast<float>(quant) - m_s;
        }
    }
}

void q6_k_block(const uint8_t* block, float* out) {
    const float d = half(block + 208);
    for (int i = 0; i < 256; ++i) {
        const int part = i / 128, pair = i % 128 / 32, column = i % 32;
        const int low = block[64 * part + pair % 2 * 32 + column] >> (pair / 2 * 4) & 15;
        const int high = block[128 + 32 * part + column] >> (2 * pair) & 3;
        const float scale = d * static_cast<float>(static_cast<int8_t>(block[192 + i / 16]));
        out[i] = scale * static_cast<float>((low | high << 4) - 32);
    }
}

void dequantize_block(Type type, const uint8_t* block, float* out) {
    switch (type) {
        case Type::F32: std::memcpy(out, block, 4); break;
        case Type::F16: *out = half(block); break;
        case Type::BF16: {
            const uint8_t bytes[4] = {0, 0, block[0], block[1]};
            std::memcpy(out, bytes, 4);
            break;
        }
        case Type::Q8_0: {
            const float d = half(block);
            for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(static_cast<int8_t>(block[2 + i]));
            break;
        }
        case Type::Q4_0:
        case Type::Q4_1:
        case Type::Q5_0:
        case Type::Q5_1: nibble_block(type, block, out); break;
        case Type::Q4_K: k_block(false, block, out); break;
        case Type::Q5_K: k_block(true, block, out); break;
        case Type::Q6_K: q6_k_block(block, out); break;
    }
}

}  // namespace

void dequantize(Type type, const uint8_t* row, int64_t cols, float* out) {
    const Format& f = format(type);
    const auto blocks = static_cast<int64_t>(file_row_bytes(type, cols)) / f.block_bytes;
    for (int64_t b = 0; b < blocks; ++b) dequantize_block(type, row + b * f.block_bytes, out + b * f.block_columns);
}

}  // namespace membound
