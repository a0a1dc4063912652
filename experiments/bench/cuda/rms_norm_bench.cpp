// rms_norm_bench.cpp — RMSNorm at EuroLLM-22B's and 1.7B's widths: a decoding step, and the rows
// of a training step. Forward reads x and writes y; backward reads dy and x and writes dx.
#include <fmt/core.h>

#include "backbone/kernels/rms_norm/rms_norm_kernel.h"
#include "experiments/bench/cuda/gpu_bench.h"

namespace euromodal::bench {
namespace {

struct Rows {
  int64_t T, D;
};
constexpr Rows kRows[] = {{1, 6144}, {32, 6144}, {4096, 6144}, {16384, 6144}, {4096, 2048}};

size_t bf16_bytes(const Rows& rows) { return static_cast<size_t>(rows.T * rows.D) * 2; }

std::string rows_text(const Rows& rows) { return fmt::format("{} x {} bf16", rows.T, rows.D); }

}  // namespace
}  // namespace euromodal::bench

using namespace euromodal;
using namespace euromodal::bench;

EM_GPU_BENCH(rms_norm_forward) {
  for (const Rows& rows : kRows) {
    const size_t bytes = bf16_bytes(rows);
    const int copies = bench.copies(2 * bytes);
    std::vector<void*> x, y;
    for (int i = 0; i < copies; ++i) {
      x.push_back(bench.random(bytes));
      y.push_back(bench.zeros(bytes));
    }
    const void* weight = bench.random(static_cast<size_t>(rows.D) * 2);
    auto* inv_rms = static_cast<float*>(bench.zeros(static_cast<size_t>(rows.T) * 4));
    const double us = bench.time_us([&](int i, cudaStream_t stream) {
      return euromodal::rms_norm_forward({.x_TD = x[i % copies],
                                          .weight_D = weight,
                                          .y_TD = y[i % copies],
                                          .inv_rms_T = inv_rms,
                                          .rows = rows.T,
                                          .width = rows.D,
                                          .eps = 1e-5F,
                                          .type = DType::kBf16},
                                         stream);
    });
    bench.report("rms_norm forward", rows_text(rows), us, 2.0 * static_cast<double>(bytes));
  }
}

EM_GPU_BENCH(rms_norm_backward) {
  for (const Rows& rows : kRows) {
    const size_t bytes = bf16_bytes(rows);
    const int copies = bench.copies(3 * bytes);
    std::vector<void*> x, dy, dx;
    for (int i = 0; i < copies; ++i) {
      x.push_back(bench.random(bytes));
      dy.push_back(bench.random(bytes));
      dx.push_back(bench.zeros(bytes));
    }
    const auto width_bytes = static_cast<size_t>(rows.D) * 2;
    const void* weight = bench.random(width_bytes);
    void* dweight = bench.zeros(width_bytes);
    const auto* inv_rms = static_cast<const float*>(bench.random(static_cast<size_t>(rows.T) * 4));
    auto* partial =
        static_cast<float*>(bench.zeros(static_cast<size_t>(kNormPartials * rows.D) * 4));
    const double us = bench.time_us([&](int i, cudaStream_t stream) {
      return euromodal::rms_norm_backward({.dy_TD = dy[i % copies],
                                           .x_TD = x[i % copies],
                                           .weight_D = weight,
                                           .inv_rms_T = inv_rms,
                                           .dx_TD = dx[i % copies],
                                           .dweight_D = dweight,
                                           .partial_PD = partial,
                                           .rows = rows.T,
                                           .width = rows.D,
                                           .type = DType::kBf16},
                                          stream);
    });
    bench.report("rms_norm backward", rows_text(rows), us, 3.0 * static_cast<double>(bytes));
  }
}
