// Attention over the paged cache by an online softmax (Milakov and Gimelshein, 2018) in blocks of four pages. Blocks
// begin at multiples of 64 tokens and a query's sums run over them in order, so that its result depends neither on the
// chunk it was computed in nor on the other rows.
#pragma once

#include <algorithm>

#include "amx.h"
#include "step.h"
#include "vec.h"

namespace bough {

// Below every score, and finite so that differences stay numbers; a masked score weighs 0 even against kNoneYet.
constexpr float kMasked = -1e30f;
constexpr float kNoneYet = -1e20f;

template <typename T>
struct Block {
  int first;      // position of its first token
  int turn;       // which of the two buffers it uses
  int num_pages;  // present ones
  const T* keys[kBlockPages];
  const T* values[kBlockPages];
};

// Pages whose scores four rows sum up at a time: as many as leave room in the registers for keys and queries.
#if defined(__AVX512F__)
constexpr int kPagesAtOnce = 4;
#else
constexpr int kPagesAtOnce = 1;
#endif

// R rows of scores against four pages; a page that is not there repeats the first one and is masked later.
template <typename T, int R>
static inline void vector_scores_of(const T* q, int dim, const Block<T>& block, float* scores) {
  constexpr int g = kGroup<T>, parts = kPagesAtOnce * kRegisters;
  for (int first = 0; first < kBlockPages; first += kPagesAtOnce) {
    f32xr acc[R][parts] = {};
    for (int i = 0; i < dim; i += g) {
      f32xr k[parts][g];
      BOUGH_UNROLL
      for (int part = 0; part < parts; ++part) {
        const T* keys = block.keys[first + part / kRegisters];
        load_lanes(keys + i * kPageSize + part % kRegisters * kRegister * g, k[part]);
      }
      BOUGH_UNROLL
      for (int r = 0; r < R; ++r) {
        f32xr at[g];
        splat_lane(q + r * dim + i, at);
        BOUGH_UNROLL
        for (int part = 0; part < parts; ++part)
          BOUGH_UNROLL
          for (int half = 0; half < g; ++half) acc[r][part] += k[part][half] * at[half];
      }
    }
    BOUGH_UNROLL
    for (int r = 0; r < R; ++r)
      BOUGH_UNROLL
      for (int part = 0; part < parts; ++part)
        std::memcpy(scores + r * kBlockTokens + first * kPageSize + part * kRegister, &acc[r][part], sizeof(f32xr));
  }
}

template <typename T>
static void vector_scores(Queries<T>& s, const Block<T>& block) {
  int r = 0;
  for (; r + 4 <= s.count; r += 4)
    vector_scores_of<T, 4>(s.q + r * s.head_dim, s.head_dim, block, s.scores[block.turn] + r * kBlockTokens);
  for (; r < s.count; ++r)
    vector_scores_of<T, 1>(s.q + r * s.head_dim, s.head_dim, block, s.scores[block.turn] + r * kBlockTokens);
}

// R rows of weights times the values of a block, 16 dimensions at a time.
template <typename T, int R>
static inline void vector_values_of(const T* weights, int dim, const Block<T>& block, float* out) {
  constexpr int g = kGroup<T>, parts = kRegisters;
  for (int d = 0; d < dim; d += 16) {
    f32xr acc[R][parts];
    BOUGH_UNROLL
    for (int r = 0; r < R; ++r)
      BOUGH_UNROLL
      for (int part = 0; part < parts; ++part)
        std::memcpy(&acc[r][part], out + r * dim + d + part * kRegister, sizeof(f32xr));
    for (int p = 0; p < block.num_pages; ++p) {
      for (int t = 0; t < kPageSize; t += g) {
        f32xr v[parts][g];
        BOUGH_UNROLL
        for (int part = 0; part < parts; ++part)
          load_lanes(block.values[p] + t * dim + (d + part * kRegister) * g, v[part]);
        BOUGH_UNROLL
        for (int r = 0; r < R; ++r) {
          f32xr at[g];
          splat_lane(weights + r * kBlockTokens + p * kPageSize + t, at);
          BOUGH_UNROLL
          for (int part = 0; part < parts; ++part)
            BOUGH_UNROLL
            for (int half = 0; half < g; ++half) acc[r][part] += v[part][half] * at[half];
        }
      }
    }
    BOUGH_UNROLL
    for (int r = 0; r < R; ++r)
      BOUGH_UNROLL
      for (int part = 0; part < parts; ++part)
        std::memcpy(out + r * dim + d + part * kRegister, &acc[r][part], sizeof(f32xr));
  }
}

template <typename T>
static void vector_values(Queries<T>& s, const Block<T>& block) {
  int r = 0;
  for (; r + 4 <= s.count; r += 4)
    vector_values_of<T, 4>(s.weights[block.turn] + r * kBlockTokens, s.head_dim, block, s.out + r * s.head_dim);
  for (; r < s.count; ++r)
    vector_values_of<T, 1>(s.weights[block.turn] + r * kBlockTokens, s.head_dim, block, s.out + r * s.head_dim);
}

#if defined(BOUGH_AMX)

// Tiles 0-3: sums; 4: queries; 5: keys of a page; 6: weights of a page; 7: values of a page, as 8 pairs of tokens.
static inline void configure_attention(Scratch& scratch, int count) {
  const uint32_t key = 0x200u + static_cast<uint32_t>(count);
  if (scratch.tile_key == key) return;
  scratch.tile_key = key;
  TileConfig config;
  for (int tile = 0; tile < 5; ++tile) config.set(tile, count, 64);
  config.set(5, 16, 64);
  config.set(6, count, 32);
  config.set(7, 8, 64);
  config.load();
}

static inline void amx_scores(Queries<bf16>& s, const Block<bf16>& block) {
  const int64_t q_stride = s.head_dim * 2, stride = kBlockTokens * 4;
  publish_stores(s.q);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int i = 0; i < s.head_dim; i += 32) {
    _tile_loadd(4, s.q + i, q_stride);
    _tile_loadd(5, block.keys[0] + i * kPageSize, 64);
    _tile_dpbf16ps(0, 4, 5);
    if (block.num_pages > 1) {
      _tile_loadd(5, block.keys[1] + i * kPageSize, 64);
      _tile_dpbf16ps(1, 4, 5);
    }
    if (block.num_pages > 2) {
      _tile_loadd(5, block.keys[2] + i * kPageSize, 64);
      _tile_dpbf16ps(2, 4, 5);
    }
    if (block.num_pages > 3) {
      _tile_loadd(5, block.keys[3] + i * kPageSize, 64);
      _tile_dpbf16ps(3, 4, 5);
    }
  }
  float* scores = s.scores[block.turn];
  _tile_stored(0, scores, stride);
  _tile_stored(1, scores + kPageSize, stride);
  _tile_stored(2, scores + 2 * kPageSize, stride);
  _tile_stored(3, scores + 3 * kPageSize, stride);
}

