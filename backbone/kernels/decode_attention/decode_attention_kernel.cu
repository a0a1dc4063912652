// decode_attention_kernel.cu — see decode_attention_kernel.h. Reference: attention_ref over
// gathered pages.
//
// A warp takes 16 keys at a time, straight from global memory to tensor core fragments. Scores are
// Sᵀ [16 keys, 8 heads] = K Qᵀ with K as the 16-row operand; the order of the head's numbers is a
// permutation, the same for K and Q, in which a lane's 16 bytes are fragments. The output is
// Oᵀ [N, 8 heads] += Vᵀ Pᵀ with Vᵀ as the 16-row operand: a lane loads 16 bytes of four keys and
// pairs them key by key; P changes from Sᵀ's layout to the other operand's by an 8 x 8
// transposition. In both products column 2c and 2c + 1 (c = lane % 4) are a lane's heads, so that
// one maximum and one sum per head and lane are all that softmax needs.
#include "backbone/kernels/decode_attention/decode_attention_kernel.h"
#include "backbone/kernels/skinny_linear/widen.h"

namespace euromodal {
namespace {

constexpr int kWarps = 8, kThreads = kWarps * 32, kKeys = 16, kHeads = 8;
constexpr int kResident = 2;  // blocks of a multiprocessor: their registers are held to it
constexpr int kBatch = 24, kMaxSplits = 2 * kBatch;  // parts that are added up together
constexpr int64_t kCounters =
    8192;                        // at the workspace's start, whatever B is: calls of any B share it
constexpr float kNone = -1e30F;  // below every score, and no NaN when subtracted from itself

// How N numbers of a key lie in a lane: K by kElements (their fragments), V by vectors of 16 bytes.
template <int N>
struct Bf16Cache {
  static constexpr int kBytes = 2, kKVectors = N / 32, kVVectors = N / 64;
  using Widen = WidenBf16;
};
template <int N>
struct Fp8Cache {
  static constexpr int kBytes = 1, kKVectors = N / 64, kVVectors = N / 128;
  using Widen = WidenFp8;
};

// The kernel's divisors, which only the launch knows, as factors.
struct Factors {
  float of_splits, of_page_tiles;
};
constexpr int kMostTiles = 1 << 21;  // up to here a quotient by a factor is exact
EM_DEVICE int quotient(int v, float factor) {
  return static_cast<int>((static_cast<float>(v) + 0.5F) * factor);
}

// Where a tile's first key lies, in bytes of a layer's pages: pages are whole tiles.
template <int N, typename C>
EM_DEVICE int64_t tile_at(const DecodeAttentionArgs& a, const Factors& factors,
                          const int32_t* table, int kv_head, int tile) {
  const int positions = static_cast<int>(a.page_size), page = quotient(tile, factors.of_page_tiles);
  const int64_t head = int64_t{table[page]} * static_cast<int>(a.K) + kv_head;
  return (head * positions + tile * kKeys - page * positions) * (N * C::kBytes);
}

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

// Number e of the 16 bytes of two keys as a bf16 pair (fp8: not yet raised by 2^120: see raise).
template <typename C>
EM_DEVICE uint32_t pair_keys(const uint4& first, const uint4& second, int e) {
  if constexpr (C::kBytes == 2) {
    return __byte_perm(word_of(first, e / 2), word_of(second, e / 2),
                       e % 2 == 0 ? 0x5410U : 0x7632U);
  } else {
    const unsigned at = static_cast<unsigned>(e) % 4;
    // bytes 0 and 2 hold the two codes; then as WidenFp8 does
    const uint32_t v =
        __byte_perm(word_of(first, e / 4), word_of(second, e / 4), at | ((at + 4) << 8));
    return raise_bf16x2(((v << 4) & 0x07f007f0U) | ((v << 8) & 0x80008000U));
  }
}

// Where number n of a head's query stands in shared memory: the cache's permutation, and a lane's
// share of a pair of steps in 16 bytes, which lie beside those of the other lanes.
template <typename C>
EM_DEVICE int query_place(int n) {
  constexpr int kElements = C::Widen::kElements;
  const int e = C::Widen::place(n % kElements), lane = n / kElements % 4;
  return n - n % (4 * kElements) + e / 8 * 32 + lane * 8 + e % 8;
}

// Two sums, so that half as many products wait for each other. q: this lane's head.
template <typename C>
EM_DEVICE void score_tile(const uint4 (&k)[2][C::kKVectors], const Bf16* q, float (&s)[4]) {
  const int c = threadIdx.x % 4;
  float odd[4] = {};
#pragma unroll
  for (int v = 0; v < C::kKVectors; ++v) {
#pragma unroll
    for (int step = 0; step < C::Widen::kSteps; step += 2) {
      const uint4 words =
          *reinterpret_cast<const uint4*>(q + (v * C::Widen::kSteps + step) * 16 + c * 8);
      const uint32_t first[2] = {words.x, words.y}, second[2] = {words.z, words.w};
      uint32_t f[4];
      C::Widen::step(k[0][v], step, 0, f[0], f[2]);
      C::Widen::step(k[1][v], step, 0, f[1], f[3]);
      mma_bf16(s, f, first);
      C::Widen::step(k[0][v], step + 1, 0, f[0], f[2]);
      C::Widen::step(k[1][v], step + 1, 0, f[1], f[3]);
      mma_bf16(odd, f, second);
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) s[i] += odd[i];
}

// Largest of a head's values over the lanes that hold its keys.
EM_DEVICE float over_keys_max(float v) {
  for (int offset = 4; offset < 32; offset <<= 1)
    v = fmaxf(v, __shfl_xor_sync(0xffffffffU, v, offset));
  return v;
}
EM_DEVICE float over_keys_sum(float v) {
  for (int offset = 4; offset < 32; offset <<= 1) v += __shfl_xor_sync(0xffffffffU, v, offset);
  return v;
}

// Rows are lengthened so that the lanes of an access meet other banks.
template <int N>
struct alignas(16) Shared {
  Bf16 q[kHeads][N + 32];  // by query_place
  float o[kWarps][kHeads][N + 4];
  float m[kWarps][kHeads], l[kWarps][kHeads];
  bool last;
};

// The head's number that row 0 of output tile `tile` (even) stands for, of lane group g; the upper
// row and the next tile's two follow it: see load_values.
template <typename C>
EM_DEVICE int output_number(int tile, int g) {
  constexpr int kTilesPerVector = 16 / C::kBytes / 2;
  return tile / kTilesPerVector * (128 / C::kBytes) + g * (16 / C::kBytes) +
         tile % kTilesPerVector * 2;
}

EM_DEVICE void add_scaled(float4& sum, const float4& v, float factor) {
  sum.x += v.x * factor;
  sum.y += v.y * factor;
  sum.z += v.z * factor;
  sum.w += v.w * factor;
}

EM_DEVICE void store_output(Bf16* y, const float4& v, float factor) {
  *reinterpret_cast<uint2*>(y) = {pack_bf16x2(v.x * factor, v.y * factor),
                                  pack_bf16x2(v.z * factor, v.w * factor)};
}

// A part of the workspace is one (sequence, head, split): maximum, sum, two unused, N numbers.
constexpr int part_floats(int N) { return N + 4; }

// The sum of a head's parts, of which there are `used`, by N / 4 neighbouring threads with 4
// numbers each. A batch of parts, and the maxima and sums of all, are asked for together: one wait
// for the memory, two for more parts than a batch.
template <int N>
EM_DEVICE float4 add_parts(const float* parts, int used, float& total) {
  constexpr int kLanes = N / 4, kHeld = (kMaxSplits + kLanes - 1) / kLanes;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const auto* mine = known_here(reinterpret_cast<const float4*>(parts + 4) + lane);
  float4 batch[kBatch] = {};
  const auto load = [&](int first) {
#pragma unroll
    for (int u = 0; u < kBatch; ++u)
      if (first + u < used) batch[u] = __ldcg(mine + (first + u) * (part_floats(N) / 4));
  };
  load(0);
  float2 held[kHeld];  // of parts lane, lane + kLanes, ...
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const int s = i * kLanes + lane;
    held[i] = {kNone, 0.0F};
    if (s < used) held[i] = __ldcg(reinterpret_cast<const float2*>(parts + s * part_floats(N)));
  }
  float highest = held[0].x, weight[kHeld];
#pragma unroll
  for (int i = 1; i < kHeld; ++i) highest = fmaxf(highest, held[i].x);
  for (int offset = kLanes / 2; offset > 0; offset >>= 1)
    highest = fmaxf(highest, __shfl_xor_sync(0xffffffffU, highest, offset));
  total = 0.0F;
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    weight[i] = exp2_flushed(held[i].x - highest);
    total += held[i].y * weight[i];
  }
  for (int offset = kLanes / 2; offset > 0; offset >>= 1)
    total += __shfl_xor_sync(0xffffffffU, total, offset);
  float4 sum = {0.0F, 0.0F, 0.0F, 0.0F};
#pragma unroll
  for (int first = 0; first < kMaxSplits; first += kBatch) {
    if (first >= used) break;
    if (first > 0) load(first);
#pragma unroll
    for (int u = 0; u < kBatch; ++u) {
      const int s = first + u;
      if (u % 8 == 0 && s >= used) break;  // (else a part that is not there has the weight zero)
      add_scaled(sum, batch[u], __shfl_sync(0xffffffffU, weight[s / kLanes], s % kLanes, kLanes));
    }
  }
  return sum;
}

template <int N, typename C>
__global__ void __launch_bounds__(kThreads, kResident)
    decode_attention_kernel(const __grid_constant__ DecodeAttentionArgs a,
                            const __grid_constant__ Factors factors) {
  __shared__ Shared<N> shared;
  constexpr int kTiles = N / 16;
  release_successor();
  const int64_t b = blockIdx.z;
  const int length = a.length_B[b];
  const int split = static_cast<int>(blockIdx.x);
  const int H = static_cast<int>(a.H), K = static_cast<int>(a.K), group = H / K;
  const int kv_head = static_cast<int>(blockIdx.y) % K,
            first = static_cast<int>(blockIdx.y) / K * kHeads;
  const int heads = min(group - first, kHeads);                                // of this block
  const int row = static_cast<int>(blockIdx.z) * H + kv_head * group + first;  // of the first
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
  // A split is whole rounds of the warps; splits beyond the last key are empty.
  const int tiles = (length + kKeys - 1) / kKeys, rounds = (tiles + kWarps - 1) / kWarps;
  const int each = quotient(rounds + a.splits - 1, factors.of_splits) * kWarps;
  if (split > 0 && split * each >= tiles) return;  // no keys
  const int end = min((split + 1) * each, tiles);
  const int32_t* table = a.page_table_BP + b * a.max_pages;

  // The first tile is asked for before the predecessor has ended, but for the last key's: that is
  // what it may write (an emulation does not show the difference).
  uint4 k[2][C::kKVectors], v[4][C::kVVectors];
  int tile = split * each + warp;
  if (tile < end) {
    const int64_t at = tile_at<N, C>(a, factors, table, kv_head, tile);
    if (tile == tiles - 1) wait_for_predecessor();
    load_keys<N, C>(a.k_pages, at, length - 1 - tile * kKeys, k);
    load_values<N, C>(a.v_pages, at, length - 1 - tile * kKeys, v);
  }
  float scale = a.scale * 1.44269504F, v_scale = 1.0F;  // to base 2
  if constexpr (C::kBytes == 1) {
    scale *= a.kv_scale_2[0];
    v_scale = a.kv_scale_2[1];
  }
  wait_for_predecessor();
  // N / 4 threads a head, with 4 numbers each, of queries here and of sums below.
  const int head = threadIdx.x / (N / 4), n = threadIdx.x % (N / 4) * 4;
  const bool there = head < heads;
  if (head < kHeads) {  // queries of heads that are not there: zero
    uint2 four = {0, 0};
    if (there)
      four = __ldcg(reinterpret_cast<const uint2*>(static_cast<const Bf16*>(a.q_BHN) +
                                                   int64_t{row + head} * N + n));
    Bf16 q[4];
    memcpy(static_cast<void*>(q), &four, sizeof(q));
#pragma unroll
    for (int i = 0; i < 4; ++i) shared.q[head][query_place<C>(n + i)] = q[i];
  }
  __syncthreads();

  float o[kTiles][4] = {};
  float m[2] = {kNone, kNone}, l[2] = {0.0F, 0.0F};
  for (; tile < end; tile += kWarps) {
    // The page of the next tile is known before its keys are asked for.
    const int next = tile + kWarps, last = length - 1 - next * kKeys;
    const int64_t at = next < end ? tile_at<N, C>(a, factors, table, kv_head, next) : 0;
    float s[4] = {};
    score_tile<C>(k, shared.q[g], s);
    if (next < end) load_keys<N, C>(a.k_pages, at, last, k);
#pragma unroll
    for (int i = 0; i < 4; ++i)
      s[i] = tile * kKeys + g + 8 * (i / 2) < length ? s[i] * scale : kNone;
    float keep[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float highest = fmaxf(m[i], over_keys_max(fmaxf(s[i], s[i + 2])));
      keep[i] = exp2_flushed(m[i] - highest);
      m[i] = highest;  // of a key that is there: a tile has one
      s[i] = exp2_flushed(s[i] - highest);
      s[i + 2] = exp2_flushed(s[i + 2] - highest);
      l[i] = l[i] * keep[i] + s[i] + s[i + 2];
    }
    const uint32_t p[2] = {transpose_8x8(pack_bf16x2(s[0], s[1])),
                           transpose_8x8(pack_bf16x2(s[2], s[3]))};
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      constexpr int kTilesPerVector = 16 / C::kBytes / 2;
      const int u = t / kTilesPerVector, e = t % kTilesPerVector * 2;
      const uint32_t f[4] = {
          pair_keys<C>(v[0][u], v[1][u], e), pair_keys<C>(v[0][u], v[1][u], e + 1),
          pair_keys<C>(v[2][u], v[3][u], e), pair_keys<C>(v[2][u], v[3][u], e + 1)};
      o[t][0] *= keep[0];
      o[t][1] *= keep[1];
      o[t][2] *= keep[0];
      o[t][3] *= keep[1];
      mma_bf16(o[t], f, p);
    }
    if (next < end) load_values<N, C>(a.v_pages, at, last, v);
  }

