// blocked_rows.cpp — see blocked_rows.h. Keys of a head are packed as outputs of a product, values
// as inputs of another, by blocks of positions that begin at fixed places; tiles of rows are shared
// out among the threads.
#include "backbone/kernels/attention/blocked_rows.h"

#include <cmath>
#include <limits>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "backbone/kernels/packed_linear/packed_kernels.h"
#include "backbone/kernels/packed_linear/packed_weight.h"
#include "backbone/kernels/simd.h"

namespace euromodal {

namespace {

constexpr int64_t kKeys = 512;  // positions of a block: scores of a tile stay in the second cache
constexpr int64_t kTileRows = 96;  // rows of a tile, of all query heads of a group

/// One key/value head.
struct BlockedHead {
  PackedWeight keys;                 // L outputs, N inputs
  std::vector<PackedWeight> values;  // of each block of positions: N outputs, its positions inputs
};

BlockedHead blocked_head(const at::Tensor& k_LN, const at::Tensor& v_LN) {
  BlockedHead out{pack_weight(k_LN, {}), {}};
  for (int64_t begin = 0; begin < v_LN.size(0); begin += kKeys) {
    const int64_t count = std::min(kKeys, v_LN.size(0) - begin);
    out.values.push_back(pack_weight(v_LN.narrow(0, begin, count).t(), {}));
  }
  return out;
}

/// Some rows of one head: new positions [first, first + positions), each with its query heads.
struct BlockedTile {
  int64_t head = 0, first = 0, positions = 0;
};

/// What a thread works in; [R, ...] for the R rows of a tile.
struct BlockedSpace {
  at::Tensor q_RN, share_RL;  // bf16, or f32 where the kernel takes that
  std::vector<float> score_RL, sum_RN, largest_R, total_R, shrink_R;
  int64_t width = 0;  // N
};

[[gnu::always_inline]] inline float blocked_largest_of(const float* x, int64_t count) {
  float largest = -std::numeric_limits<float>::infinity();
#pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < count; ++i) largest = x[i] > largest ? x[i] : largest;
  return largest;
}

/// e^(scale (score - largest)) -> shares; -> their sum, before rounding.
template <typename T>
[[gnu::always_inline]] inline float blocked_shares_of(const float* score, int64_t count,
                                                      float scale, float largest, T* share) {
  float sum = 0.0F;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) {
    const float e = fast_exp(scale * (score[i] - largest));
    put_rounded(share, i, e);
    sum += e;
  }
  return sum;
}

EM_CPU_CLONES float blocked_largest(const float* x, int64_t count) {
  return blocked_largest_of(x, count);
}
EM_CPU_CLONES float blocked_shares(const float* score, int64_t count, float scale, float largest,
                                   float* share) {
  return blocked_shares_of(score, count, scale, largest, share);
}
EM_CPU_CLONES float blocked_shares(const float* score, int64_t count, float scale, float largest,
                                   c10::BFloat16* share) {
  return blocked_shares_of(score, count, scale, largest, share);
}

/// Scores of a block of positions that begins at `begin`.
struct BlockedScores {
  float* score_RL;
  int64_t begin;
};

void blocked_put_scores(void* to, const float* tile, int64_t row, int64_t rows, int64_t output,
                        int64_t columns) {
  const auto& scores = *static_cast<const BlockedScores*>(to);
  for (int64_t r = 0; r < rows; ++r)
    std::copy_n(tile + r * columns, columns,
                scores.score_RL + (row + r) * kKeys + output - scores.begin);
}

void blocked_add_values(void* to, const float* tile, int64_t row, int64_t rows, int64_t output,
                        int64_t columns) {
  auto& space = *static_cast<BlockedSpace*>(to);
  const int64_t count = std::min(columns, space.width - output);
  for (int64_t r = row; r < row + rows; ++r, tile += columns) {
    float* sum = space.sum_RN.data() + r * space.width + output;
    const float shrink = space.shrink_R[static_cast<size_t>(r)];
#pragma omp simd
    for (int64_t n = 0; n < count; ++n) sum[n] = sum[n] * shrink + tile[n];
  }
}

PackedKernelArgs blocked_args(const at::Tensor& x_RI, int64_t rows, const PackedWeight& weight) {
  PackedKernelArgs args;
  args.x = static_cast<const uint8_t*>(x_RI.const_data_ptr());
  args.x_bytes = x_RI.stride(0) * static_cast<int64_t>(x_RI.element_size());
  args.weight = weight.blocks.const_data_ptr<uint8_t>();
  args.layout = weight.layout();
  args.M = rows;
  return args;
}

/// The tile's rows against the positions [begin, begin + count), of which row r sees those below
/// visible + r / group.
template <typename T>
void blocked_step(BlockedSpace& space, const BlockedHead& head, const PackedKernel kernel,
                  int64_t rows, int64_t group, int64_t begin, int64_t count, int64_t visible,
                  float scale) {
  PackedKernelArgs args = blocked_args(space.q_RN, rows, head.keys);
  args.begin = begin / kPackedOutputs;
  args.end = (begin + count + kPackedOutputs - 1) / kPackedOutputs;
  args.store = blocked_put_scores;
  BlockedScores scores{space.score_RL.data(), begin};
  args.to = &scores;
  kernel(args);

  const int64_t padded = (count + 1) / 2 * 2;
  T* const shares = space.share_RL.mutable_data_ptr<T>();
  for (int64_t r = 0; r < rows; ++r) {
    const auto at = static_cast<size_t>(r);
    const int64_t sees = std::clamp<int64_t>(visible + r / group - begin, 0, count);
    const float* score = space.score_RL.data() + r * kKeys;
    T* share = shares + r * kKeys;
    const float before = space.largest_R[at],
                largest = std::max(before, blocked_largest(score, sees));
    std::fill(share + sees, share + padded, T(0.0F));
    if (sees == 0) {
      space.shrink_R[at] = 1.0F;
      continue;
    }
    const float sum = blocked_shares(score, sees, scale, largest, share);
    const float shrink = std::isinf(before) ? 0.0F : std::exp(scale * (before - largest));
    space.shrink_R[at] = shrink;
    space.total_R[at] = space.total_R[at] * shrink + sum;
    space.largest_R[at] = largest;
  }

  args = blocked_args(space.share_RL, rows, head.values[static_cast<size_t>(begin / kKeys)]);
  args.layout.inputs = padded;  // what is behind has no share
  args.begin = 0;
  args.end = (space.width + kPackedOutputs - 1) / kPackedOutputs;
  args.store = blocked_add_values;
  args.to = &space;
  kernel(args);
}

template <typename T>
void blocked_tile(const BlockedTile& tile, const BlockedHead& head, const PackedKernel kernel,
                  const at::Tensor& q_THN, int64_t group, int64_t length, float scale,
                  BlockedSpace& space, const at::Tensor& out_THN) {
  const int64_t rows = tile.positions * group, N = space.width;
  const at::Tensor q =
      q_THN.narrow(0, tile.first, tile.positions).narrow(1, tile.head * group, group);
  space.q_RN.narrow(0, 0, rows).narrow(1, 0, N).view({tile.positions, group, N}).copy_(q);
  std::fill_n(space.sum_RN.begin(), rows * N, 0.0F);
  std::fill_n(space.total_R.begin(), rows, 0.0F);
  std::fill_n(space.largest_R.begin(), rows, -std::numeric_limits<float>::infinity());
  const int64_t visible = length - q_THN.size(0) + tile.first + 1,
                last = visible + tile.positions - 1;  // that any row sees
  for (int64_t begin = 0; begin < last; begin += kKeys)
    blocked_step<T>(space, head, kernel, rows, group, begin, std::min(kKeys, last - begin), visible,
                    scale);
  auto* const out = out_THN.mutable_data_ptr<c10::BFloat16>();
  for (int64_t r = 0; r < rows; ++r) {
    c10::BFloat16* to =
        out + (tile.first + r / group) * out_THN.stride(0) + (tile.head * group + r % group) * N;
    const float inverse = 1.0F / space.total_R[static_cast<size_t>(r)];
    const float* sum = space.sum_RN.data() + r * N;
    for (int64_t n = 0; n < N; ++n) put_rounded(to, n, sum[n] * inverse);
  }
}

/// Tiles of all heads; long ones (late positions) and short ones in turns, so that neighbours
/// together have about the same work.
std::vector<BlockedTile> blocked_tiles(int64_t heads, int64_t length, int64_t positions) {
  std::vector<BlockedTile> out;
  const int64_t tiles = (length + positions - 1) / positions;
  for (int64_t head = 0; head < heads; ++head) {
    for (int64_t i = 0; i < tiles; ++i) {
      const int64_t tile = i % 2 == 0 ? i / 2 : tiles - 1 - i / 2;
      out.push_back({head, tile * positions, std::min(positions, length - tile * positions)});
    }
  }
  return out;
}

template <typename T>
void blocked_run(const at::Tensor& q_THN, const std::vector<BlockedHead>& heads, int64_t length,
                 float scale, const PackedKernel kernel, const at::Tensor& out_THN) {
  const int64_t N = q_THN.size(2), group = q_THN.size(1) / static_cast<int64_t>(heads.size());
  const int64_t positions = std::max<int64_t>(1, kTileRows / group), rows = positions * group;
  const std::vector<BlockedTile> tiles =
      blocked_tiles(static_cast<int64_t>(heads.size()), q_THN.size(0), positions);
  at::parallel_for(0, static_cast<int64_t>(tiles.size()), 1, [&](int64_t first, int64_t last) {
    const c10::InferenceMode no_tracking;
    const auto options = q_THN.options().dtype(c10::CppTypeToScalarType<T>::value);
    BlockedSpace space{at::zeros({rows, (N + 1) / 2 * 2}, options),
                       at::empty({rows, kKeys}, options),
                       std::vector<float>(static_cast<size_t>(rows * kKeys)),
                       std::vector<float>(static_cast<size_t>(rows * N)),
                       std::vector<float>(static_cast<size_t>(rows)),
                       std::vector<float>(static_cast<size_t>(rows)),
                       std::vector<float>(static_cast<size_t>(rows)),
                       N};
    for (int64_t i = first; i < last; ++i) {
      const BlockedTile& tile = tiles[static_cast<size_t>(i)];
      blocked_tile<T>(tile, heads[static_cast<size_t>(tile.head)], kernel, q_THN, group, length,
                      scale, space, out_THN);
    }
  });
}

}  // namespace

at::Tensor attention_blocked(const at::Tensor& q_THN, const at::Tensor& k_LKN,
                             const at::Tensor& v_LKN, double scale, CpuIsa isa) {
  const at::Tensor out_THN = at::empty(q_THN.sizes(), q_THN.options());
  std::vector<BlockedHead> heads(static_cast<size_t>(k_LKN.size(1)));
  at::parallel_for(0, k_LKN.size(1), 1, [&](int64_t first, int64_t last) {
    const c10::InferenceMode no_tracking;
    for (int64_t head = first; head < last; ++head)
      heads[static_cast<size_t>(head)] = blocked_head(k_LKN.select(1, head), v_LKN.select(1, head));
  });
  const PackedKernels kernels = packed_kernels(isa);
  const auto factor = static_cast<float>(scale);
  if (kernels.widened) {
    blocked_run<float>(q_THN, heads, k_LKN.size(0), factor, kernels.bf16, out_THN);
  } else {
    blocked_run<c10::BFloat16>(q_THN, heads, k_LKN.size(0), factor, kernels.bf16, out_THN);
  }
  return out_THN;
}

}  // namespace euromodal
