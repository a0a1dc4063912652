// team.h — the blocks of a cluster as one team on one row: values of all threads combined in a
// fixed order, known to everyone.
#pragma once
#include <cstdint>
#include <cstring>

#include "backbone/kernels/cuda/device.h"

namespace euromodal {

constexpr int kMaxWarps = 32, kMaxTeam = 8;

/// In dynamic shared memory of each block: peers write here.
struct TeamShared {
  uint64_t warp[kMaxWarps];
  uint64_t given[2][kMaxTeam];  // by rank; two in turn, so that one barrier a round suffices
};

class Team {
 public:
  EM_DEVICE explicit Team(TeamShared* shared) : shared_(shared) {}

  EM_DEVICE unsigned rank() const { return cluster_rank(); }
  EM_DEVICE unsigned size() const { return cluster_size(); }

  /// Every block gives one value (of its first warp's threads, all the same); the values by rank,
  /// until the next but one round.
  template <typename T>
  EM_DEVICE const T* gather(T value) {
    static_assert(sizeof(T) == 8);
    uint64_t* slots = shared_->given[turn_];
    turn_ ^= 1U;
    if (threadIdx.x < size()) memcpy(cluster_peer(slots, threadIdx.x) + rank(), &value, sizeof(T));
    cluster_sync();
    return reinterpret_cast<const T*>(slots);
  }

  /// `op` over all threads of the team.
  template <typename T, typename Op>
  EM_DEVICE T all(T value, T neutral, Op op) {
    static_assert(sizeof(T) == 8);
    const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    for (int offset = 16; offset > 0; offset >>= 1)
      value = op(value, __shfl_xor_sync(0xffffffffU, value, offset));
    if (lane == 0) memcpy(&shared_->warp[warp], &value, sizeof(T));
    __syncthreads();
    if (warp == 0) {
      value = neutral;
      if (lane < warps) memcpy(&value, &shared_->warp[lane], sizeof(T));
      for (int offset = 16; offset > 0; offset >>= 1)
        value = op(value, __shfl_xor_sync(0xffffffffU, value, offset));
    }
    const T* given = gather(value);
    T out = given[0];
    for (unsigned r = 1; r < size(); ++r) out = op(out, given[r]);
    return out;
  }

  EM_DEVICE double sum(double value) {
    return all(value, 0.0, [](double a, double b) { return a + b; });
  }
  EM_DEVICE uint64_t sum(uint64_t value) {
    return all(value, uint64_t{0}, [](uint64_t a, uint64_t b) { return a + b; });
  }
  EM_DEVICE uint64_t max(uint64_t value) {
    return all(value, uint64_t{0}, [](uint64_t a, uint64_t b) { return a < b ? b : a; });
  }
  EM_DEVICE uint64_t min(uint64_t value) {
    return all(value, UINT64_MAX, [](uint64_t a, uint64_t b) { return b < a ? b : a; });
  }

 private:
  TeamShared* shared_;
  unsigned turn_ = 0;
};

}  // namespace euromodal
