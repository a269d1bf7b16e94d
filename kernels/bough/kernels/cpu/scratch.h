// What each thread keeps for itself: buffers of the operations and the state of its tile unit.
#pragma once

#include <cstdint>

#include "amx.h"
#include "vec.h"

namespace bough {

constexpr int kPageSize = 16;
constexpr int kMaxQueries = 16;  // rows of a tile: query tokens times heads of a group
constexpr int kMaxHeadDim = 256;
constexpr int kBlockPages = 4;
constexpr int kBlockTokens = kBlockPages * kPageSize;

// One thread's queries against one key-value head.
template <typename T>
struct Queries {
  int count;  // rows in use
  int head_dim;
  alignas(64) T q[kMaxQueries * kMaxHeadDim];
  alignas(64) float out[kMaxQueries * kMaxHeadDim];
  // of two blocks, in turns: one is filled while the other is read
  alignas(64) float scores[2][kMaxQueries * kBlockTokens];
  alignas(64) T weights[2][kMaxQueries * kBlockTokens];
  alignas(64) T last_values[kPageSize * kMaxHeadDim];  // of a page that is seen in part
  f32x16 sum[kMaxQueries];
  float best[kMaxQueries];
  int position[kMaxQueries];
};

struct alignas(64) Scratch {
  Queries<float> float_queries;
  Queries<bf16> bf16_queries;
  float sums[32 * 32];
  uint32_t tile_key = 0;  // which configuration is loaded; 0: none

  template <typename T>
  Queries<T>& queries() {
    if constexpr (sizeof(T) == 4)
      return float_queries;
    else
      return bf16_queries;
  }

  void release_tiles() {
    if (tile_key != 0) amx_release();
    tile_key = 0;
  }
};

}  // namespace bough
