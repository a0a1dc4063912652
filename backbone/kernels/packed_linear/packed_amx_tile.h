// packed_amx_tile.h — products of many rows by matrix tiles: 32 rows by 32 outputs, whose sums are
// four tiles, take two tiles of rows and two of weights at a time. The packed weights are tiles as
// they stand: 16 rows of 16 outputs by 2 inputs of bf16 or 4 codes. Included once by each file that
// has tiles, inside an unnamed namespace there; `Tiles` are the operations (packed_amx_tiles.h).
//
// Rows must not depend on how many others go with them, and few rows are quicker with plain
// vectors: for bf16 those sum in the order of tdpbf16ps (packed_amx.cpp), for integers any order
// will do.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include <immintrin.h>

#include "backbone/kernels/packed_linear/packed_kernels.h"
#include "backbone/kernels/packed_linear/packed_tile_config.h"

namespace euromodal::packed {
namespace {

constexpr int64_t kTileRows = 16;
constexpr int64_t kTileBytes = 64;             // of a row of a tile
constexpr int64_t kPanelRows = 2 * kTileRows;  // rows at a time
constexpr int64_t kPanelBlocks = 2;            // blocks of outputs at a time
constexpr int64_t kPanelOutputs = kPanelBlocks * kPackedOutputs;

// Tiles: sums of rows 0..15 and 16..31 by block 0 and 1 are 0 to 3, rows 4 and 5, weights 6 and 7.
constexpr int kRows0 = 4, kRows1 = 5, kWeights0 = 6, kWeights1 = 7;

/// The shapes of a panel of `rows` rows whose steps are `depth` rows of weights. Loaded again only
/// for another shape; the thread's tiles are given back at the end.
template <typename Tiles>
class PanelShape {
 public:
  PanelShape() = default;
  ~PanelShape() { Tiles::release(); }
  PanelShape(const PanelShape&) = delete;
  PanelShape& operator=(const PanelShape&) = delete;

  void set(int64_t rows, int64_t depth) {
    if (rows == rows_ && depth == depth_) return;
    rows_ = rows;
    depth_ = depth;
    const auto first = static_cast<uint8_t>(std::min(rows, kTileRows));
    // A tile must have rows, also where none is used.
    const auto second = static_cast<uint8_t>(std::max<int64_t>(rows - kTileRows, 1));
    TileConfig config;
    for (int tile = 0; tile < 8; ++tile) {
      const bool weights = tile >= kWeights0, rows_of_x = !weights && tile >= kRows0;
      const bool upper = rows_of_x ? tile == kRows1 : tile >= 2;
      config.rows[tile] = weights ? static_cast<uint8_t>(depth) : upper ? second : first;
      config.row_bytes[tile] =
          rows_of_x ? static_cast<uint16_t>(4 * depth) : static_cast<uint16_t>(kTileBytes);
    }
    Tiles::configure(config);
  }

