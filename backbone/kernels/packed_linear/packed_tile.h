// packed_tile.h — the loops that all instruction sets share: tiles of R rows by NB blocks of 16
// outputs whose sums stay in registers. Included once by each file of an instruction set, inside an
// unnamed namespace there; `V` are its vector operations.
//
// Many rows take neighbouring blocks. A single row only waits for memory, and reads fastest in one
// stream, fetched ahead line by line (hardware prefetchers stop at every page): integers one block
// after the other, whose sums are quick. bf16 takes NS blocks that lie apart, so that NS sums go on
// side by side and every one is a stream that goes on where its last block ended.
//
// A sum runs over the inputs in their order, whatever the tile: rows do not depend on how many
// others go with them.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "backbone/kernels/packed_linear/packed_kernels.h"

namespace euromodal::packed {
namespace {

constexpr int64_t kLanes = kPackedOutputs;
constexpr int64_t kAhead = 6144;  // bytes that the streams of a single row are fetched ahead

/// Sums of R rows by NB blocks, `apart` blocks from one to the next, to where they belong.
template <int R, int NB>
void put_tile(const PackedKernelArgs& a, const float* tile, int64_t row, int64_t block,
              int64_t apart) {
  if (apart == 1) return a.store(a.to, tile, row, R, block * kLanes, NB * kLanes);
  for (int n = 0; n < NB; ++n)  // R is 1
    a.store(a.to, tile + n * kLanes, row, 1, (block + n * apart) * kLanes, kLanes);
}

/// Where R rows wait for memory (one, or a batch of eight that reads the weights once): fetches the
/// line kAhead / NB bytes behind `p`, for one use, past the caches that keep (into all of them,
/// int8 streams were at 85 % of the memory's rate instead of 93 %).
template <int R, int NB>
[[gnu::always_inline]] inline void fetch_ahead(const uint8_t* p) {
  if constexpr (R == 1 || R == 8) __builtin_prefetch(p + kAhead / NB, /*write=*/0, /*locality=*/0);
}

/// V: Sums, zero(), Weight load(p) of 64 bytes (16 outputs, 2 inputs), Input input(row, pair),
/// add(sums, weight, input), put(sums, float*); where it sums in parts, fold(sums) after each
/// V::kFold pairs and behind the last.
template <typename V, int R, int NB>
void bf16_tile(const PackedKernelArgs& a, int64_t row, int64_t block, int64_t apart) {
  typename V::Sums sums[R][NB];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int n = 0; n < NB; ++n) sums[r][n] = V::zero();
  const uint8_t* x = a.x + row * a.x_bytes;
  const uint8_t* w = a.weight + block * a.layout.block;
  const int64_t stream = apart * a.layout.block;
  const int64_t pairs = a.layout.inputs / 2;
  constexpr bool kFolds = requires(typename V::Sums & s) { V::fold(s); };
  const auto fold = [&] {
    if constexpr (kFolds) {
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int n = 0; n < NB; ++n) V::fold(sums[r][n]);
    }
  };
  for (int64_t p = 0; p < pairs; ++p) {
    if constexpr (kFolds) {
      if (p % V::kFold == 0) fold();
    }
    typename V::Weight weight[NB];
#pragma GCC unroll 4
    for (int n = 0; n < NB; ++n) {
      fetch_ahead<R, NB>(w + n * stream + p * 64);
      weight[n] = V::load(w + n * stream + p * 64);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const typename V::Input input = V::input(x + r * a.x_bytes, p);
#pragma GCC unroll 4
      for (int n = 0; n < NB; ++n) V::add(sums[r][n], weight[n], input);
    }
  }
  fold();
  alignas(64) float tile[R][NB * kLanes];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int n = 0; n < NB; ++n) V::put(sums[r][n], tile[r] + n * kLanes);
  put_tile<R, NB>(a, tile[0], row, block, apart);
}