  // The warps' parts into shared memory, by head, and their sum: N / 4 threads a head.
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    l[i] = over_keys_sum(l[i]);
    if (g == 0) {
      shared.m[warp][2 * c + i] = m[i];
      shared.l[warp][2 * c + i] = l[i];
    }
#pragma unroll
    for (int t = 0; t < kTiles; t += 2)
      *reinterpret_cast<float4*>(&shared.o[warp][2 * c + i][output_number<C>(t, g)]) = {
          o[t][i], o[t][i + 2], o[t + 1][i], o[t + 1][i + 2]};
  }
  __syncthreads();
  Bf16* y = static_cast<Bf16*>(a.y_BHN) + int64_t{row + head} * N + n;
  float* parts =
      a.workspace + kCounters + int64_t{row + (there ? head : 0)} * a.splits * part_floats(N);
  const int used = each > 0 ? (tiles + each - 1) / each : 1;  // splits that have keys
  if (there) {
    float highest = kNone, sum = 0.0F;
    float4 value = {0.0F, 0.0F, 0.0F, 0.0F};
#pragma unroll
    for (int w = 0; w < kWarps; ++w) highest = fmaxf(highest, shared.m[w][head]);
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float factor = exp2_flushed(shared.m[w][head] - highest);
      sum += shared.l[w][head] * factor;
      add_scaled(value, *reinterpret_cast<const float4*>(&shared.o[w][head][n]), factor);
    }
    if (used == 1) {
      store_output(y, value, sum > 0.0F ? v_scale / sum : 0.0F);
    } else {
      float* part = parts + split * part_floats(N);
      if (n == 0) *reinterpret_cast<float2*>(part) = {highest, sum};
      *reinterpret_cast<float4*>(part + 4 + n) = value;
    }
  }
  if (used == 1) return;

  // The last block of a (sequence, heads) adds up all parts, in order. Its counter goes back to 0.
  parts = known_here(parts);
  __syncthreads();
  if (threadIdx.x == 0) {
    auto* counter = reinterpret_cast<unsigned*>(a.workspace) + b * gridDim.y + blockIdx.y;
    const auto others = static_cast<unsigned>(used - 1);
    shared.last = increment_acq_rel(counter, others) == others;
  }
  __syncthreads();
  if (!shared.last) return;
  float total = 0.0F;
  const float4 value = add_parts<N>(parts, used, total);
  if (there) store_output(y, value, v_scale / total);
}

