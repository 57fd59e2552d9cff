// One aligned block of memory, cut into arrays: sized once, freed once, on huge pages where the system has them.

#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "kernels.h"

namespace geluless {

class Arena {
 public:
  Arena() = default;
  Arena(Arena&& other) noexcept : base_(std::exchange(other.base_, nullptr)), size_(other.size_), used_(other.used_) {}
  Arena& operator=(Arena&&) = delete;
  Arena(const Arena&) = delete;
  ~Arena() { std::free(base_); }

  // Runs the same code two times: without memory, to learn the size, and for good.
  template <class F>
  void lay_out(F take_all) {
    take_all();
    commit();
    take_all();
  }

  template <class T>
  T* take(size_t count) {
    T* p = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
    used_ += (count * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment + kAlignment;
    return p;
  }

  bool committed() const { return base_ != nullptr; }
  size_t size() const { return size_; }

 private:
  static constexpr size_t kPage = size_t{1} << 21;

  // Allocates what has been asked for so far, zeroed, and starts again from the beginning.
  void commit() {
    size_ = (used_ + kPage - 1) / kPage * kPage + kPage;  // one page more: vector loads may run past the last array
    void* p = nullptr;
    if (posix_memalign(&p, kPage, size_) != 0) throw std::bad_alloc();
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    madvise(p, size_, MADV_HUGEPAGE);
#endif
    std::memset(p, 0, size_);
    base_ = static_cast<uint8_t*>(p);
    used_ = 0;
  }

  uint8_t* base_ = nullptr;
  size_t size_ = 0, used_ = 0;
};

inline int round_up(int x, int to) { return (x + to - 1) / to * to; }

}  // namespace geluless
