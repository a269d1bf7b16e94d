// What Python hands over: one step's tensors, and operations that work on them. Mirrored by ctypes in native.py.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "pool.h"

namespace bough {

enum Kind : int32_t {
  kEmbed = 0,
  kTakeRows = 1,
  kNorm = 2,
  kLinear = 3,
  kAddLinear = 4,
  kGatedLinear = 5,
  kLogits = 6,
  kStore = 7,
  kAttend = 8,
};

enum ElementType : int32_t { kFloat32 = 0, kBFloat16 = 1 };

struct Step {
  int64_t num_tokens;
  int64_t num_rows;
  int64_t num_logits;
  const int64_t* tokens;
  const int64_t* positions;
  const int64_t* slots;
  const int32_t* query_start;
  const int32_t* context_lens;
  const int32_t* page_table;
  int64_t page_table_stride;
  const int64_t* logit_rows;
  float* logits;
};

// Which fields an operation uses is said where it is implemented.
struct Op {
  int32_t kind;
  int32_t type;
  int32_t on_logit_rows;  // works on num_logits rows instead of num_tokens
  int32_t window;         // 0: none
  const void* input;
  const void* weight;
  const void* weight2;
  const void* table;
  void* output;
  void* keys;
  void* values;
  int64_t in_features;
  int64_t out_features;
  int64_t num_heads;
  int64_t num_kv_heads;
  int64_t head_dim;
  float eps;
  float scale;
};

// A few query tokens of one row: what one thread attends with at a time.
struct QueryChunk {
  int32_t row;
  int32_t first;  // index into the step's tokens
  int32_t count;
};

struct Context {
  const Step& step;
  bool use_amx;
  Pool& pool;
  std::vector<QueryChunk> chunks;

  int64_t rows_of(const Op& op) const { return op.on_logit_rows ? step.num_logits : step.num_tokens; }

  // Runs body(begin, end, scratch) over [0, count) in a few pieces per thread, none smaller than `least`.
  template <typename Body>
  void split(int64_t count, int64_t least, const Body& body) const {
    const int64_t pieces = 4 * pool.num_threads();
    const int64_t size = std::max(least, (count + pieces - 1) / pieces);
    pool.run((count + size - 1) / size, [&](int64_t piece, Scratch& scratch) {
      body(piece * size, std::min(count, (piece + 1) * size), scratch);
    });
  }
};

}  // namespace bough
