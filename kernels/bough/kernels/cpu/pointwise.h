// Operations on single rows: embedding, norms, head norms with rotation and cache writes. Each row
// is computed by one thread in a fixed order, whatever else is in the step.
#pragma once

#include <cmath>

#include "step.h"
#include "vec.h"

namespace bough {

constexpr int64_t kLeastElements = 8192;  // below, waking another thread costs more than it saves

static inline int64_t least_rows(int64_t width) { return std::max<int64_t>(1, kLeastElements / width); }

// 1 / sqrt(mean(x^2) + eps) of n elements, n a multiple of 16.
template <typename T>
static inline float inverse_rms(const T* x, int64_t n, float eps) {
  f32x16 sum = zeros();
  for (int64_t i = 0; i < n; i += 16) {
    f32x16 v = load16(x + i);
    sum += v * v;
  }
  return 1.0f / std::sqrt(reduce_add(sum) / static_cast<float>(n) + eps);
}

// input: unused; weight: [vocab, in_features]; output: [tokens, in_features]
template <typename T>
void embed(const Op& op, const Context& context) {
  const int64_t width = op.in_features;
  const T* table = static_cast<const T*>(op.weight);
  T* out = static_cast<T*>(op.output);
  context.split(context.step.num_tokens, least_rows(width), [&](int64_t begin, int64_t end, Scratch&) {
    for (int64_t t = begin; t < end; ++t)
      std::memcpy(out + t * width, table + context.step.tokens[t] * width, width * sizeof(T));
  });
}

// input: [tokens, in_features]; output: [logits, in_features]
template <typename T>
void take_rows(const Op& op, const Context& context) {
  const int64_t width = op.in_features;
  const T* in = static_cast<const T*>(op.input);
  T* out = static_cast<T*>(op.output);
  context.split(context.step.num_logits, least_rows(width), [&](int64_t begin, int64_t end, Scratch&) {
    for (int64_t s = begin; s < end; ++s)
      std::memcpy(out + s * width, in + context.step.logit_rows[s] * width, width * sizeof(T));
  });
}

// input: [rows, in_features]; weight: [in_features]; output: as input
template <typename T>
void norm(const Op& op, const Context& context) {
  const int64_t width = op.in_features;
  const T* weight = static_cast<const T*>(op.weight);
  context.split(context.rows_of(op), least_rows(width), [&](int64_t begin, int64_t end, Scratch&) {
    for (int64_t r = begin; r < end; ++r) {
      const T* x = static_cast<const T*>(op.input) + r * width;
      T* out = static_cast<T*>(op.output) + r * width;
      const float factor = inverse_rms(x, width, op.eps);
      for (int64_t i = 0; i < width; i += 16) store16(out + i, load16(x + i) * factor * load16(weight + i));
    }
  });
}

// Rotates the pairs (i, half + i) of a head in place.
static inline void rotate(float* __restrict head, const float* __restrict angles, int64_t half) {
  for (int64_t i = 0; i < half; ++i) {
    const float first = head[i], second = head[half + i], cosine = angles[i], sine = angles[half + i];
    head[i] = first * cosine - second * sine;
    head[half + i] = second * cosine + first * sine;
  }
}

// Norms a head of n floats in place when there is a weight, then rotates it: cosines, then sines, n / 2 of each.
template <typename T>
static inline void norm_and_rotate(float* head, int64_t n, const T* weight, float eps, const float* angles) {
  if (weight != nullptr) {
    const float factor = inverse_rms(head, n, eps);
    for (int64_t i = 0; i < n; i += 16) store16(head + i, load16(head + i) * factor * load16(weight + i));
  }
  rotate(head, angles, n / 2);
}

// One token of `store`: every head of its projection.
template <typename T>
static void store_token(const Op& op, const Step& step, int64_t t) {
  const int64_t dim = op.head_dim, heads = op.num_heads, kv_heads = op.num_kv_heads;
  constexpr int g = kGroup<T>;
  const T* in = static_cast<const T*>(op.input) + t * (heads + 2 * kv_heads) * dim;
  T* queries = static_cast<T*>(op.output) + t * heads * dim;
  const float* angles = static_cast<const float*>(op.table) + step.positions[t] * dim;
  const int64_t page = step.slots[t] / kPageSize, offset = step.slots[t] % kPageSize;
  alignas(64) float head[kMaxHeadDim];
  for (int64_t h = 0; h < heads; ++h, in += dim) {
    for (int64_t i = 0; i < dim; i += 16) store16(head + i, load16(in + i));
    norm_and_rotate(head, dim, static_cast<const T*>(op.weight), op.eps, angles);
    for (int64_t i = 0; i < dim; i += 16) store16(queries + h * dim + i, load16(head + i));
  }
  for (int64_t h = 0; h < kv_heads; ++h, in += dim) {
    for (int64_t i = 0; i < dim; i += 16) store16(head + i, load16(in + i));
    norm_and_rotate(head, dim, static_cast<const T*>(op.weight2), op.eps, angles);
    alignas(64) T rounded[kMaxHeadDim];
    for (int64_t i = 0; i < dim; i += 16) store16(rounded + i, load16(head + i));
    T* out = static_cast<T*>(op.keys) + (page * kv_heads + h) * dim * kPageSize + offset * g;
    // a lane of 32 bits at a time
    for (int64_t i = 0; i < dim; i += g) std::memcpy(out + i * kPageSize, rounded + i, 4);
  }
  for (int64_t h = 0; h < kv_heads; ++h, in += dim) {
    T* out = static_cast<T*>(op.values) + (page * kv_heads + h) * dim * kPageSize + offset / g * dim * g + offset % g;
    for (int64_t i = 0; i < dim; ++i) out[i * g] = in[i];
  }
}

// input: [tokens, (heads + 2 kv_heads) * head_dim]; weight, weight2: norms of query and key heads or null;
// table: cosines and sines [positions, head_dim]; output: queries [tokens, heads * head_dim]; keys, values: the cache
template <typename T>
void store(const Op& op, const Context& context) {
  context.split(context.step.num_tokens, 4, [&](int64_t begin, int64_t end, Scratch&) {
    for (int64_t t = begin; t < end; ++t) store_token<T>(op, context.step, t);
  });
}

}  // namespace bough
