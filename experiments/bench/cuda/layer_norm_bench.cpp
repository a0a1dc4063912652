// layer_norm_bench.cpp — layer norm at the widths of SigLIP-SO400M and Whisper large. Forward reads
// x and writes y; backward reads dy and x and writes dx, also where weight and bias are trained.
#include <fmt/core.h>

#include "backbone/kernels/layer_norm/layer_norm_kernel.h"
#include "experiments/bench/cuda/gpu_bench.h"

namespace euromodal::bench {
namespace {

struct Rows {
  int64_t T, D;
};
constexpr Rows kLayerNormRows[] = {{729, 1152}, {11664, 1152}, {12000, 1280}};

}  // namespace
}  // namespace euromodal::bench

using namespace euromodal;
using namespace euromodal::bench;

EM_GPU_BENCH(layer_norm) {
  for (const auto& [T, D] : kLayerNormRows) {
    const size_t bytes = static_cast<size_t>(T * D) * 2, row_bytes = static_cast<size_t>(D) * 2;
    const int copies = bench.copies(3 * bytes);
    std::vector<void*> x, dy, y;
    for (int i = 0; i < copies; ++i) {
      x.push_back(bench.random(bytes));
      dy.push_back(bench.random(bytes));
      y.push_back(bench.zeros(bytes));
    }
    const void* weight = bench.random(row_bytes);
    const void* bias = bench.random(row_bytes);
    void* dweight = bench.zeros(row_bytes);
    void* dbias = bench.zeros(row_bytes);
    auto* stats = static_cast<float*>(bench.zeros(static_cast<size_t>(T) * 8));
    auto* partial =
        static_cast<float*>(bench.zeros(static_cast<size_t>(2 * kNormPartials * D) * 4));
    const std::string shape = fmt::format("{} x {} bf16", T, D);
    double us = bench.time_us([&](int i, cudaStream_t stream) {
      return euromodal::layer_norm_forward(
          {x[i % copies], weight, bias, y[i % copies], stats, stats + T, T, D, 1e-6F, DType::kBf16},
          stream);
    });
    bench.report("layer_norm forward", shape, us, 2.0 * static_cast<double>(bytes));
    for (const bool trained : {false, true}) {
      us = bench.time_us([&](int i, cudaStream_t stream) {
        return euromodal::layer_norm_backward(
            {dy[i % copies], x[i % copies], weight, stats, stats + T, y[i % copies],
             trained ? dweight : nullptr, trained ? dbias : nullptr, partial,
             partial + kNormPartials * D, T, D, DType::kBf16},
            stream);
      });
      bench.report("layer_norm backward", shape + (trained ? ", weights trained" : ""), us,
                   3.0 * static_cast<double>(bytes));
    }
  }
}
