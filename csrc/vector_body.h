// What the vector kernels' bodies need from outside: no templates of the standard library, whose inline copies,
// compiled for one instruction set, the linker could put into code that runs without it.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#include <cstddef>
#include <cstdint>

// What is called for every block must be part of its caller's loop, and loops over rows and lines be written out, or
// registers go through memory; left to itself the compiler finds these bodies too long. Only AVX-512
// has registers enough for it to pay.
#if defined(__AVX512F__)
#define MEMBOUND_INLINE inline __attribute__((always_inline))
#define MEMBOUND_UNROLL _Pragma("GCC unroll 8")
#else
#define MEMBOUND_INLINE inline
#define MEMBOUND_UNROLL
#endif
