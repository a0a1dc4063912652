// activations_bench.cpp — SwiGLU at the inner widths of EuroLLM-22B and 1.7B (gate and up apart,
// and as halves of a fused row), GELU at the encoders' widths. Bytes: each input read once, each
// output written once, so `share` is that of a copy of the same bytes.
#include <fmt/core.h>

#include "backbone/kernels/gelu/gelu_kernel.h"
#include "backbone/kernels/swiglu/swiglu_kernel.h"
#include "experiments/bench/cuda/gpu_bench.h"

namespace euromodal::bench {
namespace {

struct Rows {
  int64_t T, F;
};
constexpr Rows kInner[] = {{1, 16384}, {4096, 16384}, {4096, 5632}};
constexpr Rows kEncoder[] = {{729, 4304}, {8192, 4304}, {12000, 5120}};

std::string rows_text(const Rows& rows, const char* more) {
  return fmt::format("{} x {} bf16{}", rows.T, rows.F, more);
}

std::vector<void*> sets(GpuBench& bench, int copies, size_t bytes) {
  std::vector<void*> out;
  for (int i = 0; i < copies; ++i) out.push_back(bench.random(bytes));
  return out;
}

}  // namespace
}  // namespace euromodal::bench

using namespace euromodal;
using namespace euromodal::bench;

EM_GPU_BENCH(swiglu) {
  for (const Rows& rows : kInner) {
    for (const bool fused : {false, true}) {
      const size_t bytes = static_cast<size_t>(rows.T * rows.F) * 2;
      const int copies = bench.copies(5 * bytes);
      const auto in = sets(bench, copies, 2 * bytes), dy = sets(bench, copies, bytes),
                 out = sets(bench, copies, 2 * bytes);
      const int64_t stride = fused ? 2 * rows.F : rows.F;
      const auto second = [&](void* p) {
        return static_cast<char*>(p) + (fused ? static_cast<size_t>(rows.F) * 2 : bytes);
      };
      const char* more = fused ? ", fused rows" : "";
      double us = bench.time_us([&](int i, cudaStream_t stream) {
        return swiglu_forward({in[i % copies], second(in[i % copies]), dy[i % copies], rows.T,
                               rows.F, stride, stride, rows.F, DType::kBf16},
                              stream);
      });
      bench.report("swiglu forward", rows_text(rows, more), us, 3.0 * static_cast<double>(bytes));
      us = bench.time_us([&](int i, cudaStream_t stream) {
        return swiglu_backward({dy[i % copies], in[i % copies], second(in[i % copies]),
                                out[i % copies], second(out[i % copies]), rows.T, rows.F, rows.F,
                                stride, stride, stride, stride, DType::kBf16},
                               stream);
      });
      bench.report("swiglu backward", rows_text(rows, more), us, 5.0 * static_cast<double>(bytes));
    }
  }
}

EM_GPU_BENCH(gelu) {
  constexpr std::pair<GeluKind, const char*> kKinds[] = {{GeluKind::kGelu, ", erf"},
                                                         {GeluKind::kGeluTanh, ", tanh"},
                                                         {GeluKind::kQuickGelu, ", quick"}};
  for (const Rows& rows : kEncoder) {
    const size_t bytes = static_cast<size_t>(rows.T * rows.F) * 2;
    const int copies = bench.copies(3 * bytes);
    const auto x = sets(bench, copies, bytes), dy = sets(bench, copies, bytes),
               y = sets(bench, copies, bytes);
    for (const auto& [kind, more] : kKinds) {
      const auto args = [&, kind = kind](int i) {
        return GeluArgs{x[i % copies],   dy[i % copies], y[i % copies],
                        rows.T * rows.F, kind,           DType::kBf16};
      };
      double us =
          bench.time_us([&](int i, cudaStream_t stream) { return gelu_forward(args(i), stream); });
      bench.report("gelu forward", rows_text(rows, more), us, 2.0 * static_cast<double>(bytes));
      us =
          bench.time_us([&](int i, cudaStream_t stream) { return gelu_backward(args(i), stream); });
      bench.report("gelu backward", rows_text(rows, more), us, 3.0 * static_cast<double>(bytes));
    }
  }
}