// head_dim is a multiple of 32, so that two sums are always under way at once.
static inline void amx_values(Queries<bf16>& s, const Block<bf16>& block) {
  const int64_t out_stride = s.head_dim * 4, stride = kBlockTokens * 2, v_stride = s.head_dim * 4;
  const bf16* weights = s.weights[block.turn];
  publish_stores(weights);
  for (int d = 0; d < s.head_dim; d += 32) {
    _tile_loadd(0, s.out + d, out_stride);
    _tile_loadd(1, s.out + d + 16, out_stride);
    for (int p = 0; p < block.num_pages; ++p) {
      _tile_loadd(6, weights + p * kPageSize, stride);
      _tile_loadd(7, block.values[p] + d * 2, v_stride);
      _tile_dpbf16ps(0, 6, 7);
      _tile_loadd(7, block.values[p] + d * 2 + 32, v_stride);
      _tile_dpbf16ps(1, 6, 7);
    }
    _tile_stored(0, s.out + d, out_stride);
    _tile_stored(1, s.out + d + 16, out_stride);
  }
}

#endif

// Scores outside the visible range [low, high) of the block's 64 tokens become kMasked.
static inline void mask_row(float* scores, int low, int high) {
  for (int t = 0; t < std::min(low, kBlockTokens); ++t) scores[t] = kMasked;
  for (int t = std::max(high, 0); t < kBlockTokens; ++t) scores[t] = kMasked;
}

