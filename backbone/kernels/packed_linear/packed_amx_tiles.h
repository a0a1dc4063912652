// packed_amx_tiles.h — the matrix tiles of AMX as packed_amx_tile.h wants them: eight registers of
// up to 16 rows of 64 bytes, shaped by a configuration that each thread loads for itself.
// Instructions are written out, not intrinsics: those of GCC 12 turn their arguments to text, so
// that no template can number a tile, and do not say that they read and write memory.
// tests/support/emulated_tiles.h has the same interface in plain C++.
#pragma once
#include <cstdint>

#include "backbone/kernels/packed_linear/packed_tile_config.h"

namespace euromodal::packed {
namespace {

struct HardwareTiles {
  static void configure(const TileConfig& config) {
    asm volatile("ldtilecfg %0" : : "m"(config) : "memory");
  }
  static void release() { asm volatile("tilerelease" : : : "memory"); }
  template <int kTile>
  static void zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(kTile) : "memory");
  }
  /// Rows `stride` bytes apart.
  template <int kTile>
  static void load(const void* from, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(kTile) : "memory");
  }
  template <int kTile>
  static void store(void* to, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(kTile) : "memory");
  }
  /// sums f32 += a · b, pairs of bf16.
  template <int kSums, int kA, int kB>
  static void add_bf16() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0"
                 :
                 : "i"(kSums), "i"(kA), "i"(kB)
                 : "memory");
  }
  /// sums i32 += a · b, fours of signed bytes times unsigned ones.
  template <int kSums, int kA, int kB>
  static void add_int8() {
    asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0"
                 :
                 : "i"(kSums), "i"(kA), "i"(kB)
                 : "memory");
  }
};

}  // namespace
}  // namespace euromodal::packed
