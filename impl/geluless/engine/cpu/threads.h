// A team of threads that run the same function side by side and meet at barriers. They wait by spinning while a forward pass
// runs (a block of Swin-T has five barriers in a hundred microseconds) and sleep between passes.

#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace geluless {

inline void spin_pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// One share of n items, contiguous and even: shares differ by at most one item.
struct Share {
  int part = 0, parts = 1;

  int begin(int n) const { return static_cast<int>(int64_t{n} * part / parts); }
  int end(int n) const { return static_cast<int>(int64_t{n} * (part + 1) / parts); }
};

class Barrier {
 public:
  explicit Barrier(int members = 1) : members_(members) {}

  void wait() {
    if (members_ == 1) return;
    const uint32_t phase = phase_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == members_ - 1) {
      arrived_.store(0, std::memory_order_relaxed);
      phase_.fetch_add(1, std::memory_order_release);
      return;
    }
    for (int spins = 0; phase_.load(std::memory_order_acquire) == phase; ++spins) {
      if (spins < 4096) spin_pause();
      else std::this_thread::yield();  // more threads than cores: let the late one run
    }
  }

 private:
  const int members_;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
};

class Pool {
 public:
  explicit Pool(int threads) {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { serve(i); });
  }
  ~Pool() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (auto& worker : workers_) worker.join();
  }
  Pool(const Pool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Runs work(0) .. work(threads - 1), the first one in the calling thread. `work` must not throw.
  void run(const std::function<void(int)>& work) {
    if (!workers_.empty()) {
      {
        const std::lock_guard lock(mutex_);
        work_ = &work;
        running_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
        ++epoch_;
      }
      wake_.notify_all();
    }
    work(0);
    for (int spins = 0; running_.load(std::memory_order_acquire) != 0; ++spins) {
      if (spins < 4096) spin_pause();
      else std::this_thread::yield();
    }
  }

 private:
  void serve(int index) {
    for (uint64_t seen = 0;;) {
      const std::function<void(int)>* work;
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return stop_ || epoch_ != seen; });
        if (stop_) return;
        seen = epoch_;
        work = work_;
      }
      (*work)(index);
      running_.fetch_sub(1, std::memory_order_release);
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  const std::function<void(int)>* work_ = nullptr;
  uint64_t epoch_ = 0;
  bool stop_ = false;
  std::atomic<int> running_{0};
  std::vector<std::thread> workers_;
};

}  // namespace geluless
