// What the vector kernels' bodies need from outside: no templates of the standard library, whose inline copies,
// compiled for one instruction set, the linker could put into code that runs without it.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#include <cstddef>
#include <cstdint>
