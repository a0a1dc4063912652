// select.h — how far down a row a rule keeps tokens, without sorting: tokens in order (larger value
// first, of equals the higher id), each with a measure; a token stays while the measure of those
// before it satisfies the rule (fewer than k; less than p).
//
// Measures are whole numbers, so that sums do not depend on the order of atomics. A histogram over
// values finds the bin in which the rule ends; its few tokens are ranked against each other. Where
// they are too many (a row of equals), their keys are bisected.
#pragma once
#include "backbone/kernels/sample_token/team.h"

namespace euromodal {

/// Unsigned numbers in the order of the floats; both zeros are one.
EM_DEVICE uint32_t ordered(float x) {
  const uint32_t bits = __float_as_uint(x + 0.0F);
  return (bits & 0x80000000U) != 0U ? ~bits : bits | 0x80000000U;
}
EM_DEVICE float from_ordered(uint32_t key) {
  return __uint_as_float((key & 0x80000000U) != 0U ? key & 0x7fffffffU : ~key);
}
EM_DEVICE uint64_t token_key(float x, int64_t id) {
  return uint64_t{ordered(x)} << 32 | static_cast<uint32_t>(id);
}

constexpr int kSelectBins = 1024, kSelectList = 1024;

struct SelectShared {
  uint32_t low[kSelectBins], high[kSelectBins];  // a bin's measure
  uint64_t key[kSelectList], measure[kSelectList];
  uint32_t count;  // of tokens that asked for a place in the list
  int bin;
  uint64_t before;
};

/// One block's part of a row: ids [begin, begin + count).
struct RowPart {
  float* x;  // values; minus infinity: not in the race
  float* w;  // exp(x - top)
  int64_t begin, count;
};

/// value -> bin, 0 for the largest value; never falls when the value falls.
struct SelectBins {
  float top, scale;
  EM_DEVICE int operator()(float x) const {
    return static_cast<int>(fminf((top - x) * scale, static_cast<float>(kSelectBins - 1)));
  }
};
EM_DEVICE SelectBins select_bins(float top, float lowest) {
  const float range = fminf(top - lowest, 32.0F);  // further down all are one bin
  return {top, range > 0.0F ? static_cast<float>(kSelectBins) / range : 0.0F};
}

/// The least key that stays, 0 if all do. `measure(i)`: of the part's i-th token, 0 for those that
/// are not in the race; `stays(m)`: does a token with m before it stay? True for 0, and never again
/// once false.
template <typename Measure, typename Stays>
EM_DEVICE uint64_t select_least(Team& team, SelectShared* shared, const RowPart& part,
                                const SelectBins& bins, Measure measure, Stays stays) {
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const unsigned lane = threadIdx.x % 32;
  for (int b = thread; b < kSelectBins; b += threads) shared->low[b] = shared->high[b] = 0;
  if (thread == 0) {
    shared->count = 0;
    shared->bin = kSelectBins;
  }
  __syncthreads();

  const auto add = [&](int bin, uint64_t m) {
    const auto low = static_cast<uint32_t>(m);
    const uint32_t old = atomicAdd(&shared->low[bin], low);
    const uint32_t high = static_cast<uint32_t>(m >> 32) + (old + low < old ? 1U : 0U);
    if (high != 0U) atomicAdd(&shared->high[bin], high);
  };
  uint64_t rest = 0;  // the last bin has most of the tokens: added up before it is touched
  for (int64_t i = thread; i < part.count; i += threads) {
    const uint64_t m = measure(i);
    if (m == 0) continue;
    const int bin = bins(part.x[i]);
    bin == kSelectBins - 1 ? static_cast<void>(rest += m) : add(bin, m);
  }
  for (int offset = 16; offset > 0; offset >>= 1)
    rest += __shfl_xor_sync(0xffffffffU, rest, offset);
  if (lane == 0 && rest != 0) add(kSelectBins - 1, rest);
  cluster_sync();

  // Each thread takes neighbouring bins of all blocks; the measure before them by a scan.
  const int each = (kSelectBins + threads - 1) / threads, first = thread * each;
  const auto bin_measure = [&](int b) {
    uint64_t sum = 0;
    for (unsigned r = 0; r < team.size(); ++r)
      sum += uint64_t{cluster_peer(shared->high, r)[b]} << 32;
    for (unsigned r = 0; r < team.size(); ++r) sum += cluster_peer(shared->low, r)[b];
    return sum;
  };
  uint64_t own = 0;
  for (int b = first; b < first + each && b < kSelectBins; ++b) own += bin_measure(b);
  uint64_t upto = own;
  for (unsigned offset = 1; offset < 32; offset <<= 1) {
    const uint64_t other = __shfl_up_sync(0xffffffffU, upto, offset);
    if (lane >= offset) upto += other;
  }
  uint64_t* warp_sums = shared->measure;  // not in use yet
  if (lane == 31) warp_sums[threadIdx.x / 32] = upto;
  __syncthreads();
  uint64_t before = upto - own;
  for (unsigned w = 0; w < threadIdx.x / 32; ++w) before += warp_sums[w];
  if (stays(before) && !stays(before + own)) {
    for (int b = first; b < first + each && b < kSelectBins; ++b) {
      const uint64_t after = before + bin_measure(b);
      if (!stays(after)) {
        shared->bin = b;
        shared->before = before;
        break;
      }
      before = after;
    }
  }
  __syncthreads();
  const int bin = shared->bin;
  before = shared->before;
  cluster_sync();  // the peers have read this block's bins, and warp_sums is free
  if (bin == kSelectBins) return 0;

  SelectShared* leader = cluster_peer(shared, 0);
  for (int64_t i = thread; i < part.count; i += threads) {
    if (bins(part.x[i]) != bin) continue;
    const uint64_t m = measure(i);
    if (m == 0) continue;
    const uint32_t place = atomicAdd(&leader->count, 1U);
    if (place >= kSelectList) continue;
    leader->key[place] = token_key(part.x[i], part.begin + i);
    leader->measure[place] = m;
  }
  cluster_sync();
  const uint32_t count = leader->count;
  uint64_t least = UINT64_MAX;
  if (count <= kSelectList) {
    if (team.rank() == 0) {
      for (uint32_t j = threadIdx.x; j < count; j += blockDim.x) {
        const uint64_t key = shared->key[j];
        uint64_t m = before;
#pragma unroll 4
        for (uint32_t i = 0; i < count; ++i) m += shared->key[i] > key ? shared->measure[i] : 0;
        if (stays(m) && key < least) least = key;
      }
    }
    return team.min(least);
  }

  uint64_t highest = 0;
  const auto in_bin = [&](int64_t i) { return bins(part.x[i]) == bin && measure(i) != 0; };
  for (int64_t i = thread; i < part.count; i += threads) {
    if (!in_bin(i)) continue;
    const uint64_t key = token_key(part.x[i], part.begin + i);
    least = key < least ? key : least;
    highest = key > highest ? key : highest;
  }
  least = team.min(least);
  highest = team.max(highest);  // stays: it has `before` before it
  while (least < highest) {
    const uint64_t middle = least + (highest - least) / 2;
    uint64_t above = 0;
    for (int64_t i = thread; i < part.count; i += threads)
      if (in_bin(i) && token_key(part.x[i], part.begin + i) > middle) above += measure(i);
    if (stays(before + team.sum(above))) {
      highest = middle;
    } else {
      least = middle + 1;
    }
  }
  return least;
}

}  // namespace euromodal
