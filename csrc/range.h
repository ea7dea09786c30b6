#pragma once

#include <cstdint>

namespace membound {

// [begin, end) of what is counted.
struct Range {
    int64_t begin, end;
};

}  // namespace membound
