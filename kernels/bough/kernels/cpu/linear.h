// Matrix products with packed weights. A panel holds 16 output columns; inside it each 32-bit lane holds one float or
// two bf16 neighbours of the input dimension: [out / 16][in / group][16][group]. Every output element is summed over
// the input in one fixed order, so that a row's result does not depend on the other rows.
#pragma once

#include <algorithm>

#include "amx.h"
#include "step.h"
#include "vec.h"

namespace bough {

constexpr int kPanel = 16;
constexpr int kBlockColumns = 2 * kPanel;

// Where finished sums go: with a bias, added to what is there, as the gated product of a gate panel and an up panel, or
// as float logits.
template <typename T>
struct Output {
  T* rows;             // [rows, columns]
  float* float_rows;   // in place of `rows` for logits
  const float* bias;   // [padded columns] in panel order, or null
  int64_t columns;
  bool add;
  bool gated;

  // sums: [count][stride] floats, two panels wide; first_panel: the panel that they begin with
  void write(const float* sums, int stride, int64_t row, int count, int64_t first_panel, int num_panels) const {
    for (int r = 0; r < count; ++r, sums += stride) {
      f32x16 part[2] = {load16(sums), num_panels > 1 ? load16(sums + kPanel) : zeros()};
      if (bias != nullptr)
        for (int p = 0; p < num_panels; ++p) part[p] += load16(bias + (first_panel + p) * kPanel);
      if (gated) {
        put(row + r, first_panel / 2 * kPanel, silu16(part[0]) * part[1]);
      } else {
        for (int p = 0; p < num_panels; ++p) put(row + r, (first_panel + p) * kPanel, part[p]);
      }
    }
  }

  void put(int64_t row, int64_t column, f32x16 v) const {
    if (float_rows != nullptr)
      put_into(float_rows + row * columns, column, v);
    else
      put_into(rows + row * columns, column, v);
  }

