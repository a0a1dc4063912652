// machine_limits.cpp — see machine_limits.h.
#include "inference/bench/machine_limits.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>

#include "backbone/kernels/packed_linear/packed_linear.h"
#include "backbone/kernels/simd.h"

namespace euromodal {

namespace {

constexpr int64_t kBlocks = 512, kBlockBytes = int64_t{1} << 20;

/// Exclusive or of all bytes: cheap, and nothing the compiler may leave out. `kFetched`: with what
/// lies ahead fetched line by line, which some processors read faster than they fetch by
/// themselves.
template <bool kFetched>
[[gnu::always_inline]] inline uint64_t fold(const uint8_t* data, int64_t bytes) {
  constexpr int64_t kAhead = 6144;
  typedef uint64_t Words __attribute__((vector_size(64)));
  Words sums[4] = {};
  for (int64_t at = 0; at + 256 <= bytes; at += 256) {
    for (int i = 0; i < 4; ++i) {
      if constexpr (kFetched) __builtin_prefetch(data + at + kAhead + 64 * i, 0, /*locality=*/0);
      Words words;
      std::memcpy(&words, data + at + 64 * i, 64);
      sums[i] ^= words;
    }
  }
  uint64_t out = 0;
  for (const Words& words : sums)
    for (int lane = 0; lane < 8; ++lane) out ^= words[lane];
  return out;
}

EM_CPU_CLONES uint64_t fold_bytes(const uint8_t* data, int64_t bytes) {
  return fold<false>(data, bytes);
}
EM_CPU_CLONES uint64_t fold_fetched_bytes(const uint8_t* data, int64_t bytes) {
  return fold<true>(data, bytes);
}

double best_seconds(int passes, const std::function<void()>& pass) {
  double best = 1e30;
  for (int i = 0; i < passes; ++i) {
    const auto start = std::chrono::steady_clock::now();
    pass();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    best = std::min(best, seconds.count());
  }
  return best;
}

}  // namespace

double read_bandwidth() {
  const c10::InferenceMode inference;
  static const at::Tensor buffer = huge_bytes(kBlocks, kBlockBytes).fill_(1);
  const uint8_t* data = buffer.const_data_ptr<uint8_t>();
  std::vector<uint64_t> folded(static_cast<size_t>(kBlocks));
  const auto seconds = [&](auto fold) {
    return best_seconds(4, [&] {
      at::parallel_for(0, kBlocks, 1, [&](int64_t begin, int64_t end) {
        folded[static_cast<size_t>(begin)] =
            fold(data + begin * kBlockBytes, (end - begin) * kBlockBytes);
      });
    });
  };
  return static_cast<double>(kBlocks * kBlockBytes) /
         std::min(seconds(fold_bytes), seconds(fold_fetched_bytes));
}

double matrix_rate(bool bf16) {
  const c10::InferenceMode inference;
  constexpr int64_t M = 2048, I = 2048, O = 5632;
  const at::ScalarType type = bf16 ? at::kBFloat16 : at::kFloat;
  static const at::Tensor x = at::randn({M, I}), w = at::randn({O, I});
  const at::Tensor x_MI = x.to(type), w_OI = w.to(type);
  double seconds = best_seconds(3, [&] { at::mm(x_MI, w_OI.t()); });
  if (bf16) {
    const PackedWeight packed = pack_weight(w_OI, {});
    seconds = std::min(seconds, best_seconds(3, [&] { packed_linear(x_MI, packed, {}); }));
  }
  return 2.0 * M * I * O / seconds;
}

}  // namespace euromodal
