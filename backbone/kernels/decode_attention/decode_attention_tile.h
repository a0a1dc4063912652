// decode_attention_tile.h — 16 keys of a cache in a warp's registers, straight from global memory
// to tensor core fragments, in the forms that a cache has. N numbers of a head, g = lane / 4, c =
// lane % 4.
//
// Scores are Sᵀ [16 keys, 8 heads] = K Qᵀ with K as the 16-row operand; the order of the head's
// numbers is a permutation, the same for K and Q, in which a lane's 16 bytes are fragments. The
// output is Oᵀ [N, 8 heads] += Vᵀ Pᵀ with Vᵀ as the 16-row operand: a lane loads 16 bytes of four
// keys and pairs them key by key; P changes from Sᵀ's layout to the other operand's by an 8 x 8
// transposition. In both products column 2c and 2c + 1 are a lane's heads, so that one maximum and
// one sum per head and lane are all that softmax needs.
#pragma once
#include <type_traits>

#include "backbone/kernels/rope_store/rope_row.h"
#include "backbone/kernels/skinny_linear/widen.h"

namespace euromodal {
namespace {

constexpr int kKeys = 16, kHeads = 8;  // of a tile

// How N numbers of a key lie in a lane: K by kElements (their fragments), V by vectors of 16 bytes;
// and what the products are of: a cache's own numbers, or, exactly, f16 of fp8.
template <int N>
struct Bf16Cache {
  static constexpr int kBytes = 2, kElements = 8, kKVectors = N / 32, kVVectors = N / 64;
  /// The fragments of step s (of 16 numbers over 4 lanes) in a lane's 16 bytes of a key.
  EM_DEVICE static void step(const uint4& w, int s, uint32_t& low, uint32_t& high) {
    low = s == 0 ? w.x : w.z;
    high = s == 0 ? w.y : w.w;
  }
  /// Number e of the 16 bytes of two keys as a pair.
  EM_DEVICE static uint32_t pair_keys(const uint4& first, const uint4& second, int e) {
    return __byte_perm(word_of(first, e / 2), word_of(second, e / 2),
                       e % 2 == 0 ? 0x5410U : 0x7632U);
  }
  EM_DEVICE static uint32_t pack(float low, float high) { return pack_bf16x2(low, high); }
  EM_DEVICE static void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    mma_bf16(d, a, b);
  }
};
template <int N>
struct Fp8Cache {
  static constexpr int kBytes = 1, kElements = 16, kKVectors = N / 64, kVVectors = N / 128;
  EM_DEVICE static void step(const uint4& w, int s, uint32_t& low, uint32_t& high) {
    low = f16x2_of_fp8x2(word_of(w, s));
    high = f16x2_of_fp8x2(word_of(w, s) >> 16);
  }
  EM_DEVICE static uint32_t pair_keys(const uint4& first, const uint4& second, int e) {
    const unsigned at = static_cast<unsigned>(e) % 4;
    return f16x2_of_fp8x2(
        __byte_perm(word_of(first, e / 4), word_of(second, e / 4), at | ((at + 4) << 4)));
  }
  EM_DEVICE static uint32_t pack(float low, float high) { return pack_f16x2(low, high); }
  EM_DEVICE static void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    mma_f16(d, a, b);
  }
};

// `last`: the tile's last key that there is. Keys beyond it read it: finite numbers, not used.
template <int N, typename C>
EM_DEVICE void load_keys(const void* pages, int64_t at, int last, uint4 (&k)[2][C::kKVectors]) {
  const int lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
  const unsigned char* base = static_cast<const unsigned char*>(pages) + at + c * 16;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const unsigned char* row = base + min(g + 8 * h, last) * (N * C::kBytes);
#pragma unroll
    for (int v = 0; v < C::kKVectors; ++v) k[h][v] = load16_streaming_coherent(row + v * 64);
  }
}

// Keys 2c, 2c + 1, 2c + 8, 2c + 9; of each the g-th 16 bytes of every 128.
template <int N, typename C>
EM_DEVICE void load_values(const void* pages, int64_t at, int last, uint4 (&v)[4][C::kVVectors]) {
  const int lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
  const unsigned char* base = static_cast<const unsigned char*>(pages) + at + g * 16;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const unsigned char* row = base + min(2 * c + i % 2 + 8 * (i / 2), last) * (N * C::kBytes);
#pragma unroll
    for (int u = 0; u < C::kVVectors; ++u) v[i][u] = load16_streaming_coherent(row + u * 128);
  }
}