template <int N, typename C>
cudaError_t launch(const DecodeAttentionArgs& a, cudaStream_t stream) {
  const int64_t head_blocks = (a.H / a.K + kHeads - 1) / kHeads;
  const dim3 grid(static_cast<unsigned>(a.splits), static_cast<unsigned>(a.K * head_blocks),
                  static_cast<unsigned>(a.B));
  const Factors factors{1.0F / static_cast<float>(a.splits),
                        static_cast<float>(kKeys) / static_cast<float>(a.page_size)};
  auto* kernel = &decode_attention_kernel<N, C>;
  if (a.dependent) return launch_dependent(kernel, grid, dim3(kThreads), 0, stream, a, factors);
  EM_LAUNCH(kernel, grid, kThreads, 0, stream, a, factors);
  return cudaGetLastError();
}

}  // namespace

int decode_attention_splits(int64_t B, int64_t K, int64_t max_length, int multiprocessors) {
  const int64_t round = kWarps * kKeys, rounds = (max_length + round - 1) / round;
  const int64_t places = int64_t{kResident} * multiprocessors, most = places / (B * K);
  int64_t splits = most < rounds ? most : rounds;
  splits = splits < 1 ? 1 : splits > kMaxSplits ? kMaxSplits : splits;
  const int64_t each = (rounds + splits - 1) / splits;  // fewer blocks may take no longer
  return each > 0 ? static_cast<int>((rounds + each - 1) / each) : 1;
}

