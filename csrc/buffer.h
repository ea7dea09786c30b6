// Arrays that kernels work on: on whole cache lines, and where they are large on huge pages.
#pragma once

#include <cstddef>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace membound {

template <typename T>
struct OnLines {
    using value_type = T;
    static constexpr size_t kLine = 64, kHuge = size_t{2} << 20;

    OnLines() = default;
    template <typename U>
    OnLines(const OnLines<U>&) {}

    T* allocate(size_t count) {
        const size_t bytes = count * sizeof(T);
        void* memory = ::operator new(bytes, alignment(bytes));
#ifdef MADV_HUGEPAGE
        if (bytes >= kHuge) madvise(memory, bytes / kHuge * kHuge, MADV_HUGEPAGE);  // a wish
#endif
        return static_cast<T*>(memory);
    }
    void deallocate(T* memory, size_t count) { ::operator delete(memory, alignment(count * sizeof(T))); }
    bool operator==(const OnLines&) const { return true; }

  private:
    static std::align_val_t alignment(size_t bytes) { return std::align_val_t{bytes < kHuge ? kLine : kHuge}; }
};

template <typename T>
using Buffer = std::vector<T, OnLines<T>>;

}  // namespace membound
