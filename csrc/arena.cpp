#include "arena.h"

#include <cstdio>
#include <stdexcept>
#include <utility>

#include <sys/mman.h>

namespace membound {

namespace {

constexpr size_t kHuge = size_t{2} << 20;

size_t round_up(size_t bytes) { return (bytes + kHuge - 1) / kHuge * kHuge; }

}  // namespace

Arena::Arena(size_t bytes, const std::string& purpose) : size_(round_up(bytes ? bytes : 1)) {
    // Without MAP_NORESERVE: the system then refuses what it could never give, instead of killing the process later.
    const int protection = PROT_READ | PROT_WRITE, flags = MAP_PRIVATE | MAP_ANONYMOUS;
#ifdef MAP_HUGETLB
    void* huge = mmap(nullptr, size_, protection, flags | MAP_HUGETLB, -1, 0);
    if (huge != MAP_FAILED) {
        data_ = mapped_ = static_cast<uint8_t*>(huge);
        mapped_size_ = size_;
        pages_ = Pages::huge;
        return;
    }
#endif
    mapped_size_ = size_ + kHuge;
    void* plain = mapped_size_ < size_ ? MAP_FAILED : mmap(nullptr, mapped_size_, protection, flags, -1, 0);
    if (plain == MAP_FAILED) {
        char gib[32];
        std::snprintf(gib, sizeof gib, "%.2f", static_cast<double>(size_) / (1 << 30));
        throw std::runtime_error("cannot get " + std::string(gib) + " GiB of memory for " + purpose);
    }
    mapped_ = static_cast<uint8_t*>(plain);
    data_ = reinterpret_cast<uint8_t*>(round_up(reinterpret_cast<size_t>(mapped_)));
#ifdef MADV_HUGEPAGE
    if (madvise(data_, size_, MADV_HUGEPAGE) == 0) pages_ = Pages::transparent;
#endif
}

Arena::~Arena() {
    if (mapped_) munmap(mapped_, mapped_size_);
}

void Arena::ready([[maybe_unused]] size_t offset, [[maybe_unused]] size_t bytes) const {
#ifdef MADV_POPULATE_WRITE
    constexpr size_t kPage = 4096;
    const size_t begin = offset / kPage * kPage;
    madvise(data_ + begin, offset + bytes - begin, MADV_POPULATE_WRITE);  // what it refuses comes when it is touched
#endif
}

Arena::Arena(Arena&& other) noexcept { *this = std::move(other); }

Arena& Arena::operator=(Arena&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(mapped_, other.mapped_);
    std::swap(mapped_size_, other.mapped_size_);
    std::swap(pages_, other.pages_);
    return *this;
}

const char* name(Arena::Pages pages) {
    switch (pages) {
        case Arena::Pages::huge: return "reserved 2 MiB pages";
        case Arena::Pages::transparent: return "transparent 2 MiB pages";
        case Arena::Pages::plain: break;
    }
    return "plain pages";
}

}  // namespace membound
