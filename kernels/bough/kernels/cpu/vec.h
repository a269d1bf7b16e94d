// Vectors of 16 floats that compile to whatever the machine has, vectors of one register for inner loops, and the two
// element types of the kernels.
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

// Sums stay in registers only where the loops over them are unrolled, which the compiler leaves when they are long.
#define BOUGH_UNROLL _Pragma("GCC unroll 16")

// Vectors wider than a register go through memory when there are many of them, hence a type for inner loops.
#if defined(__AVX512F__)
constexpr int kRegister = 16;
#else
constexpr int kRegister = 8;
#endif
typedef float f32xr __attribute__((vector_size(4 * kRegister)));
typedef uint32_t u32xr __attribute__((vector_size(4 * kRegister)));
typedef uint16_t u16xr __attribute__((vector_size(2 * kRegister)));
constexpr int kRegisters = 16 / kRegister;  // of 16 floats

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

static inline void store_part(float* p, f32xr v) { std::memcpy(p, &v, sizeof v); }
static inline void store_part(bf16* p, f32xr v) {
#if defined(__AVX512F__)
  store16(p, v);
#else
  u32xr bits = (u32xr)v;
  bits += 0x7fffu + ((bits >> 16) & 1u);
  const u16xr out = __builtin_convertvector(bits >> 16, u16xr);
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

// What lanes hold, as kGroup<T> vectors: of float itself, of bf16 the first and the second one of each pair.
static inline void unpack(f32xr lanes, f32xr (&out)[1], float) { out[0] = lanes; }
static inline void unpack(f32xr lanes, f32xr (&out)[2], bf16) {
  out[0] = (f32xr)((u32xr)lanes << 16);
  out[1] = (f32xr)((u32xr)lanes & 0xffff0000u);
}

// A register of lanes, and one lane in each place of a register.
template <typename T>
static inline void load_lanes(const T* p, f32xr (&out)[kGroup<T>]) {
  f32xr lanes;
  std::memcpy(&lanes, p, sizeof lanes);
  unpack(lanes, out, T{});
}
template <typename T>
static inline void splat_lane(const T* p, f32xr (&out)[kGroup<T>]) {
  uint32_t lane;
  std::memcpy(&lane, p, sizeof lane);
  u32xr lanes = u32xr{} + lane;
#if defined(__AVX2__)
  // The compiler would unpack before it spreads: one broadcast from memory becomes two from general registers.
  if constexpr (sizeof(T) == 2) asm("" : "+v"(lanes));
#endif
  unpack((f32xr)lanes, out, T{});
}

static inline f32xr max_of(f32xr a, f32xr b) {
#if defined(__AVX512F__)
  return (f32xr)_mm512_max_ps((__m512)a, (__m512)b);
#else
  return a > b ? a : b;
#endif
}

static inline float reduce_max(f32xr v) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps((__m512)v);
#else
  float best = v[0];
  for (int i = 1; i < kRegister; ++i) best = v[i] > best ? v[i] : best;
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
template <typename T, typename V>
static inline V exp2_of(V x) {
#if defined(__AVX512F__)
  const V whole = (V)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const V f = x - whole;
#else
  const float magic = 12582912.0f;  // adding it rounds to an integer, which is then in the low bits
  x = x > -126.0f ? x : V{} - 1000.0f;
  const V shifted = x + magic;
  const V f = x - (shifted - magic);
#endif
  V y = V{} + 9.618129107628477e-3f;
  if constexpr (sizeof(T) == 4) {
    y = f * 1.5403530393381608e-4f + 1.3333558146428443e-3f;
    y = y * f + 9.618129107628477e-3f;
  }
  y = y * f + 5.550410866482158e-2f;
  y = y * f + 2.402265069591007e-1f;
  y = y * f + 6.931471805599453e-1f;
  y = y * f + 1.0f;
#if defined(__AVX512F__)
  return (V)_mm512_scalef_ps((__m512)y, (__m512)whole);
#else
  typedef decltype(x > x) Mask;
  const Mask scaled = (Mask)y + ((Mask)shifted << 23);
  return (V)(scaled & (x > -126.0f));
#endif
}

static inline f32x16 silu16(f32x16 x) {
  const float limit = 125.0f;
  f32x16 y = x * -1.4426950408889634f;
  y = y > limit ? splat(limit) : y;
  return x / (1.0f + exp2_of<float>(y));
}

}  // namespace bough
