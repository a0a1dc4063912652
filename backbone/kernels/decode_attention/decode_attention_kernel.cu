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

constexpr int kWarps = 4, kKeys = 16, kHeads = 8, kMaxSplits = 64;
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

// Tiles of a split: whole rounds of the warps. Splits beyond the last key are empty.
EM_DEVICE int tiles_per_split(int length, int splits) {
  const int tiles = (length + kKeys - 1) / kKeys, rounds = (tiles + kWarps - 1) / kWarps;
  return (rounds + splits - 1) / splits * kWarps;
}

// Where a tile's first key lies, in elements of a layer's pages: pages are whole tiles.
EM_DEVICE int64_t tile_at(const DecodeAttentionArgs& a, const int32_t* table, int kv_head,
                          int tile) {
  const int per_page = static_cast<int>(a.page_size) / kKeys, page = tile / per_page;
  return ((table[page] * a.K + kv_head) * a.page_size + (tile - page * per_page) * kKeys) * a.N;
}

// Keys beyond the end read the last one: finite numbers, not used.
EM_DEVICE int key_in_tile(int tile, int key, int length) {
  return tile * kKeys + key < length ? key : length - 1 - tile * kKeys;
}

template <typename C>
EM_DEVICE void load_keys(const DecodeAttentionArgs& a, int64_t at, int tile, int length,
                         uint4 (&k)[2][C::kKVectors]) {
  const int lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const auto* row = static_cast<const unsigned char*>(a.k_pages) +
                      (at + key_in_tile(tile, g + 8 * h, length) * a.N) * C::kBytes + c * 16;
#pragma unroll
    for (int v = 0; v < C::kKVectors; ++v) k[h][v] = load16_streaming(row + v * 64);
  }
}

