// The forward pass: which kernel reads which rows, and which thread does it.
//
// A stage's windows are split among teams of threads. A team of one walks through a few windows at a time and takes each
// from the first LayerNorm to the end of the MLP while it is in the cache, without a barrier. The members of a larger team
// share the same windows and split heads and output columns; they meet after every layer. All threads meet between blocks,
// because the shifted windows of the next block cut across the present ones.
//
// An activation that is a pass of its own normally waits for the whole layer, as on a GPU: what it reads has left the cache. With
// `blocked` it comes behind fc1 in the strips of windows that everything else is done in.

#pragma once

#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "model.h"
#include "threads.h"

namespace geluless {

// Receives intermediate tensors row by row as int32.
using Tap = std::function<void(const std::string& name, int token, const int32_t* values, int columns)>;

// One kernel call of a norm, a linear layer or an activation of a block: which of them, the kernel's name, its first instruction.
struct KernelRun {
  std::string part, kernel;
  const void* code;
};

class Network {
 public:
  // Copies all it needs out of the specification. Throws std::bad_alloc.
  Network(const NetworkSpec& spec, const Kernels& kernels, int threads, bool blocked = false);

  // images: float32 [batch, channels, height, width]; logits: [batch, classes]. Returns the index of the first image with a
  // NaN or infinite pixel, or -1. Simultaneous calls are served one after the other. Works in forked processes, too.
  int run(const float* images, int batch, float* logits);

  // One image on one thread; `tap` receives every intermediate tensor. Returns as run() does.
  int trace(const float* image, float* logits, const Tap& tap);

  // One image on one thread: every kernel call of its blocks in order, attention's aside, noted where the call is made.
  std::vector<KernelRun> kernel_runs(const float* image, float* logits);

  const Model& model() const { return model_; }
  size_t bytes() const;  // packed weights and all buffers

 private:
  struct Buffers {
    Arena arena;
    int16_t* stream[2];  // residual streams: of this stage and of the next
    uint8_t *normed, *qkv, *context, *hidden, *stored, *attention, *pixels;
    int16_t* s16;
    int32_t* sums;
    int16_t* pooled;
    uint32_t not_finite;
  };
  struct Workers {  // of one process
    Workers(const Model& model, int threads);

    std::mutex mutex;  // held during a pass
    Pool pool;
    Barrier all;
    std::vector<std::deque<Barrier>> teams;  // per stage and team
  };
  struct Crew {  // who works on an image together
    int thread, threads;
    Barrier* all;
    std::vector<std::deque<Barrier>>* teams;  // per stage and team; null when alone
  };
  struct Place {    // a thread in a stage
    Share windows;  // of the stage, as a team
    Share work;     // of the team's layers, as a member
    Barrier* barrier;
    bool idle;  // more threads than the teams can use

    void meet() const {
      if (barrier) barrier->wait();
    }
  };
  struct Work {  // one block's operands
    const Stage& stage;
    const Block& block;
    int16_t* stream;
    Buffers& team;  // shared by the members
    Buffers& own;
    const Place& place;
    const Tap* tap;
  };

  // Whether norm2 to fc2 take all rows at once.
  bool whole_layer(const Block& block) const { return block.elementwise && !blocked_; }
  void lay_out(Buffers& b) const;
  Workers& workers();  // starts their threads at the first call in a process. Throws NoThreads.
  Place place_of(size_t stage, const Crew& crew) const;
  bool forward(const float* image, float* logits, Buffers& shared, const Crew& crew, const Tap* tap);
  void embed(const float* image, Buffers& shared, Buffers& own, Share share) const;
  void merge(const Stage& stage, const int16_t* from, int16_t* to, Buffers& own, Share tokens) const;
  void run_block(const Work& work) const;
  void attend(const Work& work, int first_window, int windows) const;
  void transform(const Work& work, const int32_t* rows, int count) const;
  void pool(const int16_t* stream, Buffers& own) const;

  void layer_norm(const Norm& norm, const int16_t* stream, const int32_t* rows, int count, bool s16, void* output,
                  size_t output_stride) const;
  void gemm(const PackedLinear& layer, const uint8_t* input, int rows, Share panels, void* output, size_t output_stride,
            const int32_t* row_index = nullptr) const;
  void note(const void* part, const std::string& kernel, const void* code) const;

  const Kernels& kernels_;
  const bool blocked_;
  Model model_;
  std::vector<Buffers> buffers_;  // one set per thread
  PerProcess<Workers> workers_;
  inline static thread_local std::vector<KernelRun>* runs_ = nullptr;  // kernel_runs()'s notes; no fork() takes them along
};

}  // namespace geluless
