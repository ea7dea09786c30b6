// The tile registers of AMX, in use for as long as this lives. Only what is compiled for AMX includes it.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace membound::amx {
namespace {

// Registers 0 to 3 hold sums of 16 rows with 16 columns; 4 and 5 the first factors, of 16 rows; 6 and 7 the second ones,
// lines of 16 columns.
struct TileRegisters {
    // The first factors' rows have `row_bytes`, the second factors a line for each four of these; registers 5 and 7 may have
    // other ones than 4 and 6. First factors and sums may have fewer than 16 rows.
    inline explicit TileRegisters(int row_bytes, int rows = 16, int other_row_bytes = 0) {
        struct {
            uint8_t palette = 1, start = 0, unused[14] = {};
            uint16_t row_bytes[16] = {};
            uint8_t rows[16] = {};
        } shapes;
        for (int i = 0; i < 8; ++i) {
            const int bytes = i % 2 == 1 && other_row_bytes > 0 ? other_row_bytes : row_bytes;
            shapes.rows[i] = static_cast<uint8_t>(i < 6 ? rows : bytes / 4);
            shapes.row_bytes[i] = static_cast<uint16_t>(i == 4 || i == 5 ? bytes : 64);
        }
        // Not by its intrinsic: gcc 12 takes that to read eight bytes, and drops what fills the others.
        asm volatile("ldtilecfg %0" : : "m"(shapes));
    }
    inline ~TileRegisters() { _tile_release(); }
    TileRegisters(const TileRegisters&) = delete;
    TileRegisters& operator=(const TileRegisters&) = delete;
};

// What the intrinsics do, for register numbers that are template arguments: theirs must be literals.
template <int to>
inline void load_tile(const void* from, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(to) : "memory");
}
// For what will not be used again while it is in the first cache.
template <int to>
inline void stream_tile(const void* from, int64_t stride) {
    asm volatile("tileloaddt1 (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(to) : "memory");
}
template <int from>
inline void store_tile(void* to, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(from) : "memory");
}
template <int sums>
inline void zero_tile() {
    asm volatile("tilezero %%tmm%c0" : : "i"(sums));
}
template <int sums, int first, int second>
inline void add_bf16_products() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(sums), "i"(first), "i"(second));
}

// Calls work(0), … with what template arguments can be made of: register numbers.
template <int n>
struct Constant {
    constexpr int operator()() const { return n; }
};

template <int count, int i = 0, class Work>
inline __attribute__((always_inline)) void each(const Work& work) {
    if constexpr (i < count) {
        work(Constant<i>());
        each<count, i + 1>(work);
    }
}

}  // namespace
}  // namespace membound::amx