 private:
  int64_t rows_ = 0, depth_ = 0;
};

/// Sums of a panel, [32][32].
template <typename T>
struct alignas(64) Panel {
  T at[kPanelRows][kPanelOutputs];
};

template <typename Tiles, bool kTall, bool kWide>
void panel_zero() {
  Tiles::template zero<0>();
  if constexpr (kWide) Tiles::template zero<1>();
  if constexpr (kTall) Tiles::template zero<2>();
  if constexpr (kTall && kWide) Tiles::template zero<3>();
}

/// One step: rows at x (x_bytes apart) times weights at w0 and w1.
template <typename Tiles, bool kTall, bool kWide, bool kBf16>
void panel_add(const uint8_t* x, int64_t x_bytes, const uint8_t* w0, const uint8_t* w1) {
  const auto add = [](auto sums, auto rows, auto weights) {
    if constexpr (kBf16) {
      Tiles::template add_bf16<sums(), rows(), weights()>();
    } else {
      Tiles::template add_int8<sums(), rows(), weights()>();
    }
  };
  constexpr std::integral_constant<int, 0> s00;
  constexpr std::integral_constant<int, 1> s01;
  constexpr std::integral_constant<int, 2> s10;
  constexpr std::integral_constant<int, 3> s11;
  constexpr std::integral_constant<int, kRows0> r0;
  constexpr std::integral_constant<int, kRows1> r1;
  constexpr std::integral_constant<int, kWeights0> c0;
  constexpr std::integral_constant<int, kWeights1> c1;
  Tiles::template load<kWeights0>(w0, kTileBytes);
  Tiles::template load<kRows0>(x, x_bytes);
  add(s00, r0, c0);
  if constexpr (kWide) {
    Tiles::template load<kWeights1>(w1, kTileBytes);
    add(s01, r0, c1);
  }
  if constexpr (kTall) {
    Tiles::template load<kRows1>(x + kTileRows * x_bytes, x_bytes);
    add(s10, r1, c0);
    if constexpr (kWide) add(s11, r1, c1);
  }
}

template <typename Tiles, bool kTall, bool kWide, typename T>
void panel_store(Panel<T>& to) {
  constexpr int64_t kStride = sizeof(to.at[0]);
  Tiles::template store<0>(to.at[0], kStride);
  if constexpr (kWide) Tiles::template store<1>(to.at[0] + kPackedOutputs, kStride);
  if constexpr (kTall) Tiles::template store<2>(to.at[kTileRows], kStride);
  if constexpr (kTall && kWide)
    Tiles::template store<3>(to.at[kTileRows] + kPackedOutputs, kStride);
}

/// Finished sums of `rows` rows from `row` to where they belong.
inline void panel_put(const PackedKernelArgs& a, Panel<float>& sums, int64_t row, int64_t rows,
                      int64_t block, int64_t blocks) {
  const int64_t columns = blocks * kPackedOutputs;
  if (columns < kPanelOutputs) {  // rows close up
    for (int64_t r = 1; r < rows; ++r)
      std::memmove(sums.at[0] + r * columns, sums.at[r], static_cast<size_t>(columns) * 4);
  }
  a.store(a.to, sums.at[0], row, rows, block * kPackedOutputs, columns);
}

template <typename Tiles, bool kTall, bool kWide>
void bf16_panel(const PackedKernelArgs& a, PanelShape<Tiles>& shape, int64_t row, int64_t rows,
                int64_t block) {
  shape.set(rows, kTileRows);
  const uint8_t* x = a.x + row * a.x_bytes;
  const uint8_t* w = a.weight + block * a.layout.block;
  const int64_t pairs = a.layout.inputs / 2, whole = pairs / kTileRows, rest = pairs % kTileRows;
  panel_zero<Tiles, kTall, kWide>();
  for (int64_t k = 0; k < whole; ++k) {
    const uint8_t* wk = w + k * kTileRows * kTileBytes;
    panel_add<Tiles, kTall, kWide, true>(x + k * kTileBytes, a.x_bytes, wk, wk + a.layout.block);
  }
  if (rest > 0) {  // filled up with zeros, which add nothing
    alignas(64) uint8_t last_x[kPanelRows][kTileBytes] = {};
    alignas(64) uint8_t last_w[kPanelBlocks][kTileRows * kTileBytes] = {};
    for (int64_t r = 0; r < rows; ++r)
      std::memcpy(last_x[r], x + r * a.x_bytes + whole * kTileBytes, static_cast<size_t>(rest) * 4);
    for (int64_t n = 0; n < (kWide ? 2 : 1); ++n)
      std::memcpy(last_w[n], w + n * a.layout.block + whole * kTileRows * kTileBytes,
                  static_cast<size_t>(rest * kTileBytes));
    panel_add<Tiles, kTall, kWide, true>(last_x[0], kTileBytes, last_w[0], last_w[1]);
  }
  Panel<float> sums;
  panel_store<Tiles, kTall, kWide>(sums);
  panel_put(a, sums, row, rows, block, kWide ? 2 : 1);
}

/// Codes of one group of a block, [depth][16][4] u8: where they are, or int4 taken apart in
/// `space`.
template <bool kFour>
const uint8_t* group_codes(const uint8_t* codes, int64_t group, uint8_t* space) {
  if constexpr (!kFour) {
    return codes;
  } else {
    const __m512i nibble = _mm512_set1_epi8(15);
    for (int64_t step = 0; step < group / 8; ++step) {
      const __m512i both = _mm512_loadu_si512(codes + step * kTileBytes);
      _mm512_store_si512(space + 2 * step * kTileBytes, _mm512_and_si512(both, nibble));
      _mm512_store_si512(space + (2 * step + 1) * kTileBytes,
                         _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble));
    }
    return space;
  }
}

/// floats += scale · x_scale · (sums - zero · sum of x), for the block `n` of a panel.
inline void finish_group(const PackedKernelArgs& a, const Panel<int32_t>& sums,
                         Panel<float>& floats, int64_t row, int64_t rows, int64_t n, int64_t g,
                         const uint8_t* head, int same_zero) {
  const __m512 scale = _mm512_cvtph_ps(
      _mm256_loadu_si256(reinterpret_cast<const __m256i*>(head + g * kPackedOutputs * 2)));
  const __m512i zeros = a.asymmetric
                            ? _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(
                                  head + a.layout.zeros + g * kPackedOutputs)))
                            : _mm512_set1_epi32(same_zero);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t at = (row + r) * a.layout.groups + g;
    const int32_t* sum = sums.at[r] + n * kPackedOutputs;
    float* to = floats.at[r] + n * kPackedOutputs;
    const __m512i exact = _mm512_sub_epi32(
        _mm512_load_si512(sum), _mm512_mullo_epi32(zeros, _mm512_set1_epi32(a.x_sum_MG[at])));
    _mm512_store_ps(to, _mm512_fmadd_ps(_mm512_cvtepi32_ps(exact),
                                        _mm512_mul_ps(scale, _mm512_set1_ps(a.x_scale_MG[at])),
                                        _mm512_load_ps(to)));
  }
}

