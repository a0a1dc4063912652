// adamw_bench.cpp — one AdamW update over a flat buffer (f32 gradient, bf16 values: 30 bytes a
// number; f32 values: 28) and the squares of the gradient (4 bytes a number).
#include <fmt/core.h>

#include "backbone/kernels/adamw/adamw_kernel.h"
#include "experiments/bench/cuda/gpu_bench.h"

using namespace euromodal;
using namespace euromodal::bench;

EM_GPU_BENCH(adamw) {
  for (const int64_t count : {int64_t{6'250'000}, int64_t{200'000'000}}) {
    const auto bytes = static_cast<size_t>(count) * 4;
    const auto array = [&] { return static_cast<float*>(bench.zeros(bytes)); };
    float *master = array(), *exp_avg = array(), *exp_avg_sq = array();
    const float* gradient = array();
    void* values = bench.zeros(bytes / 2);
    for (const bool rounded : {true, false}) {
      AdamWArgs args;
      args.master = master;
      args.gradient = gradient;
      args.exp_avg = exp_avg;
      args.exp_avg_sq = exp_avg_sq;
      args.values = rounded ? values : nullptr;
      args.count = count;
      args.beta1 = 0.9F;
      args.beta2 = 0.95F;
      args.step_size = 1e-4F;
      args.eps = 1e-8F;
      const double us =
          bench.time_us([&](int, cudaStream_t stream) { return adamw_update(args, stream); });
      bench.report("adamw", fmt::format("{} numbers, {} values", count, rounded ? "bf16" : "f32"),
                   us, static_cast<double>(count) * (rounded ? 30.0 : 28.0));
    }
    auto* partial = static_cast<double*>(bench.zeros(kSquareParts * 8));
    auto* square = static_cast<double*>(bench.zeros(8));
    const double us = bench.time_us([&](int, cudaStream_t stream) {
      const cudaError_t error = square_sums({gradient, count, partial, DType::kF32}, stream);
      if (error != cudaSuccess) return error;
      return square_totals({partial, 1, square}, stream);
    });
    bench.report("gradient squares", fmt::format("{} numbers, f32", count), us,
                 static_cast<double>(count) * 4.0);
  }
}