/// V: Sums, Floats, zero(), float_zero(), Codes (16 outputs, 4 inputs), load8(p), load4(p, low,
/// high) of 64 bytes, Input input(row, quad), add(sums, codes, input, same4),
/// Floats scale(p, group of x), Zeros zeros(p) and constant_zero(z), finish(floats, sums, scale,
/// x_scale, zeros, x_sum), put(floats, float*). kFour: int4.
template <typename V, int R, int NB, bool kFour>
void integer_tile(const PackedKernelArgs& a, int64_t row, int64_t block, int64_t apart) {
  typename V::Floats floats[R][NB];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int n = 0; n < NB; ++n) floats[r][n] = V::float_zero();
  const uint8_t* x = a.x + row * a.x_bytes;
  const uint8_t* w = a.weight + block * a.layout.block;
  const int64_t stream = apart * a.layout.block;
  const int64_t steps = a.group / (kFour ? 8 : 4);               // of 64 bytes
  const int64_t group_bytes = a.layout.block / a.layout.groups;  // codes, scales and zeros
  for (int64_t g = 0; g < a.layout.groups; ++g) {
    typename V::Sums sums[R][NB];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int n = 0; n < NB; ++n) sums[r][n] = V::zero();
    const uint8_t* codes = w + a.layout.codes + g * steps * 64;
    const uint8_t* x_group = x + g * a.group;
    const uint8_t* lines = w + g * group_bytes;  // in the order of the block, not of their use
    for (int64_t s = 0; s < steps; ++s) {
#pragma GCC unroll 4
      for (int n = 0; n < NB; ++n) fetch_ahead<R, NB>(lines + n * stream + s * 64);
      if constexpr (kFour) {
        typename V::Codes low[NB], high[NB];
#pragma GCC unroll 4
        for (int n = 0; n < NB; ++n) V::load4(codes + n * stream + s * 64, low[n], high[n]);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          const typename V::Input first = V::input(x_group + r * a.x_bytes, 2 * s),
                                  second = V::input(x_group + r * a.x_bytes, 2 * s + 1);
#pragma GCC unroll 4
          for (int n = 0; n < NB; ++n) {
            V::add4(sums[r][n], low[n], first);
            V::add4(sums[r][n], high[n], second);
          }
        }
      } else {
        typename V::Codes all[NB];
#pragma GCC unroll 4
        for (int n = 0; n < NB; ++n) all[n] = V::load8(codes + n * stream + s * 64);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          const typename V::Input input = V::input(x_group + r * a.x_bytes, s);
#pragma GCC unroll 4
          for (int n = 0; n < NB; ++n) V::add8(sums[r][n], all[n], input);
        }
      }
    }
#pragma GCC unroll 4
    for (int n = 0; n < NB; ++n) {
      const uint8_t* head = w + n * stream;
      fetch_ahead<R, NB>(lines + n * stream + steps * 64);
      const typename V::Floats scale = V::scale(head + g * kLanes * 2);
      const typename V::Zeros zeros =
          a.asymmetric ? V::zeros(head + a.layout.zeros + g * kLanes, kFour) : V::same_zero(kFour);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const int64_t at = (row + r) * a.layout.groups + g;
        V::finish(floats[r][n], sums[r][n], scale, a.x_scale_MG[at], zeros, a.x_sum_MG[at]);
      }
    }
  }
  alignas(64) float tile[R][NB * kLanes];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int n = 0; n < NB; ++n) V::put(floats[r][n], tile[r] + n * kLanes);
  put_tile<R, NB>(a, tile[0], row, block, apart);
}

template <typename V, int R, int NB>
struct Bf16Tile {
  static void run(const PackedKernelArgs& a, int64_t row, int64_t block, int64_t apart = 1) {
    bf16_tile<V, R, NB>(a, row, block, apart);
  }
};
template <typename V, int R, int NB>
struct Int8Tile {
  static void run(const PackedKernelArgs& a, int64_t row, int64_t block, int64_t apart = 1) {
    integer_tile<V, R, NB, false>(a, row, block, apart);
  }
};
template <typename V, int R, int NB>
struct Int4Tile {
  static void run(const PackedKernelArgs& a, int64_t row, int64_t block, int64_t apart = 1) {
    integer_tile<V, R, NB, true>(a, row, block, apart);
  }
};

/// The last `rows` < R rows.
template <template <typename, int, int> typename Tile, typename V, int R, int NB>
void rest_rows(const PackedKernelArgs& a, int64_t row, int64_t rows, int64_t block) {
  if constexpr (R > 0) {
    if (rows == R) return Tile<V, R, NB>::run(a, row, block);
    rest_rows<Tile, V, R - 1, NB>(a, row, rows, block);
  }
}

template <template <typename, int, int> typename Tile, typename V, int R, int NB>
void all_rows(const PackedKernelArgs& a, int64_t block) {
  int64_t row = 0;
  for (; row + R <= a.M; row += R) Tile<V, R, NB>::run(a, row, block);
  rest_rows<Tile, V, R - 1, NB>(a, row, a.M - row, block);
}

/// Tiles of at most R rows by NB blocks; NS streams for a single row.
template <template <typename, int, int> typename Tile, typename V, int R, int NB, int NS>
void all_tiles(const PackedKernelArgs& a) {
  int64_t block = a.begin;
  if (a.M == 1) {
    const int64_t apart = (a.end - a.begin) / NS;
    for (int64_t i = 0; i < apart; ++i) Tile<V, 1, NS>::run(a, 0, block + i, apart);
    block += NS * apart;
  }
  if constexpr (R < 8 && NB > 1) {  // a batch of 8 reads the weights once
    if (a.M > R && a.M <= 8) {
      for (; block < a.end; ++block) all_rows<Tile, V, 8, 1>(a, block);
    }
  }
  for (; block + NB <= a.end; block += NB) all_rows<Tile, V, R, NB>(a, block);
  if constexpr (NB > 1) {
    for (; block < a.end; ++block) all_rows<Tile, V, R, 1>(a, block);
  }
}

}  // namespace
}  // namespace euromodal::packed
