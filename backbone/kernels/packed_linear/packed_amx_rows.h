// packed_amx_rows.h — the kernels of a machine with AMX: matrix tiles for many rows, vectors for
// few. Included once by packed_amx.cpp and by the test that emulates tiles.
#pragma once
#include "backbone/kernels/packed_linear/packed_amx_tile.h"
#include "backbone/kernels/packed_linear/packed_tile.h"

namespace euromodal::packed {
namespace {

constexpr int64_t kFewestTileRows = 8;  // half a tile; below, vectors wait for memory no less

/// bf16 by f32 products, in the order of tdpbf16ps: over 16 pairs of inputs the even and the odd
/// ones are summed apart, each product fused; both are added, then that to the sum.
struct TileOrder {
  static constexpr int64_t kFold = kTileRows;  // pairs
  struct Sums {
    __m512 total, even, odd;
  };
  struct Weight {
    __m512 even, odd;
  };
  using Input = Weight;
  static Sums zero() { return {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()}; }
  static Weight halves(__m512i both) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(both, 16)),
            _mm512_castsi512_ps(
                _mm512_and_si512(both, _mm512_set1_epi32(static_cast<int>(0xFFFF0000U))))};
  }
  static Weight load(const uint8_t* p) { return halves(_mm512_loadu_si512(p)); }
  static Input input(const uint8_t* row, int64_t pair) {
    int32_t both;
    std::memcpy(&both, row + 4 * pair, 4);
    return halves(_mm512_set1_epi32(both));
  }
  static void add(Sums& sums, const Weight& weight, const Input& input) {
    sums.even = _mm512_fmadd_ps(input.even, weight.even, sums.even);
    sums.odd = _mm512_fmadd_ps(input.odd, weight.odd, sums.odd);
  }
  static void fold(Sums& sums) {
    sums.total = _mm512_add_ps(sums.total, _mm512_add_ps(sums.even, sums.odd));
    sums.even = sums.odd = _mm512_setzero_ps();
  }
  static void put(const Sums& sums, float* to) { _mm512_storeu_ps(to, sums.total); }
};

[[gnu::noinline]] void few_rows_in_tile_order(const PackedKernelArgs& a) {
  all_tiles<Bf16Tile, TileOrder, 4, 2, 4>(a);
}

/// Denormals are zero for tdpbf16ps whatever the thread says; so they are for few rows, and for
/// what becomes of the sums of both.
template <typename Tiles>
void amx_bf16(const PackedKernelArgs& a) {
  constexpr unsigned kDenormalsAreZero = 0x8040;  // FTZ, DAZ
  const unsigned before = _mm_getcsr();
  _mm_setcsr(before | kDenormalsAreZero);
  a.M < kFewestTileRows ? few_rows_in_tile_order(a) : all_panels<Bf16Panel, Tiles>(a);
  _mm_setcsr(before);
}

template <typename Tiles>
void amx_int8(const PackedKernelArgs& a) {
  a.M < kFewestTileRows ? avx512_vnni().int8(a) : all_panels<Int8Panel, Tiles>(a);
}

template <typename Tiles>
void amx_int4(const PackedKernelArgs& a) {
  a.M < kFewestTileRows ? avx512_vnni().int4(a) : all_panels<Int4Panel, Tiles>(a);
}

template <typename Tiles>
PackedKernels amx_kernels() {
  return {amx_bf16<Tiles>, amx_int8<Tiles>, amx_int4<Tiles>, /*widened=*/false};
}

}  // namespace
}  // namespace euromodal::packed