// Turns a block's scores into weights and rescales what was summed before. `scale` includes log2(e).
template <typename T>
static inline void softmax_block(Queries<T>& s, const Block<T>& block, int window, float scale) {
  for (int r = 0; r < s.count; ++r) {
    float* row = s.scores[block.turn] + r * kBlockTokens;
    const int high = s.position[r] + 1 - block.first, low = window > 0 ? high - window : 0;
    if (high < kBlockTokens || low > 0) mask_row(row, low, high);
    constexpr int parts = kBlockTokens / kRegister;
    f32xr x[parts];
    std::memcpy(x, row, sizeof x);
    f32xr most = x[0];
    BOUGH_UNROLL
    for (int i = 1; i < parts; ++i) most = max_of(most, x[i]);
    const float best = std::max(s.best[r], reduce_max(most) * scale);
    BOUGH_UNROLL
    for (int i = 0; i < parts; ++i) {
      x[i] = exp2_of<T>(x[i] * scale - best);
      store_part(s.weights[block.turn] + r * kBlockTokens + i * kRegister, x[i]);
    }
    f32xr sum[kRegisters];
    std::memcpy(sum, &s.sum[r], sizeof sum);
    if (best != s.best[r]) {
      const f32xr shrink = exp2_of<T>(f32xr{} + (s.best[r] - best));
      BOUGH_UNROLL
      for (int i = 0; i < kRegisters; ++i) sum[i] *= shrink;
      float* out = s.out + r * s.head_dim;
      for (int d = 0; d < s.head_dim; d += kRegister) {
        f32xr part;
        std::memcpy(&part, out + d, sizeof part);
        store_part(out + d, part * shrink);
      }
      s.best[r] = best;
    }
    BOUGH_UNROLL
    for (int i = 0; i < kRegisters; ++i)
      sum[i] += (x[i] + x[kRegisters + i]) + (x[2 * kRegisters + i] + x[3 * kRegisters + i]);
    std::memcpy(&s.sum[r], sum, sizeof sum);
  }
}

template <typename T>
static inline void scores_of(Queries<T>& s, const Block<T>& block, bool tiles) {
#if defined(BOUGH_AMX)
  if constexpr (sizeof(T) == 2)
    if (tiles) return amx_scores(s, block);
#endif
  (void)tiles;
  vector_scores(s, block);
}

template <typename T>
static inline void add_values(Queries<T>& s, const Block<T>& block, bool tiles) {
#if defined(BOUGH_AMX)
  if constexpr (sizeof(T) == 2)
    if (tiles) return amx_values(s, block);
#endif
  (void)tiles;
  vector_values(s, block);
}

// The pages of one row as one head sees them.
template <typename T>
struct HeadPages {
  const T* keys;
  const T* values;
  const int32_t* pages;
  int64_t page_elements;
  int64_t head_elements;

  HeadPages(const Op& op, const Step& step, int row, int64_t head)
      : pages(step.page_table + row * step.page_table_stride),
        page_elements(op.num_kv_heads * op.head_dim * kPageSize),
        head_elements(op.head_dim * kPageSize) {
    keys = static_cast<const T*>(op.keys) + head * head_elements;
    values = static_cast<const T*>(op.values) + head * head_elements;
  }

  // A page that is not there repeats the block's first one: its scores are masked and its values not read.
  Block<T> block(int first, int end) const {
    Block<T> out;
    out.first = first;
    out.turn = first / kBlockTokens % 2;
    out.num_pages = std::min(kBlockPages, (end - first + kPageSize - 1) / kPageSize);
    for (int p = 0; p < kBlockPages; ++p) {
      const int64_t at = pages[first / kPageSize + (p < out.num_pages ? p : 0)] * page_elements;
      out.keys[p] = keys + at;
      out.values[p] = values + at;
    }
    return out;
  }

  // A block as its queries may read it. Values of the last page that none of them sees weigh 0, which a NaN that an
  // earlier sequence left there would survive: where there is one they become 0, in a copy.
  Block<T> clean_block(int first, int end, Queries<T>& s) const {
    Block<T> out = block(first, end);
    const int seen = end - first - (out.num_pages - 1) * kPageSize;
    if (seen >= kPageSize) return out;
    constexpr int g = kGroup<T>;
    const int64_t row = s.head_dim * g, groups = (seen + g - 1) / g;
    const T* unseen = out.values[out.num_pages - 1] + seen / g * row;
    if (all_finite(unseen, (kPageSize / g - seen / g) * row)) return out;
    std::memcpy(s.last_values, out.values[out.num_pages - 1], groups * row * sizeof(T));
    if (seen % g != 0)
      for (int64_t i = 1; i < row; i += g) store1(s.last_values + (groups - 1) * row + i, 0.0f);
    std::memset(static_cast<void*>(s.last_values + groups * row), 0, (kPageSize / g - groups) * row * sizeof(T));
    out.values[out.num_pages - 1] = s.last_values;
    return out;
  }

  void prefetch(const Block<T>& block) const {
    const int64_t bytes = head_elements * sizeof(T);
    for (int p = 0; p < block.num_pages; ++p) {
      for (int64_t i = 0; i < bytes; i += 64) {
        __builtin_prefetch(reinterpret_cast<const char*>(block.keys[p]) + i, 0, 2);
        __builtin_prefetch(reinterpret_cast<const char*>(block.values[p]) + i, 0, 2);
      }
    }
  }
};

