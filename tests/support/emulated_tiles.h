// emulated_tiles.h — AMX's tiles in plain C++, with the interface of packed_amx_tiles.h, after
// Intel's "Architecture Instruction Set Extensions" (TDPBF16PS, TDPBSUD, LDTILECFG). What the
// processor would refuse is a std::logic_error. Tiles belong to a thread. Included once by each
// file that wants them (the files are compiled for different units): an unnamed namespace.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <stdexcept>

#include "backbone/kernels/packed_linear/packed_tile_config.h"

namespace euromodal::testing_support {
namespace {

struct TileFile {
  bool configured = false;
  packed::TileConfig config;
  uint8_t data[8][16][64] = {};
};
thread_local TileFile tile_file;

inline void tile_require(bool ok, const char* what) {
  if (!ok) throw std::logic_error(what);
}

/// a · b + c, rounded once; denormals are zero before and after. A result is denormal if it is
/// below the least normal number once rounded to 24 bits of any exponent.
inline float tile_fma(float a, float b, float c) {
  constexpr float kLeast = 0x1p-126F;
  const auto flushed = [](float x) { return std::fabs(x) < kLeast ? std::copysign(0.0F, x) : x; };
  a = flushed(a), b = flushed(b), c = flushed(c);
  const float sum = std::fma(a, b, c);
  const double wide = static_cast<double>(a) * static_cast<double>(b) + static_cast<double>(c);
  const bool tiny = std::fabs(wide) < 0x1p-126 * (1.0 - 0x1p-25);
  return tiny ? std::copysign(0.0F, sum) : sum;
}

struct EmulatedTiles {
  static void configure(const packed::TileConfig& config) {
    tile_require(config.palette == 1 && config.start_row == 0, "ldtilecfg: palette or first row");
    for (const uint8_t byte : config.reserved) tile_require(byte == 0, "ldtilecfg: reserved bytes");
    for (int tile = 0; tile < 16; ++tile) {
      const int rows = config.rows[tile], bytes = config.row_bytes[tile];
      tile_require(rows <= 16 && bytes <= 64, "ldtilecfg: a tile is larger than 16 rows of 64");
      tile_require((rows == 0) == (bytes == 0), "ldtilecfg: rows without bytes, or bytes alone");
      tile_require(tile < 8 || rows == 0, "ldtilecfg: more than eight tiles");
    }
    tile_file = TileFile{true, config, {}};
  }
  static void release() { tile_file = TileFile{}; }

  template <int kTile>
  static void zero() {
    used(kTile);
    std::memset(tile_file.data[kTile], 0, sizeof(tile_file.data[kTile]));
  }
  template <int kTile>
  static void load(const void* from, int64_t stride) {
    used(kTile);
    zero<kTile>();
    for (int row = 0; row < rows(kTile); ++row)
      std::memcpy(tile_file.data[kTile][row], static_cast<const uint8_t*>(from) + row * stride,
                  static_cast<size_t>(bytes(kTile)));
  }
  template <int kTile>
  static void store(void* to, int64_t stride) {
    used(kTile);
    for (int row = 0; row < rows(kTile); ++row)
      std::memcpy(static_cast<uint8_t*>(to) + row * stride, tile_file.data[kTile][row],
                  static_cast<size_t>(bytes(kTile)));
  }

  /// tdpbf16ps: even and odd inputs are summed apart, by fused products, then added to each other
  /// and to the sum.
  template <int kSums, int kA, int kB>
  static void add_bf16() {
    fits(kSums, kA, kB);
    for (int m = 0; m < rows(kSums); ++m) {
      for (int n = 0; n < bytes(kSums) / 4; ++n) {
        float even = 0.0F, odd = 0.0F;
        for (int k = 0; k < bytes(kA) / 4; ++k) {
          even = tile_fma(bf16(kA, m, 2 * k), bf16(kB, k, 2 * n), even);
          odd = tile_fma(bf16(kA, m, 2 * k + 1), bf16(kB, k, 2 * n + 1), odd);
        }
        float sum;
        uint8_t* at = tile_file.data[kSums][m] + 4 * n;
        std::memcpy(&sum, at, 4);
        sum = tile_fma(tile_fma(even, 1.0F, odd), 1.0F, sum);
        std::memcpy(at, &sum, 4);
      }
    }
  }
  /// tdpbsud: signed bytes of a, unsigned ones of b, sums modulo 2^32.
  template <int kSums, int kA, int kB>
  static void add_int8() {
    fits(kSums, kA, kB);
    for (int m = 0; m < rows(kSums); ++m) {
      for (int n = 0; n < bytes(kSums) / 4; ++n) {
        uint32_t sum;
        uint8_t* at = tile_file.data[kSums][m] + 4 * n;
        std::memcpy(&sum, at, 4);
        for (int k = 0; k < bytes(kA); ++k) {
          const int a = static_cast<int8_t>(tile_file.data[kA][m][k]);
          const int b = tile_file.data[kB][k / 4][4 * n + k % 4];
          sum += static_cast<uint32_t>(a * b);
        }
        std::memcpy(at, &sum, 4);
      }
    }
  }

 private:
  static int rows(int tile) { return tile_file.config.rows[tile]; }
  static int bytes(int tile) { return tile_file.config.row_bytes[tile]; }
  static void used(int tile) {
    tile_require(tile_file.configured, "tiles without a configuration");
    tile_require(rows(tile) > 0, "a tile that the configuration leaves out");
  }
  static void fits(int sums, int a, int b) {
    used(sums), used(a), used(b);
    tile_require(sums != a && sums != b && a != b, "a product of a tile with itself");
    tile_require(rows(sums) == rows(a), "rows of a product");
    tile_require(bytes(sums) == bytes(b), "columns of a product");
    tile_require(bytes(a) == 4 * rows(b), "depth of a product");
    tile_require(bytes(a) % 4 == 0 && bytes(b) % 4 == 0, "a row that is not of whole words");
  }
  static float bf16(int tile, int row, int column) {
    uint16_t bits;
    std::memcpy(&bits, tile_file.data[tile][row] + 2 * column, 2);
    const uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float out;
    std::memcpy(&out, &wide, 4);
    return out;
  }
};

}  // namespace
}  // namespace euromodal::testing_support
