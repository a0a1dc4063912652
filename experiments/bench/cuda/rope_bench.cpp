// rope_bench.cpp — the rotation of queries and keys in a training step of EuroLLM-22B and 1.7B: x
// read, y written (the table stays in L2).
#include <fmt/core.h>

#include "backbone/kernels/rope/rope_kernel.h"
#include "experiments/bench/cuda/gpu_bench.h"

namespace euromodal::bench {
namespace {

struct Heads {
  int64_t T, H, N;
};
constexpr Heads kRopeHeads[] = {{4096, 48, 128}, {4096, 8, 128}, {4096, 16, 128}};

}  // namespace
}  // namespace euromodal::bench

using namespace euromodal;
using namespace euromodal::bench;

EM_GPU_BENCH(rope) {
  for (const auto& [T, H, N] : kRopeHeads) {
    const size_t bytes = static_cast<size_t>(T * H * N) * 2;
    const int copies = bench.copies(2 * bytes);
    std::vector<void*> x, y;
    for (int i = 0; i < copies; ++i) {
      x.push_back(bench.random(bytes));
      y.push_back(bench.zeros(bytes));
    }
    const auto* table = static_cast<const float*>(bench.random(static_cast<size_t>(T * N) * 4));
    const auto* positions =
        static_cast<const int64_t*>(bench.zeros(static_cast<size_t>(3 * T) * 8));  // all the first
    for (const bool mrope : {false, true}) {
      const double us = bench.time_us([&](int i, cudaStream_t stream) {
        return rope_rotate({.x_THN = x[i % copies],
                            .x_row = H * N,
                            .x_head = N,
                            .y_THN = y[i % copies],
                            .y_row = H * N,
                            .y_head = N,
                            .cos_PN = table,
                            .sin_PN = table,
                            .P = T,
                            .position_T = positions,
                            .mrope = mrope,
                            .sections = {{16, 24, 24}, false},
                            .T = T,
                            .H = H,
                            .N = N},
                           stream);
      });
      bench.report("rope", fmt::format("{} x {} x {} bf16{}", T, H, N, mrope ? ", M-RoPE" : ""), us,
                   2.0 * static_cast<double>(bytes));
    }
  }
}
