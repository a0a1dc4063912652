// decode_attention_kernel.cu — see decode_attention_kernel.h. Reference: attention_ref over
// gathered pages.
//
// A block has a share of a sequence's keys and up to 8 query heads of one key/value head; its warps
// take tiles of 16 keys in turn (decode_attention_tile.h), with the next tile's keys and values
// under way. Parts are added up over the warps in shared memory, over the blocks by the last one.
#include "backbone/kernels/decode_attention/decode_attention_kernel.h"
#include "backbone/kernels/decode_attention/decode_attention_tile.h"

namespace euromodal {
namespace {

constexpr int kWarps = 8, kThreads = kWarps * 32;
constexpr int kResident = 2;  // blocks of a multiprocessor: their registers are held to it
constexpr int kBatch = 24, kMaxSplits = 2 * kBatch;  // parts that are added up together
constexpr int64_t kCounters =
    8192;                        // at the workspace's start, whatever B is: calls of any B share it
constexpr float kNone = -1e30F;  // below every score, and no NaN when subtracted from itself

// The kernel's divisors, which only the launch knows, as factors, and one quotient.
struct Factors {
  float of_splits, of_page_tiles, of_kv_heads;
  int group;  // H / K
};
constexpr int kMostTiles = 1 << 21;  // up to here a quotient by a factor is exact
EM_DEVICE int quotient(int v, float factor) {
  return static_cast<int>((static_cast<float>(v) + 0.5F) * factor);
}

// What a block works on: query heads [first, first + heads) of a key/value head's group.
struct Share {
  int b;              // sequence
  int length, tiles;  // of the sequence
  int kv_head, first, heads;
  int row;  // b H + the number of the first head
};

// A tile's page; pages are whole tiles. (Read where no older copy can lie: it is read early.)
EM_DEVICE int page_of(const DecodeAttentionArgs& a, const Factors& factors, const Share& share,
                      int tile) {
  return __ldcg(a.page_table_BP + int64_t{share.b} * static_cast<int>(a.max_pages) +
                quotient(tile, factors.of_page_tiles));
}

// Where a tile's first key lies, in bytes of a layer's pages; heads of all pages fit 31 bits.
template <int N, typename C>
EM_DEVICE int64_t tile_at(const DecodeAttentionArgs& a, const Factors& factors, const Share& share,
                          int tile, int page) {
  constexpr int kKeyBytes = N * C::kBytes;
  const int positions = static_cast<int>(a.page_size),
            head = page * static_cast<int>(a.K) + share.kv_head,
            key = tile * kKeys - quotient(tile, factors.of_page_tiles) * positions;
  return int64_t{head} * (positions * kKeyBytes) + key * kKeyBytes;
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

// Rows are longer than N, so that the lanes of an access meet other banks.
template <int N, typename C>
struct alignas(16) Shared {
  uint16_t q[kHeads][N + 32];                      // by query_place
  uint4 newest[2][N * C::kBytes / sizeof(uint4)];  // key and value of the step, as in a page
  float o[kWarps][kHeads][N + kMostShift];
  float m[kHeads][kWarps], l[kHeads][kWarps];
  bool last;
};

// Two neighbouring numbers.
EM_DEVICE float2 load_pair(const Bf16* x) {
  const uint32_t bits = __ldcg(reinterpret_cast<const uint32_t*>(x));
  return {low_of_bf16x2(bits), high_of_bf16x2(bits)};
}
EM_DEVICE void rotate_rounded(float& first, float& second, float cos, float sin) {
  const RotatedPair turned = rotate_pair(first, second, cos, sin);
  first = round_bf16(turned.low);
  second = round_bf16(turned.high);
}

// Waits for the predecessor and takes what it gave, N / 4 threads a row, with numbers n, n + 1 and
// those half a row on: queries into shared memory; of a step, in the block that has the newest
// position, also key and value, as the cache has them, and (one block of the group) into the pages.
template <int N, typename C>
EM_DEVICE void take_rows(const DecodeAttentionArgs& a, const Factors& factors, const Share& share,
                         bool newest, float k_scale, float v_scale, Shared<N, C>& shared) {
  constexpr int kThreadsOfRow = N / 4, kHalf = N / 2;
  const bool step = a.qkv_BO != nullptr;
  const int n = threadIdx.x % kThreadsOfRow * 2, H = static_cast<int>(a.H),
            K = static_cast<int>(a.K);
  float2 cos{}, sin{};
  if (step && share.length > 0) {
    const int64_t angle = int64_t{share.length - 1} * N + n;
    cos = *reinterpret_cast<const float2*>(a.cos_PN + angle);
    sin = *reinterpret_cast<const float2*>(a.sin_PN + angle);
  }
  int64_t home = 0;
  if (newest)
    home = tile_at<N, C>(a, factors, share, share.tiles - 1,
                         page_of(a, factors, share, share.tiles - 1)) +
           (share.length - 1) % kKeys * (N * C::kBytes);
  const auto numbers_of = [&](int r) {
    if (!step) return static_cast<const Bf16*>(a.q_BHN) + int64_t{share.row + r} * N + n;
    const int which = r - share.heads,
              in_row = which < 0 ? share.row - share.b * H + r : H + which * K + share.kv_head;
    return static_cast<const Bf16*>(a.qkv_BO) + int64_t{share.b * (H + 2 * K) + in_row} * N + n;
  };
  int r = threadIdx.x / kThreadsOfRow;
  const Bf16* x = known_here(numbers_of(r));
  wait_for_predecessor();
#pragma unroll 1
  for (; r < share.heads + (newest ? 2 : 0); r += kThreads / kThreadsOfRow, x = numbers_of(r)) {
    const int which = r - share.heads;  // 0: key, 1: value
    float2 low = load_pair(x), high = load_pair(x + kHalf);
    if (step && which < 1) {
      rotate_rounded(low.x, high.x, cos.x, sin.x);
      rotate_rounded(low.y, high.y, cos.y, sin.y);
    }
    if (which < 0) {
      place_query<C>(low, n, shared.q[r]);
      place_query<C>(high, n + kHalf, shared.q[r]);
    } else {
      const float scale = which == 0 ? k_scale : v_scale;
      const Pair<C> pairs[2] = {cached_pair<C>(low, scale), cached_pair<C>(high, scale)};
      const auto put = [&](void* row) {
        static_cast<Pair<C>*>(row)[n / 2] = pairs[0];
        static_cast<Pair<C>*>(row)[(n + kHalf) / 2] = pairs[1];
      };
      put(shared.newest[which]);
      if (share.first == 0) {
        auto* row = static_cast<unsigned char*>(which == 0 ? a.k_pages : a.v_pages) + home;
        read_in_vain(row, N * C::kBytes);
        put(row);
      }
    }
  }
  __syncthreads();
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
  using Memory = Shared<N, C>;
  EM_DYNAMIC_SHARED(Memory, memory);  // (an emulation fills it anew for each block)
  Memory& shared = *memory;
  constexpr int kTiles = N / 16;
  release_successor();
  Share share{};
  share.b = static_cast<int>(blockIdx.y);
  const int length = share.length = __ldcg(a.length_B + share.b);
  const int split = static_cast<int>(blockIdx.z);  // slowest: blocks that have keys come first
  const int x = static_cast<int>(blockIdx.x), octet = quotient(x, factors.of_kv_heads);
  share.kv_head = x - octet * static_cast<int>(a.K);
  share.first = octet * kHeads;
  const int heads = share.heads = min(factors.group - share.first, kHeads);
  share.row = share.b * static_cast<int>(a.H) + share.kv_head * factors.group + share.first;
  // A split is whole rounds of the warps; splits beyond the last key are empty.
  const int tiles = share.tiles = (length + kKeys - 1) / kKeys,
            rounds = (tiles + kWarps - 1) / kWarps;
  const int each = quotient(rounds + a.splits - 1, factors.of_splits) * kWarps;
  if (split > 0 && split * each >= tiles) return;
  const int end = min((split + 1) * each, tiles);

  // What nobody writes now is asked for before the predecessor has ended: the first tile, but for
  // the one with a last key that a predecessor stores. (An emulation does not show the difference,
  // nor does a step's own tile when the key to be replaced is read while another block writes it.)
  const bool step = a.qkv_BO != nullptr;
  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, c = threadIdx.x % 4;
  uint4 k[2][C::kKVectors], v[4][C::kVVectors];
  int tile = split * each + warp, next_page = 0;
  if (tile < end) {
    const int64_t at = tile_at<N, C>(a, factors, share, tile, page_of(a, factors, share, tile));
    if (tile + kWarps < end) next_page = page_of(a, factors, share, tile + kWarps);
    if (!step && tile == tiles - 1) wait_for_predecessor();
    load_keys<N, C>(a.k_pages, at, length - 1 - tile * kKeys, k);
    load_values<N, C>(a.v_pages, at, length - 1 - tile * kKeys, v);
  }
  float k_scale = 1.0F, v_scale = 1.0F;
  if constexpr (C::kBytes == 1) {
    k_scale = a.kv_scale_2[0];
    v_scale = a.kv_scale_2[1];
  }
  const float scale = a.scale * k_scale * 1.44269504F;  // to base 2
  take_rows<N, C>(a, factors, share, step && length > 0 && end == tiles, k_scale, v_scale, shared);

  float o[kTiles][4] = {};
  float m[2] = {kNone, kNone}, l[2] = {0.0F, 0.0F};
  for (; tile < end; tile += kWarps) {
    const int next = tile + kWarps, last = length - 1 - next * kKeys;
    const bool with_newest = step && tile == tiles - 1;
    if (with_newest) replace_keys<C>(shared.newest[0], (length - 1) % kKeys, k);
    float s[4] = {};
    score_tile<C>(k, shared.q[g < heads ? g : 0], s);
    if (next < end)
      load_keys<N, C>(a.k_pages, tile_at<N, C>(a, factors, share, next, next_page), last, k);
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
    if (with_newest) replace_values<C>(shared.newest[1], (length - 1) % kKeys, v);
    const uint32_t p[2] = {transpose_8x8(C::pack(s[0], s[1])), transpose_8x8(C::pack(s[2], s[3]))};
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      constexpr int kTilesPerVector = 16 / C::kBytes / 2;
      const int u = t / kTilesPerVector, e = t % kTilesPerVector * 2;
      const uint32_t f[4] = {
          C::pair_keys(v[0][u], v[1][u], e), C::pair_keys(v[0][u], v[1][u], e + 1),
          C::pair_keys(v[2][u], v[3][u], e), C::pair_keys(v[2][u], v[3][u], e + 1)};
      o[t][0] *= keep[0];
      o[t][1] *= keep[1];
      o[t][2] *= keep[0];
      o[t][3] *= keep[1];
      C::mma(o[t], f, p);
    }
    if (next < end)
      load_values<N, C>(a.v_pages, tile_at<N, C>(a, factors, share, next, next_page), last, v);
    if (next + kWarps < end) next_page = page_of(a, factors, share, next + kWarps);
  }

  // The warps' parts into shared memory, by head, and their sum: N / 4 threads a head.
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    l[i] = over_keys_sum(l[i]);
    if (g == 0) {
      shared.m[2 * c + i][warp] = m[i];
      shared.l[2 * c + i][warp] = l[i];
    }
#pragma unroll
    for (int t = 0; t < kTiles; t += 2)
      *reinterpret_cast<float4*>(
          &shared.o[warp][2 * c + i][row_shift<C>(2 * c + i) + output_number<C>(t, g)]) = {
          o[t][i], o[t][i + 2], o[t + 1][i], o[t + 1][i + 2]};
  }
  __syncthreads();
  const int head = threadIdx.x / (N / 4), n = threadIdx.x % (N / 4) * 4;
  const bool there = head < heads;
  Bf16* out = static_cast<Bf16*>(a.y_BHN) + int64_t{share.row + head} * N + n;
  float* parts =
      a.workspace + kCounters + int64_t{share.row + (there ? head : 0)} * a.splits * part_floats(N);
  const bool alone = each >= tiles;  // the only split that has keys
  if (there) {
    float highest = kNone, sum = 0.0F;
    float4 value = {0.0F, 0.0F, 0.0F, 0.0F};
#pragma unroll
    for (int w = 0; w < kWarps; ++w) highest = fmaxf(highest, shared.m[head][w]);
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float factor = exp2_flushed(shared.m[head][w] - highest);
      sum += shared.l[head][w] * factor;
      add_scaled(value,
                 *reinterpret_cast<const float4*>(&shared.o[w][head][row_shift<C>(head) + n]),
                 factor);
    }
    if (alone) {
      store_output(out, value, sum > 0.0F ? v_scale / sum : 0.0F);
    } else {
      float* part = parts + split * part_floats(N);
      if (n == 0) *reinterpret_cast<float2*>(part) = {highest, sum};
      *reinterpret_cast<float4*>(part + 4 + n) = value;
    }
  }
  if (alone) return;

