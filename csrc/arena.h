// Large memory, on huge pages where the system gives them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace membound {

// Zeroed memory that is taken from the system as it is touched, 2 MiB aligned.
class Arena {
  public:
    enum class Pages { huge, transparent, plain };

    Arena() = default;
    // Throws std::runtime_error, naming `purpose`, if the system refuses.
    Arena(size_t bytes, const std::string& purpose);
    ~Arena();
    Arena(Arena&& other) noexcept;
    Arena& operator=(Arena&& other) noexcept;

    // Has the system give some of the memory now, where it can do so ahead of the first touch.
    void ready(size_t offset, size_t bytes) const;

    uint8_t* data() const { return data_; }
    size_t size() const { return size_; }
    Pages pages() const { return pages_; }

  private:
    uint8_t* data_ = nullptr;
    size_t size_ = 0;
    uint8_t* mapped_ = nullptr;  // what the system gave, before alignment
    size_t mapped_size_ = 0;
    Pages pages_ = Pages::plain;
};

const char* name(Arena::Pages pages);

}  // namespace membound