  template <typename U>
  void put_into(U* row, int64_t column, f32x16 v) const {
    U* at = row + column;
    if (column + kPanel <= columns) {
      store16(at, add ? v + load16(at) : v);
    } else {
      for (int i = 0; column + i < columns; ++i) store1(at + i, add ? v[i] + to_float(at[i]) : v[i]);
    }
  }
};

// Rows that a block of plain vectors has at most, and panels: as many sums as stay in registers beside the weights. 32
// registers of 16 floats hold 8 x 2; 16 registers of 8 floats hold 4 x 1, and more than that goes through memory at each
// step of the sum.
#if defined(__AVX512F__)
constexpr int kMaxRows = 8, kMaxPanels = 2;
#else
constexpr int kMaxRows = 4, kMaxPanels = 1;
#endif

// R rows by P panels on plain vectors.
template <typename T, int R, int P>
static inline void vector_block(const T* x, int64_t in, const T* const* panels, float* sums) {
  f32xr acc[R][P * kRegisters] = {};
  constexpr int g = kGroup<T>;
  for (int64_t i = 0; i < in; i += g) {
    f32xr w[P * kRegisters][g];
    BOUGH_UNROLL
    for (int part = 0; part < P * kRegisters; ++part)
      load_lanes(panels[part / kRegisters] + i * kPanel + part % kRegisters * kRegister * g, w[part]);
    BOUGH_UNROLL
    for (int r = 0; r < R; ++r) {
      f32xr at[g];
      splat_lane(x + r * in + i, at);
      BOUGH_UNROLL
      for (int part = 0; part < P * kRegisters; ++part)
        BOUGH_UNROLL
        for (int half = 0; half < g; ++half) acc[r][part] += w[part][half] * at[half];
    }
  }
  BOUGH_UNROLL
  for (int r = 0; r < R; ++r)
    BOUGH_UNROLL
    for (int part = 0; part < P * kRegisters; ++part)
      std::memcpy(sums + r * kBlockColumns + part * kRegister, &acc[r][part], sizeof(f32xr));
}

// R rows by both panels, kMaxPanels at a time.
template <typename T, int R>
static inline void vector_block_pair(const T* x, int64_t in, const T* const* panels, float* sums) {
  for (int p = 0; p < 2; p += kMaxPanels) vector_block<T, R, kMaxPanels>(x, in, panels + p, sums + p * kPanel);
}

template <typename T>
static void vector_rows(const T* x, int64_t in, int64_t begin, int64_t end, const T* panel0, const T* panel1,
                        int64_t first_panel, int num_panels, const Output<T>& out, float* sums) {
  const T* const panels[2] = {panel0, panel1};
  for (int64_t row = begin; row < end;) {
    const int64_t left = end - row;
    const T* rows = x + row * in;
    const int count = left >= kMaxRows ? kMaxRows : left >= 4 ? 4 : left >= 2 ? 2 : 1;
    switch (count) {
      case kMaxRows: vector_block_pair<T, kMaxRows>(rows, in, panels, sums); break;
#if defined(__AVX512F__)
      case 4: vector_block_pair<T, 4>(rows, in, panels, sums); break;
#endif
      case 2: vector_block_pair<T, 2>(rows, in, panels, sums); break;
      default: vector_block_pair<T, 1>(rows, in, panels, sums);
    }
    out.write(sums, kBlockColumns, row, count, first_panel, num_panels);
    row += count;
  }
}

#if defined(BOUGH_AMX)

// Tiles 0-3 are sums, 4 and 5 rows of x, 6 and 7 panels of the weight.
static inline void configure_linear(Scratch& scratch, int rows0, int rows1) {
  const uint32_t key = 0x100u + static_cast<uint32_t>(rows0 + rows1);
  if (scratch.tile_key == key) return;
  scratch.tile_key = key;
  TileConfig config;
  const int rows[2] = {rows0, rows1 > 0 ? rows1 : rows0};
  for (int i = 0; i < 2; ++i) {
    config.set(2 * i, rows[i], 64);
    config.set(2 * i + 1, rows[i], 64);
    config.set(4 + i, rows[i], 64);
    config.set(6 + i, 16, 64);
  }
  config.load();
}

// Up to 32 rows by two panels; rows1 = 0 when there are at most 16.
static inline void amx_block(const bf16* x, int64_t in, int rows1, const bf16* panel0, const bf16* panel1,
                             float* sums) {
  const int64_t x_stride = in * 2, sum_stride = kBlockColumns * 4;
  const bf16* lower = x + 16 * in;
  _tile_zero(0);
  _tile_zero(1);
  if (rows1 == 0) {
    for (int64_t i = 0; i < in; i += 32) {
      _tile_loadd(4, x + i, x_stride);
      _tile_loadd(6, panel0 + i * kPanel, 64);
      _tile_loadd(7, panel1 + i * kPanel, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
    }
  } else {
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t i = 0; i < in; i += 32) {
      _tile_loadd(4, x + i, x_stride);
      _tile_loadd(6, panel0 + i * kPanel, 64);
      _tile_loadd(7, panel1 + i * kPanel, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(5, lower + i, x_stride);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(2, sums + 16 * kBlockColumns, sum_stride);
    _tile_stored(3, sums + 16 * kBlockColumns + kPanel, sum_stride);
  }
  _tile_stored(0, sums, sum_stride);
  _tile_stored(1, sums + kPanel, sum_stride);
}

static void amx_rows(const bf16* x, int64_t in, int64_t begin, int64_t end, const bf16* panel0, const bf16* panel1,
                     int64_t first_panel, int num_panels, const Output<bf16>& out, Scratch& scratch) {
  for (int64_t row = begin; row < end; row += 32) {
    const int count = static_cast<int>(std::min<int64_t>(32, end - row));
    const int rows1 = std::max(0, count - 16);
    configure_linear(scratch, std::min(count, 16), rows1);
    amx_block(x + row * in, in, rows1, panel0, panel1, scratch.sums);
    out.write(scratch.sums, kBlockColumns, row, count, first_panel, num_panels);
  }
}

#endif

// input: [rows, in_features]; weight: packed panels; weight2: float bias in panel order or null;
// output: [rows, out_features], or half as wide when gated, where out_features counts gate and up columns
template <typename T>
void linear(const Op& op, const Context& context) {
  const int64_t in = op.in_features, rows = context.rows_of(op);
  const int64_t num_panels = (op.out_features + kPanel - 1) / kPanel, num_pairs = (num_panels + 1) / 2;
  const T* x = static_cast<const T*>(op.input);
  const T* weight = static_cast<const T*>(op.weight);
  const bool gated = op.kind == kGatedLinear;
  const Output<T> out{static_cast<T*>(op.output), op.kind == kLogits ? context.step.logits : nullptr,
                      static_cast<const float*>(op.weight2), gated ? op.out_features / 2 : op.out_features,
                      op.kind == kAddLinear, gated};
  // rows of x that a panel pair meets at a time: few enough to stay in the cache of a core
  const int64_t fitting = (int64_t{512} << 10) / (in * static_cast<int64_t>(sizeof(T)));
  const int64_t block = std::max<int64_t>(32, fitting / 32 * 32);
  const int64_t num_blocks = (rows + block - 1) / block;
  context.split(num_blocks * num_pairs, 1, [&](int64_t first_task, int64_t last_task, Scratch& scratch) {
    for (int64_t task = first_task; task < last_task; ++task) {
      const int64_t begin = task / num_pairs * block, end = std::min(rows, begin + block);
      const int64_t first_panel = task % num_pairs * 2;
      const int present = static_cast<int>(std::min<int64_t>(2, num_panels - first_panel));
      const T* panel0 = weight + first_panel * kPanel * in;
      const T* panel1 = present > 1 ? panel0 + kPanel * in : panel0;
#if defined(BOUGH_AMX)
      if constexpr (sizeof(T) == 2) {
        if (context.use_amx && in % 32 == 0) {
          amx_rows(x, in, begin, end, panel0, panel1, first_panel, present, out, scratch);
          continue;
        }
      }
#endif
      vector_rows(x, in, begin, end, panel0, panel1, first_panel, present, out, scratch.sums);
    }
  });
}

}  // namespace bough