size_t decode_attention_workspace(int64_t B, int64_t H, int64_t N, int splits) {
  return static_cast<size_t>(kCounters +
                             (splits > 1 ? B * H * splits * part_floats(static_cast<int>(N)) : 0));
}

cudaError_t decode_attention(const DecodeAttentionArgs& a, cudaStream_t stream) noexcept {
  if (a.B == 0) return cudaSuccess;
  if (a.B < 0 || a.B > 65535 || a.K <= 0 || a.H <= 0 || a.H % a.K != 0 || a.H > 65535 ||
      a.page_size <= 0 || a.page_size % kKeys != 0 ||
      a.max_pages * a.page_size > int64_t{kMostTiles} * kKeys || a.splits < 1 ||
      a.splits > kMaxSplits || (a.splits > 1 && a.workspace == nullptr) ||
      a.B * a.K * ((a.H / a.K + kHeads - 1) / kHeads) > kCounters)
    return cudaErrorInvalidValue;
  if (a.kv_type == DType::kBf16 && a.N == 128) return launch<128, Bf16Cache<128>>(a, stream);
  if (a.kv_type == DType::kBf16 && a.N == 64) return launch<64, Bf16Cache<64>>(a, stream);
  if (a.kv_type == DType::kFp8E4M3 && a.N == 128 && a.kv_scale_2 != nullptr)
    return launch<128, Fp8Cache<128>>(a, stream);
  return cudaErrorInvalidValue;
}

}  // namespace euromodal
