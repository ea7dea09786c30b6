// How each weight type is laid out, in the file and in a packed tile of 16 rows.
//
// A tile is a sequence of units. Each 64-byte line of quants holds 4 consecutive columns of 16 rows (row r in bytes
// 4r … 4r+3); where two columns share a byte the low nibble is quad j and the high nibble quad j + 4, or the next 32
// columns in K-quants, as in the file. The bits are those of the file; only their order differs.
//
//   Q4_0  64 columns: f16 d[2][16], then per 32 columns nibbles[4 lines]
//   Q5_0  64 columns: f16 d[2][16], then per 32 columns high[1 line], nibbles[4 lines]
//   Q8_0  64 columns: f16 d[2][16], then per 32 columns bytes[8 lines], 128 added so that they are unsigned
//   Q4_1  32 columns: f16 d[16], m[16], nibbles[4 lines]
//   Q5_1  32 columns: f16 d[16], m[16], high[1 line], nibbles[4 lines]
//   Q4_K  256 columns: f16 d[16], dmin[16], scales[3 lines], nibbles[32 lines]
//   Q5_K  256 columns: f16 d[16], dmin[16], scales[3 lines], high[8 lines], nibbles[32 lines]
//   Q6_K  256 columns: f16 d[16], 32 bytes unused, int8 scales[16][16], per 128 columns low[16 lines], high[8 lines]
//   F32, F16  32 columns: [32][16] values
//   BF16  32 columns: pairs[16 lines], line i with columns 2i and 2i + 1 of 16 rows
//
// High bits: of Q5_0 and Q5_1, bit j of byte b is column 4j + b; of Q5_K line j, bit s of byte b is column 32s + 4j + b;
// of Q6_K line j, the bit pair s of byte b is column 32s + 4j + b.
// Scales of K-quants, per row: lines 0 and 1 have for each 32 columns the low nibbles of scale and min, line 2 the
// high bit pairs (scale s, min s, scale s+4, min s+4).
#pragma once

#include <cstdint>

#include "kernels.h"

namespace membound {

struct Format {
    Type type;
    const char* name;
    int block_columns, block_bytes;  // in the file
    int unit_columns, unit_bytes;    // of a packed tile
    int half_unit_bytes;             // of a last unit with half the columns; 0 where there is none
};

static constexpr Format kFormats[] = {
    {Type::F32, "F32", 1, 4, 32, 2048, 0},        {Type::F16, "F16", 1, 2, 32, 1024, 0},
    {Type::BF16, "BF16", 1, 2, 32, 1024, 0},      {Type::Q4_0, "Q4_0", 32, 18, 64, 576, 320},
    {Type::Q4_1, "Q4_1", 32, 20, 32, 320, 0},     {Type::Q5_0, "Q5_0", 32, 22, 64, 704, 384},
    {Type::Q5_1, "Q5_1", 32, 24, 32, 384, 0},     {Type::Q8_0, "Q8_0", 32, 34, 64, 1088, 576},
    {Type::Q4_K, "Q4_K", 256, 144, 256, 2304, 0}, {Type::Q5_K, "Q5_K", 256, 176, 256, 2816, 0},
    {Type::Q6_K, "Q6_K", 256, 210, 256, 3392, 0},
};

static constexpr const Format& format(Type type) {
    const Format* found = kFormats;
    while (found->type != type) ++found;
    return *found;
}

static constexpr bool is_float(Type type) { return type == Type::F32 || type == Type::F16 || type == Type::BF16; }

// Columns are padded with zeros to the unit of float types; all others come in whole blocks.
static constexpr int64_t tile_bytes(const Format& f, int64_t cols) {
    const int64_t rest = cols % f.unit_columns;
    return cols / f.unit_columns * f.unit_bytes +
           (rest == 0 ? 0 : f.half_unit_bytes != 0 ? f.half_unit_bytes : f.unit_bytes);
}

// Prepared activations: one group of up to 8 rows, or groups of 16, the last padded with zeros; quantized ones in groups of 24,
// the last padded to a multiple of 8, where these have fewer parts of six rows, as products take them. A group is a sequence of
// records, one per 32 columns. A record of a group of g rows is, quantized: int8 quants[g][32], float scale[g], float sum[g],
// int32 whole[g], int32 first[g], int8 high[3][g][4], int32 line[g]; or float x[g][32]; or for BF16 weights bf16 x[g][32], and
// the same numbers as floats where the instruction set multiplies no bf16.
//
// A row's 32 columns are integers times `scale`. All fit 7 bits and a sign but those of one quad (4 columns), the one
// with the greatest magnitude: these have the eight significant bits of a bf16, of which `high` has what counts 128,
// `quants` the rest. (One int8 for each is not enough: a single large activation sets the scale of its 32 columns, and
// the others lose their bits; the logits of real models then differ by several percent.) `line` is 64 times the number of
// that quad. The second and the third `high` are the first one if the quad is among the first or the last 16 columns,
// and else zero.
// `whole` is the sum of the integers, `first` that of the first 16, `sum` is `whole` as a float: a dot product of
// weights that are kept unsigned exceeds that of the signed ones by their offset times the sum of the integers.
//
// AMX takes other numbers for quantized weights: both factors rounded to bf16, weights with their scales (unpack_amx.inc).
// Records are bf16 x[g][32]; of each quad the columns stand in the order 0 2 1 3.
static constexpr int kPanelRows = 6;  // that a product of many rows takes together: two tiles' sums of them fill the registers
static constexpr int64_t group_rows(int64_t m) { return m <= 8 ? m : 16; }
static constexpr int64_t quantized_group_rows(int64_t m) { return m <= 16 || (m > 24 && m <= 32) ? group_rows(m) : 24; }
static constexpr int64_t whole_groups(int64_t m, int64_t group) { return (m + group - 1) / group * group; }
static constexpr int64_t padded_rows(int64_t m) { return whole_groups(m, group_rows(m)); }
enum High { kWholeHigh, kFirstHalfHigh, kSecondHalfHigh };

// At most: those for BF16 weights take half of it where they are kept as bf16.
static constexpr int64_t record_row_bytes(Activations kind) { return kind == Activations::quantized ? 64 : 128; }
static constexpr int64_t records(int64_t cols) { return (cols + 31) / 32; }

}  // namespace membound
