// What a step computes.
#pragma once

#include <cstdint>

namespace membound {

// The rows of sequence s are starts[s] … starts[s+1]-1, at consecutive positions from first_positions[s]; its blocks
// are row slots[s] of the tables.
struct StepRows {
    int64_t rows, sequences, samples;
    const int32_t* tokens;           // (rows)
    const int32_t* starts;           // (sequences + 1)
    const int32_t* first_positions;  // (sequences)
    const int32_t* slots;            // (sequences)
    const int32_t* tables;           // (table_rows, table_width) ids of KV blocks
    int64_t table_rows, table_width;
    const int32_t* sample_rows;      // (samples) rows whose logits are wanted
    bool greatest_only = false;      // of these logits the greatest are wanted alone
};

}  // namespace membound
