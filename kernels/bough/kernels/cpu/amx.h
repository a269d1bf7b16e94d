// The tile unit: 8 registers of up to 16 rows by 64 bytes, configured by each thread before use.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AMX_BF16__) && defined(__AMX_TILE__) && defined(__linux__)
#define BOUGH_AMX 1
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace bough {

#if defined(BOUGH_AMX)

// GCC does not know that tile loads read memory: what was stored before must really have been stored.
static inline void publish_stores(const void* address) { asm volatile("" : : "r"(address) : "memory"); }

struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  void set(int tile, int num_rows, int num_bytes) {
    rows[tile] = static_cast<uint8_t>(num_rows);
    row_bytes[tile] = static_cast<uint16_t>(num_bytes);
  }
  void load() const {
    publish_stores(this);
    _tile_loadconfig(this);
  }
};

// Linux hands out the large tile state only on request.
static inline bool amx_available() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

static inline void amx_release() { _tile_release(); }

#else

static inline bool amx_available() { return false; }
static inline void amx_release() {}

#endif

}  // namespace bough
