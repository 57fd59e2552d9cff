// A team of threads that run the same function side by side and meet at barriers. They wait by spinning while a forward pass
// runs (a block of Swin-T has five barriers in a hundred microseconds) and sleep between passes.

#pragma once

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace geluless {

// How many forks lie between the process that loaded this module and the present one.
inline std::atomic<uint64_t> forks{0};
inline const int forks_are_counted = pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1, std::memory_order_relaxed); });

// fork() copies the memory and one thread. In the child the others are gone, what they had locked stays locked, and whoever
// destroys a condition variable waits for them. So whatever has threads or locks belongs to the process that made it: a child
// makes its own at its first call, and leaves the inherited one where it lies.
template <class T>
class PerProcess {
 public:
  PerProcess() = default;
  PerProcess(const PerProcess&) = delete;
  ~PerProcess() {
    const Made* made = made_.load(std::memory_order_acquire);
    if (made && made->forks == forks.load(std::memory_order_relaxed)) delete made;
  }

  // The present process's. `make` returns std::unique_ptr<T>; what it throws passes. No lock here: it would be inherited, too.
  template <class Make>
  T& get(const Make& make) {
    const uint64_t now = forks.load(std::memory_order_relaxed);
    const Made* made = made_.load(std::memory_order_acquire);
    if (made && made->forks == now) return *made->value;
    auto mine = std::make_unique<const Made>(Made{now, make()});
    if (made_.compare_exchange_strong(made, mine.get(), std::memory_order_acq_rel)) return *mine.release()->value;
    return *made->value;  // another thread of this process was faster
  }

 private:
  struct Made {
    uint64_t forks;
    std::unique_ptr<T> value;
  };
  std::atomic<const Made*> made_{nullptr};
};

// Processors on which the calling thread, and those it starts, may run.
inline int processors() {
#if defined(__linux__)
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) return CPU_COUNT(&allowed);
#endif
  return static_cast<int>(std::thread::hardware_concurrency());  // 0 where that is not known
}

// Rounds of spinning before a thread lets others run, for a team of so many. With more threads than processors none: whom the
// thread waits for may be waiting for its processor.
inline int spins_for(int threads) { return threads <= processors() ? 4096 : 0; }

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

inline void wait_until(int spins, const auto& done) {
  for (int spun = 0; !done(); ++spun) {
    if (spun < spins) spin_pause();
    else std::this_thread::yield();
  }
}

class Barrier {
 public:
  Barrier(int members, int spins) : members_(members), spins_(spins) {}

  void wait() {
    if (members_ == 1) return;
    const uint32_t phase = phase_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == members_ - 1) {
      arrived_.store(0, std::memory_order_relaxed);
      phase_.fetch_add(1, std::memory_order_release);
      return;
    }
    wait_until(spins_, [&] { return phase_.load(std::memory_order_acquire) != phase; });
  }

 private:
  const int members_, spins_;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
};

struct NoThreads : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Pool {
 public:
  // Throws NoThreads where the system starts no more of them.
  Pool(int threads, int spins) : spins_(spins) {
    try {
      for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { serve(i); });
    } catch (const std::system_error& error) {
      stop();
      throw NoThreads(std::to_string(threads) + " threads cannot be started (" + error.code().message() + ")");
    }
  }
  ~Pool() { stop(); }
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
    wait_until(spins_, [&] { return running_.load(std::memory_order_acquire) == 0; });
  }

 private:
  void stop() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (auto& worker : workers_) worker.join();
  }
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

  const int spins_;
  std::mutex mutex_;
  std::condition_variable wake_;
  const std::function<void(int)>* work_ = nullptr;
  uint64_t epoch_ = 0;
  bool stop_ = false;
  std::atomic<int> running_{0};
  std::vector<std::thread> workers_;
};

}  // namespace geluless