  // The last block of a (sequence, heads) adds up all parts, in order. Its counter goes back to 0.
  parts = known_here(parts);
  const int used = (tiles + each - 1) / each;
  __syncthreads();
  if (threadIdx.x == 0) {
    auto* counter = reinterpret_cast<unsigned*>(a.workspace) + share.b * gridDim.x + blockIdx.x;
    const auto others = static_cast<unsigned>(used - 1);
    shared.last = increment_acq_rel(counter, others) == others;
  }
  __syncthreads();
  if (!shared.last) return;
  float total = 0.0F;
  const float4 value = add_parts<N>(parts, used, total);
  if (there) store_output(out, value, v_scale / total);
}

template <int N, typename C>
cudaError_t launch(const DecodeAttentionArgs& a, cudaStream_t stream) {
  const int64_t head_blocks = (a.H / a.K + kHeads - 1) / kHeads;
  const dim3 grid(static_cast<unsigned>(a.K * head_blocks), static_cast<unsigned>(a.B),
                  static_cast<unsigned>(a.splits));
  const Factors factors{1.0F / static_cast<float>(a.splits),
                        static_cast<float>(kKeys) / static_cast<float>(a.page_size),
                        1.0F / static_cast<float>(a.K), static_cast<int>(a.H / a.K)};
  auto* kernel = &decode_attention_kernel<N, C>;
  constexpr size_t bytes = sizeof(Shared<N, C>);
  static_assert(bytes <= size_t{48} << 10, "more must be asked for");
  if (a.dependent) return launch_dependent(kernel, grid, dim3(kThreads), bytes, stream, a, factors);
  EM_LAUNCH(kernel, grid, kThreads, bytes, stream, a, factors);
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
