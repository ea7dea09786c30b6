// The roofs of this machine, as measured by the kernels' own loops.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace membound {

// Bytes per second that `threads` threads (0: all) read together from a working set of `bytes`, over and over, each
// its own part: the best of the windows that fit into `seconds`, because neighbours only ever take away.
double probe_read(int64_t bytes, int threads, double seconds);

// Operations per second in registers, multiplies and adds counted apart; `kind` is fp32, bf16 or int8. Nothing where
// the instruction set in use has no instruction for it.
std::optional<double> probe_flops(const std::string& kind, int threads, double seconds);

}  // namespace membound
