// Threads that share the tasks of one operation after another. An operation is over when its tasks are done, not when
// all threads have arrived: on a machine with other work a thread that is not scheduled holds nobody up, because the
// others take its tasks. Waiting spins for some microseconds and then sleeps, so that an idle pool uses no CPU.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "amx.h"
#include "scratch.h"

namespace bough {

static inline void pause_briefly() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

class Pool {
 public:
  explicit Pool(int num_threads) : scratch_(num_threads) {
    for (int i = 1; i < num_threads; ++i) workers_.emplace_back([this, i] { work(scratch_[i]); });
  }

  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stopping_.store(true);
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  int num_threads() const { return static_cast<int>(scratch_.size()); }
  Scratch& own_scratch() { return scratch_[0]; }

  // Runs task(index, scratch) for every index below `count` (at most 2^24), here and on the workers.
  template <typename Task>
  void run(int64_t count, const Task& task) {
    if (count <= 1 || scratch_.size() == 1) {
      for (int64_t i = 0; i < count; ++i) task(i, scratch_[0]);
      return;
    }
    call_ = [](const void* data, int64_t index, Scratch& scratch) {
      (*static_cast<const Task*>(data))(index, scratch);
    };
    data_ = &task;
    done_.store(0, std::memory_order_relaxed);
    const uint64_t epoch = (ticket_.load(std::memory_order_relaxed) >> 48) + 1;
    ticket_.store(epoch << 48 | static_cast<uint64_t>(count) << 24);
    if (sleepers_.load() > 0) {
      // the lock closes the gap between a worker's last look at the ticket and its sleep
      { std::lock_guard<std::mutex> lock(mutex_); }
      wake_.notify_all();
    }
    take_tasks(scratch_[0]);
    for (int spins = 0; done_.load(std::memory_order_acquire) != count; ++spins) {
      if (spins < kSpins)
        pause_briefly();
      else  // a worker was interrupted in a task: leave it the core
        std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
  }

 private:
  static constexpr int kSpins = 1000;
  static constexpr uint64_t kMask = (uint64_t{1} << 24) - 1;

  static bool has_tasks(uint64_t ticket) { return (ticket & kMask) < (ticket >> 24 & kMask); }

  // One atomic addition yields both an index and the operation it belongs to; the operation cannot change before the
  // task is counted as done.
  bool take_tasks(Scratch& scratch) {
    int64_t finished = 0;
    while (has_tasks(ticket_.load(std::memory_order_relaxed))) {
      const uint64_t ticket = ticket_.fetch_add(1);
      if (!has_tasks(ticket)) break;
      call_(data_, static_cast<int64_t>(ticket & kMask), scratch);
      // counted one by one: a task taken after the operation changed must not be counted with older ones
      done_.fetch_add(1, std::memory_order_release);
      ++finished;
    }
    return finished > 0;
  }

  void work(Scratch& scratch) {
    int idle_spins = 0;
    while (!stopping_.load(std::memory_order_relaxed)) {
      if (take_tasks(scratch)) {
        idle_spins = 0;
      } else if (++idle_spins < kSpins) {
        pause_briefly();
      } else {
        idle_spins = 0;
        scratch.release_tiles();
        std::unique_lock<std::mutex> lock(mutex_);
        sleepers_.fetch_add(1);
        wake_.wait(lock, [this] { return stopping_.load() || has_tasks(ticket_.load()); });
        sleepers_.fetch_sub(1);
      }
    }
  }

  std::vector<Scratch> scratch_;
  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<bool> stopping_{false};
  std::atomic<int> sleepers_{0};
  void (*call_)(const void*, int64_t, Scratch&) = nullptr;
  const void* data_ = nullptr;
  // epoch (16 bits), number of tasks (24), next task (24)
  alignas(64) std::atomic<uint64_t> ticket_{0};
  alignas(64) std::atomic<int64_t> done_{0};
};

}  // namespace bough