template <typename T>
static inline void load_queries(const Op& op, const QueryChunk& chunk, int64_t first_head, int heads,
                                int first_position, Queries<T>& s) {
  const int dim = static_cast<int>(op.head_dim);
  s.count = chunk.count * heads;
  s.head_dim = dim;
  for (int r = 0; r < s.count; ++r) {
    const int64_t token = chunk.first + r / heads, head = first_head + r % heads;
    std::memcpy(s.q + r * dim, static_cast<const T*>(op.input) + (token * op.num_heads + head) * dim, dim * sizeof(T));
    s.position[r] = first_position + r / heads;
    s.best[r] = kNoneYet;
    s.sum[r] = zeros();
  }
  std::memset(s.out, 0, sizeof(float) * s.count * dim);
}

template <typename T>
static inline void write_result(const Op& op, const QueryChunk& chunk, int64_t first_head, int heads,
                                const Queries<T>& s) {
  const int dim = s.head_dim;
  for (int r = 0; r < s.count; ++r) {
    const int64_t token = chunk.first + r / heads, head = first_head + r % heads;
    T* out = static_cast<T*>(op.output) + (token * op.num_heads + head) * dim;
    const float factor = 1.0f / reduce_add(s.sum[r]);
    for (int d = 0; d < dim; d += 16) store16(out + d, load16(s.out + r * dim + d) * factor);
  }
}

// Attention of one chunk of query tokens to one key-value head, for `heads` query heads from `first_head` on.
template <typename T>
static void attend_chunk(const Op& op, const Context& context, const QueryChunk& chunk, int64_t kv_head,
                         int64_t first_head, int heads, Scratch& scratch) {
  Queries<T>& s = scratch.queries<T>();
  const Step& step = context.step;
  const int first_position = step.context_lens[chunk.row] - (step.query_start[chunk.row + 1] - chunk.first);
  load_queries(op, chunk, first_head, heads, first_position, s);
  const bool tiles = sizeof(T) == 2 && context.use_amx && op.head_dim % 32 == 0;
#if defined(BOUGH_AMX)
  if (tiles) configure_attention(scratch, s.count);
#endif
  const HeadPages<T> head(op, step, chunk.row, kv_head);
  const int end = first_position + chunk.count;  // past the last visible token
  const int seen_from = op.window > 0 ? std::max(0, first_position + 1 - op.window) : 0;
  const bool streams = chunk.count == 1;  // its pages are read once, so they come from far
  Block<T> previous, current = head.clean_block(seen_from / kBlockTokens * kBlockTokens, end, s);
  scores_of(s, current, tiles);
  // scores run a block ahead of the softmax and values a block behind it: none waits for what was just stored
  for (bool first = true;; first = false) {
    const bool last = current.first + kBlockTokens >= end;
    Block<T> next;
    if (!last) {
      next = head.clean_block(current.first + kBlockTokens, end, s);
      if (streams && next.first + kBlockTokens < end) head.prefetch(head.block(next.first + kBlockTokens, end));
      scores_of(s, next, tiles);
    }
    if (!first) add_values(s, previous, tiles);
    softmax_block(s, current, op.window, op.scale);
    if (last) break;
    previous = current;
    current = next;
  }
  add_values(s, current, tiles);
  write_result(op, chunk, first_head, heads, s);
}

// Query tokens that share a tile, for a group of `group` query heads per key-value head.
static inline int tokens_per_chunk(int64_t group) { return std::max<int>(1, kMaxQueries / static_cast<int>(group)); }

// input, output: [tokens, heads * head_dim]; keys, values: the cache
template <typename T>
void attend(const Op& op, const Context& context) {
  const int64_t group = op.num_heads / op.num_kv_heads;
  const int64_t parts = (group + kMaxQueries - 1) / kMaxQueries;
  const int64_t per_chunk = op.num_kv_heads * parts;
  const int64_t num_tasks = static_cast<int64_t>(context.chunks.size()) * per_chunk;
  const int64_t batch = std::min<int64_t>(8, std::max<int64_t>(1, num_tasks / (8 * context.pool.num_threads())));
  context.pool.run((num_tasks + batch - 1) / batch, [&](int64_t piece, Scratch& scratch) {
    for (int64_t task = piece * batch; task < std::min(num_tasks, (piece + 1) * batch); ++task) {
      const int64_t kv_head = task % per_chunk / parts, first = task % parts * kMaxQueries;
      const int heads = static_cast<int>(std::min<int64_t>(kMaxQueries, group - first));
      const QueryChunk& chunk = context.chunks[task / per_chunk];
      attend_chunk<T>(op, context, chunk, kv_head, kv_head * group + first, heads, scratch);
    }
  });
}

}  // namespace bough