// Keys 2c, 2c + 1, 2c + 8, 2c + 9; of each the g-th 16 bytes of every 128.
template <typename C>
EM_DEVICE void load_values(const DecodeAttentionArgs& a, int64_t at, int tile, int length,
                           uint4 (&v)[4][C::kVVectors]) {
  const int lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int key = key_in_tile(tile, 2 * c + i % 2 + 8 * (i / 2), length);
    const auto* row =
        static_cast<const unsigned char*>(a.v_pages) + (at + key * a.N) * C::kBytes + g * 16;
#pragma unroll
    for (int u = 0; u < C::kVVectors; ++u) v[i][u] = load16_streaming(row + u * 128);
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

template <typename C>
EM_DEVICE void score_tile(const uint4 (&k)[2][C::kKVectors],
                          const uint32_t (&q)[C::kKVectors][C::Widen::kSteps][2], float (&s)[4]) {
#pragma unroll
  for (int v = 0; v < C::kKVectors; ++v) {
#pragma unroll
    for (int step = 0; step < C::Widen::kSteps; ++step) {
      uint32_t f[4];
      C::Widen::step(k[0][v], step, 0, f[0], f[2]);
      C::Widen::step(k[1][v], step, 0, f[1], f[3]);
      mma_bf16(s, f, q[v][step]);
    }
  }
}

// Qᵀ fragments of this lane: head g, numbers by the cache's permutation; zero beyond the group.
template <typename C>
EM_DEVICE void load_queries(const Bf16* q_GN, int heads,
                            uint32_t (&q)[C::kKVectors][C::Widen::kSteps][2]) {
  constexpr int kElements = C::Widen::kElements;
  const int lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
#pragma unroll
  for (int v = 0; v < C::kKVectors; ++v) {
    Bf16 placed[kElements];
#pragma unroll
    for (int e = 0; e < kElements; ++e)
      placed[C::Widen::place(e)] = g < heads ? q_GN[g * (16 / C::kBytes) * 4 * C::kKVectors +
                                                    v * 4 * kElements + c * kElements + e]
                                             : from_float<Bf16>(0.0F);
#pragma unroll
    for (int step = 0; step < C::Widen::kSteps; ++step) {
#pragma unroll
      for (int half = 0; half < 2; ++half)
        q[v][step][half] = pack_bf16x2(to_float(placed[4 * step + 2 * half]),
                                       to_float(placed[4 * step + 2 * half + 1]));
    }
  }
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

template <int N>
struct Shared {
  float o[kWarps][kHeads][N];
  float m[kWarps][kHeads], l[kWarps][kHeads];
  int last;
};

// Number of the head that row r of output tile `tile` stands for, of lane group g: see load_values.
template <typename C>
EM_DEVICE int output_number(int tile, int g, int upper) {
  constexpr int kTilesPerVector = 16 / C::kBytes / 2;
  return tile / kTilesPerVector * (128 / C::kBytes) + g * (16 / C::kBytes) +
         tile % kTilesPerVector * 2 + upper;
}

template <int N, typename C>
__global__ void __launch_bounds__(kWarps * 32)
    decode_attention_kernel(const __grid_constant__ DecodeAttentionArgs a) {
  __shared__ Shared<N> shared;
  constexpr int kTiles = N / 16;
  const int split = blockIdx.x, kv_head = static_cast<int>(blockIdx.y % a.K);
  const int group = static_cast<int>(a.H / a.K),
            first = static_cast<int>(blockIdx.y / a.K) * kHeads;
  const int heads = group - first < kHeads ? group - first : kHeads;  // of this block
  const int64_t b = blockIdx.z;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
  wait_for_predecessor();
  release_successor();
  const int length = a.length_B[b];
  const int tiles = (length + kKeys - 1) / kKeys, each = tiles_per_split(length, a.splits);
  const int used = each > 0 ? (tiles + each - 1) / each : 1;  // splits that have keys
  if (split >= used) return;
  const int end = (split + 1) * each < tiles ? (split + 1) * each : tiles;
  const int32_t* table = a.page_table_BP + b * a.max_pages;

  float o[kTiles][4] = {};
  float m[2] = {kNone, kNone}, l[2] = {0.0F, 0.0F};
  int tile = split * each + warp;
  if (tile < end) {
    uint32_t q[C::kKVectors][C::Widen::kSteps][2];
    load_queries<C>(static_cast<const Bf16*>(a.q_BHN) + (b * a.H + kv_head * group + first) * N,
                    heads, q);
    const float scale =
        a.scale * (a.kv_scale_2 != nullptr ? a.kv_scale_2[0] : 1.0F) * 1.44269504F;  // to base 2
    uint4 k[2][C::kKVectors];
    int64_t at = tile_at(a, table, kv_head, tile);
    load_keys<C>(a, at, tile, length, k);
    for (; tile < end; tile += kWarps) {
      // The page of the next tile is known before its keys are asked for.
      const int64_t next = tile + kWarps < end ? tile_at(a, table, kv_head, tile + kWarps) : 0;
      uint4 v[4][C::kVVectors];
      load_values<C>(a, at, tile, length, v);
      float s[4] = {};
      score_tile<C>(k, q, s);
      if (tile + kWarps < end) load_keys<C>(a, next, tile + kWarps, length, k);
      at = next;
#pragma unroll
      for (int i = 0; i < 4; ++i)
        s[i] = tile * kKeys + g + 8 * (i / 2) < length ? s[i] * scale : kNone;
      float keep[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float highest = fmaxf(m[i], over_keys_max(fmaxf(s[i], s[i + 2])));
        keep[i] = exp2f(m[i] - highest);
        m[i] = highest;
        s[i] = s[i] > kNone ? exp2f(s[i] - highest) : 0.0F;
        s[i + 2] = s[i + 2] > kNone ? exp2f(s[i + 2] - highest) : 0.0F;
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
    }
  }
  // The warps' parts into shared memory, by head.
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    l[i] = over_keys_sum(l[i]);
    if (g == 0) {
      shared.m[warp][2 * c + i] = m[i];
      shared.l[warp][2 * c + i] = l[i];
    }
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      shared.o[warp][2 * c + i][output_number<C>(t, g, 0)] = o[t][i];
      shared.o[warp][2 * c + i][output_number<C>(t, g, 1)] = o[t][i + 2];
    }
  }
  __syncthreads();

  // One row of the workspace a (sequence, head, split): maximum, sum, N numbers.
  const float v_scale = a.kv_scale_2 != nullptr ? a.kv_scale_2[1] : 1.0F;
  constexpr int kRow = N + 2;
  float* rows = a.workspace + kCounters;
  const auto row_of = [&](int head, int s) {
    return rows + (((b * a.H + kv_head * group + first + head) * a.splits) + s) * kRow;
  };
  for (int i = threadIdx.x; i < heads * N; i += kWarps * 32) {
    const int head = i / N, n = i % N;
    float highest = kNone, sum = 0.0F, value = 0.0F;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) highest = fmaxf(highest, shared.m[w][head]);
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float factor = exp2f(shared.m[w][head] - highest);
      sum += shared.l[w][head] * factor;
      value += shared.o[w][head][n] * factor;
    }
    if (used == 1) {
      static_cast<Bf16*>(a.y_BHN)[(b * a.H + kv_head * group + first + head) * N + n] =
          from_float<Bf16>(sum > 0.0F ? value * v_scale / sum : 0.0F);
    } else {
      float* row = row_of(head, split);
      if (n == 0) {
        row[0] = highest;
        row[1] = sum;
      }
      row[2 + n] = value;
    }
  }
  if (used == 1) return;

  // The last block of a (sequence, heads) adds up all parts, in order. Its counter goes back to 0.
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    auto* counter = reinterpret_cast<unsigned*>(a.workspace) + b * gridDim.y + blockIdx.y;
    shared.last =
        atomicInc(counter, static_cast<unsigned>(used - 1)) == static_cast<unsigned>(used - 1);
  }
  __syncthreads();
  if (shared.last == 0) return;
  __threadfence();
  // Each part's weight first, sixteen threads a head; then sums of many parts at once.
  float* weights = &shared.o[0][0][0];  // [heads, kMaxSplits], in the memory of before
  {
    const int head = threadIdx.x / 16, lane16 = threadIdx.x % 16;  // 128 threads: 8 heads
    const bool there = head < heads;
    float highest = kNone, sum = 0.0F;
    for (int s = lane16; there && s < used; s += 16)
      highest = fmaxf(highest, __ldcg(row_of(head, s)));
    for (int offset = 8; offset > 0; offset >>= 1)
      highest = fmaxf(highest, __shfl_xor_sync(0xffffffffU, highest, offset));
    for (int s = lane16; there && s < used; s += 16) {
      const float factor = exp2f(__ldcg(row_of(head, s)) - highest);
      weights[head * kMaxSplits + s] = factor;
      sum += __ldcg(row_of(head, s) + 1) * factor;
    }
    for (int offset = 8; offset > 0; offset >>= 1) sum += __shfl_xor_sync(0xffffffffU, sum, offset);
    if (there && lane16 == 0) shared.l[0][head] = v_scale / sum;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < heads * N; i += kWarps * 32) {
    const int head = i / N, n = i % N;
    float value = 0.0F;
    for (int s = 0; s < used; s += 8) {
      float part[8];
#pragma unroll
      for (int u = 0; u < 8; ++u)
        part[u] = s + u < used ? __ldcg(row_of(head, s + u) + 2 + n) : 0.0F;
#pragma unroll
      for (int u = 0; u < 8; ++u)
        if (s + u < used) value += part[u] * weights[head * kMaxSplits + s + u];
    }
    static_cast<Bf16*>(a.y_BHN)[(b * a.H + kv_head * group + first + head) * N + n] =
        from_float<Bf16>(value * shared.l[0][head]);
  }
}