template <typename Tiles, bool kTall, bool kWide, bool kFour>
void integer_panel(const PackedKernelArgs& a, PanelShape<Tiles>& shape, int64_t row, int64_t rows,
                   int64_t block) {
  const int64_t depth = std::min<int64_t>(a.group / 4, kTileRows);  // rows of a tile of codes
  shape.set(rows, depth);
  const int64_t tiles = a.group / 4 / depth;
  const int64_t group_bytes = a.group * kPackedOutputs / (kFour ? 2 : 1);
  const uint8_t* x = a.x + row * a.x_bytes;
  const uint8_t* w = a.weight + block * a.layout.block;
  alignas(64) uint8_t space[kPanelBlocks][128 * kPackedOutputs];
  Panel<int32_t> sums;
  Panel<float> floats = {};
  for (int64_t g = 0; g < a.layout.groups; ++g) {
    const uint8_t* codes = w + a.layout.codes + g * group_bytes;
    const uint8_t* w0 = group_codes<kFour>(codes, a.group, space[0]);
    const uint8_t* w1 =
        kWide ? group_codes<kFour>(codes + a.layout.block, a.group, space[1]) : nullptr;
    panel_zero<Tiles, kTall, kWide>();
    for (int64_t k = 0; k < tiles; ++k) {
      const int64_t at = k * depth * kTileBytes;
      panel_add<Tiles, kTall, kWide, false>(x + g * a.group + k * depth * 4, a.x_bytes, w0 + at,
                                            kWide ? w1 + at : nullptr);
    }
    panel_store<Tiles, kTall, kWide>(sums);
    for (int64_t n = 0; n < (kWide ? 2 : 1); ++n)
      finish_group(a, sums, floats, row, rows, n, g, w + n * a.layout.block, kFour ? 8 : 128);
  }
  panel_put(a, floats, row, rows, block, kWide ? 2 : 1);
}

template <typename Tiles, bool kTall, bool kWide>
struct Bf16Panel {
  static void run(const PackedKernelArgs& a, PanelShape<Tiles>& shape, int64_t row, int64_t rows,
                  int64_t block) {
    bf16_panel<Tiles, kTall, kWide>(a, shape, row, rows, block);
  }
};
template <typename Tiles, bool kTall, bool kWide>
struct Int8Panel {
  static void run(const PackedKernelArgs& a, PanelShape<Tiles>& shape, int64_t row, int64_t rows,
                  int64_t block) {
    integer_panel<Tiles, kTall, kWide, false>(a, shape, row, rows, block);
  }
};
template <typename Tiles, bool kTall, bool kWide>
struct Int4Panel {
  static void run(const PackedKernelArgs& a, PanelShape<Tiles>& shape, int64_t row, int64_t rows,
                  int64_t block) {
    integer_panel<Tiles, kTall, kWide, true>(a, shape, row, rows, block);
  }
};

/// All rows by the blocks [begin, end), block by block: weights stay in the cache while the panels
/// of rows go by.
template <template <typename, bool, bool> typename Kind, typename Tiles>
void all_panels(const PackedKernelArgs& a) {
  PanelShape<Tiles> shape;
  for (int64_t block = a.begin; block < a.end; block += kPanelBlocks) {
    const bool wide = block + 1 < a.end;
    for (int64_t row = 0; row < a.M; row += kPanelRows) {
      const int64_t rows = std::min(kPanelRows, a.M - row);
      if (rows > kTileRows) {
        wide ? Kind<Tiles, true, true>::run(a, shape, row, rows, block)
             : Kind<Tiles, true, false>::run(a, shape, row, rows, block);
      } else {
        wide ? Kind<Tiles, false, true>::run(a, shape, row, rows, block)
             : Kind<Tiles, false, false>::run(a, shape, row, rows, block);
      }
    }
  }
}

}  // namespace
}  // namespace euromodal::packed
