// Vectors of 16 floats that compile to whatever the machine has, and the two element types of the kernels.
#pragma once

#include <cstdint>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace bough {

struct bf16 {
  uint16_t bits;
};

typedef float f32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef uint16_t u16x16 __attribute__((vector_size(32)));

// Neighbours that share a 32-bit lane in packed weights and cache pages.
template <typename T>
constexpr int kGroup = 4 / sizeof(T);

static inline f32x16 zeros() { return f32x16{}; }
static inline f32x16 splat(float x) { return zeros() + x; }

static inline float to_float(float x) { return x; }
static inline float to_float(bf16 x) {
  uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}

static inline f32x16 load16(const float* p) {
  f32x16 v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

static inline f32x16 load16(const bf16* p) {
  u16x16 v;
  std::memcpy(&v, p, sizeof v);
  return (f32x16)(__builtin_convertvector(v, u32x16) << 16);
}

static inline void store16(float* p, f32x16 v) { std::memcpy(p, &v, sizeof v); }

// Rounds to nearest even, as torch does.
static inline void store16(bf16* p, f32x16 v) {
#if defined(__AVX512BF16__)
  __m256bh out = _mm512_cvtneps_pbh((__m512)v);
  std::memcpy(p, &out, sizeof out);
#else
  u32x16 bits = (u32x16)v;
  bits += 0x7fffu + ((bits >> 16) & 1u);
  u16x16 out = __builtin_convertvector(bits >> 16, u16x16);
  std::memcpy(p, &out, sizeof out);
#endif
}

static inline void store1(float* p, float x) { *p = x; }
static inline void store1(bf16* p, float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  p->bits = static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// Whether n values, a multiple of 64 bytes, hold neither NaN nor infinity: their exponents are not all ones.
template <typename T>
static inline bool all_finite(const T* p, int64_t n) {
  const u32x16 high = u32x16{} + 0x7F800000u, low = u32x16{} + 0x7F80u;
  u32x16 bad{};
  for (int64_t i = 0; i < n; i += 64 / static_cast<int64_t>(sizeof(T))) {
    u32x16 bits;
    std::memcpy(&bits, p + i, sizeof bits);
    bad |= (u32x16)((bits & high) == high);
    if constexpr (sizeof(T) == 2) bad |= (u32x16)((bits & low) == low);
  }
  uint32_t any = 0;
  for (int lane = 0; lane < 16; ++lane) any |= bad[lane];
  return any == 0;
}

// The two halves of 16 lanes that hold pairs of bf16.
static inline u32x16 load_pairs(const bf16* p) {
  u32x16 v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
static inline f32x16 low_of(u32x16 pairs) { return (f32x16)(pairs << 16); }
static inline f32x16 high_of(u32x16 pairs) { return (f32x16)(pairs & 0xffff0000u); }

static inline f32x16 max16(f32x16 a, f32x16 b) {
#if defined(__AVX512F__)
  return (f32x16)_mm512_max_ps((__m512)a, (__m512)b);
#else
  return a > b ? a : b;
#endif
}

static inline float reduce_max(f32x16 v) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps((__m512)v);
#else
  float best = v[0];
  for (int i = 1; i < 16; ++i) best = v[i] > best ? v[i] : best;
  return best;
#endif
}

static inline float reduce_add(f32x16 v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)v);
#else
  float part[16];
  std::memcpy(part, &v, sizeof v);
  for (int width = 8; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) part[i] += part[i + width];
  return part[0];
#endif
}

// 2^x for x up to 126, exactly 0 for x below -150: x is split into an integer and f in [-1/2, 1/2], 2^f is its Taylor
// series. The relative error is below 2e-7, or below 5e-5 where T is bf16, whose own rounding is 40 times that.
template <typename T>
static inline f32x16 exp2_16(f32x16 x) {
#if defined(__AVX512F__)
  const f32x16 whole = (f32x16)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const f32x16 f = x - whole;
#else
  const float magic = 12582912.0f;  // adding it rounds to an integer, which is then in the low bits
  x = x > -126.0f ? x : splat(-1000.0f);
  const f32x16 shifted = x + magic;
  const f32x16 f = x - (shifted - magic);
#endif
  f32x16 y = splat(9.618129107628477e-3f);
  if constexpr (sizeof(T) == 4) {
    y = f * 1.5403530393381608e-4f + 1.3333558146428443e-3f;
    y = y * f + 9.618129107628477e-3f;
  }
  y = y * f + 5.550410866482158e-2f;
  y = y * f + 2.402265069591007e-1f;
  y = y * f + 6.931471805599453e-1f;
  y = y * f + 1.0f;
#if defined(__AVX512F__)
  return (f32x16)_mm512_scalef_ps((__m512)y, (__m512)whole);
#else
  const u32x16 scaled = (u32x16)y + ((u32x16)shifted << 23);
  return (f32x16)(scaled & (u32x16)(x > -126.0f));
#endif
}

static inline f32x16 silu16(f32x16 x) {
  const float limit = 125.0f;
  f32x16 y = x * -1.4426950408889634f;
  y = y > limit ? splat(limit) : y;
  return x / (1.0f + exp2_16<float>(y));
}

}  // namespace bough
