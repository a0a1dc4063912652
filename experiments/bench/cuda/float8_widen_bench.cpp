// float8_widen_bench.cpp — frozen weights in float8 widened for a product, at the widths of
// EuroLLM-22B's blocks. Bytes: codes read once, numbers written once.
#include <fmt/core.h>

#include "backbone/kernels/linear/float8_widen_kernel.h"
#include "experiments/bench/cuda/gpu_bench.h"

using namespace euromodal;
using namespace euromodal::bench;

EM_GPU_BENCH(float8_widen) {
  struct Shape {
    const char* name;
    int64_t O, I;
  };
  for (const Shape& s :
       {Shape{"q", 6144, 6144}, Shape{"gate", 16384, 6144}, Shape{"down", 6144, 16384}}) {
    for (const auto& [type, name] :
         {std::pair{DType::kBf16, "bf16"}, std::pair{DType::kF32, "f32"}}) {
      const auto numbers = static_cast<size_t>(s.O * s.I);
      const size_t wide = numbers * dtype_bytes(type);
      const int copies = bench.copies(numbers + wide);
      std::vector<void*> codes, out;
      for (int i = 0; i < copies; ++i) {
        codes.push_back(bench.random_bytes(numbers));
        out.push_back(bench.zeros(wide));
      }
      const auto* scale = static_cast<const float*>(bench.random(static_cast<size_t>(s.O) * 4));
      const double us = bench.time_us([&, type = type](int i, cudaStream_t stream) {
        return float8_widen({codes[static_cast<size_t>(i % copies)], scale,
                             out[static_cast<size_t>(i % copies)], s.O, s.I, type},
                            stream);
      });
      bench.report("float8 widen", fmt::format("{} {} x {} to {}", s.name, s.O, s.I, name), us,
                   static_cast<double>(numbers + wide));
    }
  }
}