// Where number n of a head's query stands in shared memory: a lane's share of a pair of steps in 16
// bytes, which lie beside those of the other lanes.
template <typename C>
EM_DEVICE int query_place(int n) {
  const int e = n % C::kElements, lane = n / C::kElements % 4;
  return n - n % (4 * C::kElements) + e / 8 * 32 + lane * 8 + e % 8;
}

// Numbers n (even) and n + 1.
template <typename C>
EM_DEVICE void place_query(float2 v, int n, uint16_t* q) {
  *reinterpret_cast<uint32_t*>(q + query_place<C>(n)) = C::pack(v.x, v.y);
}

// Two sums, so that half as many products wait for each other. q: this lane's head.
template <typename C>
EM_DEVICE void score_tile(const uint4 (&k)[2][C::kKVectors], const uint16_t* q, float (&s)[4]) {
  constexpr int kSteps = C::kElements / 4;
  const int c = threadIdx.x % 4;
  float odd[4] = {};
#pragma unroll
  for (int v = 0; v < C::kKVectors; ++v) {
#pragma unroll
    for (int step = 0; step < kSteps; step += 2) {
      const uint4 words = *reinterpret_cast<const uint4*>(q + (v * kSteps + step) * 16 + c * 8);
      const uint32_t first[2] = {words.x, words.y}, second[2] = {words.z, words.w};
      uint32_t f[4];
      C::step(k[0][v], step, f[0], f[2]);
      C::step(k[1][v], step, f[1], f[3]);
      C::mma(s, f, first);
      C::step(k[0][v], step + 1, f[0], f[2]);
      C::step(k[1][v], step + 1, f[1], f[3]);
      C::mma(odd, f, second);
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) s[i] += odd[i];
}

// For load_keys and load_values: key `last` and what lies beyond it from a row of its own.
template <typename C>
EM_DEVICE void replace_keys(const uint4* row, int last, uint4 (&k)[2][C::kKVectors]) {
  const int lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
#pragma unroll
    for (int v = 0; v < C::kKVectors; ++v)
      if (g + 8 * h >= last) k[h][v] = row[v * 4 + c];
  }
}
template <typename C>
EM_DEVICE void replace_values(const uint4* row, int last, uint4 (&v)[4][C::kVVectors]) {
  const int lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int u = 0; u < C::kVVectors; ++u)
      if (2 * c + i % 2 + 8 * (i / 2) >= last) v[i][u] = row[u * 8 + g];
  }
}

// Two neighbouring numbers as they lie in a cache.
template <typename C>
using Pair = std::conditional_t<C::kBytes == 2, uint32_t, uint16_t>;
template <typename C>
EM_DEVICE Pair<C> cached_pair(float2 v, float scale) {
  if constexpr (C::kBytes == 2)
    return pack_bf16x2(v.x, v.y);
  else
    return static_cast<uint16_t>(fp8_code(v.x, scale) | (fp8_code(v.y, scale) << 8));
}

// The head's number that row 0 of output tile `tile` (even) stands for, of lane group g; the upper
// row and the next tile's two follow it: see load_values.
template <typename C>
EM_DEVICE int output_number(int tile, int g) {
  constexpr int kTilesPerVector = 16 / C::kBytes / 2;
  return tile / kTilesPerVector * (128 / C::kBytes) + g * (16 / C::kBytes) +
         tile % kTilesPerVector * 2;
}

// How far a head's row of outputs is moved along the banks of shared memory: eight lanes (two g,
// four c) that store 16 bytes each at output_number() of head 2c or 2c + 1 meet no bank twice.
template <typename C>
EM_DEVICE int row_shift(int head) {
  const int c = head / 2;
  return C::kBytes == 2 ? c % 2 * 4 + c / 2 * 16 : c * 4;
}
constexpr int kMostShift = 32;  // a whole turn of the banks

}  // namespace
}  // namespace euromodal