template <int N, typename C>
cudaError_t launch(const DecodeAttentionArgs& a, cudaStream_t stream) {
  const int64_t head_blocks = (a.H / a.K + kHeads - 1) / kHeads;
  const dim3 grid(static_cast<unsigned>(a.splits), static_cast<unsigned>(a.K * head_blocks),
                  static_cast<unsigned>(a.B));
  auto* kernel = &decode_attention_kernel<N, C>;
  if (a.dependent) return launch_dependent(kernel, grid, dim3(kWarps * 32), 0, stream, a);
  EM_LAUNCH(kernel, grid, kWarps * 32, 0, stream, a);
  return cudaGetLastError();
}

}  // namespace

int decode_attention_splits(int64_t B, int64_t K, int64_t max_length, int multiprocessors) {
  constexpr int64_t kLeast = 64;  // keys of a block
  const int64_t wanted = (3 * multiprocessors + B * K - 1) / (B * K);
  const int64_t most = (max_length + kLeast - 1) / kLeast;
  const int64_t splits = wanted < most ? wanted : most;
  return static_cast<int>(splits < 1 ? 1 : splits > kMaxSplits ? kMaxSplits : splits);
}

size_t decode_attention_workspace(int64_t B, int64_t H, int64_t N, int splits) {
  return static_cast<size_t>(kCounters + (splits > 1 ? B * H * splits * (N + 2) : 0));
}

cudaError_t decode_attention(const DecodeAttentionArgs& a, cudaStream_t stream) noexcept {
  if (a.B == 0) return cudaSuccess;
  if (a.B < 0 || a.B > 65535 || a.K <= 0 || a.H <= 0 || a.H % a.K != 0 || a.H > 65535 ||
      a.page_size <= 0 || a.page_size % kKeys != 0 || a.splits < 1 || a.splits > kMaxSplits ||
      (a.splits > 1 && a.workspace == nullptr) ||
      a.B * a.K * ((a.H / a.K + kHeads - 1) / kHeads) > kCounters)
    return cudaErrorInvalidValue;
  if (a.kv_type == DType::kBf16 && a.N == 128) return launch<128, Bf16Cache<128>>(a, stream);
  if (a.kv_type == DType::kBf16 && a.N == 64) return launch<64, Bf16Cache<64>>(a, stream);
  if (a.kv_type == DType::kFp8E4M3 && a.N == 128 && a.kv_scale_2 != nullptr)
    return launch<128, Fp8Cache<128>>(a, stream);
  return cudaErrorInvalidValue;
}

}  // namespace euromodal
