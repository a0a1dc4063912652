// skinny_linear_bench.cpp — the linears of a decoding step of EuroLLM-22B, each weight form.
#include <fmt/format.h>

#include "backbone/kernels/skinny_linear/skinny_linear_kernel.h"
#include "experiments/bench/cuda/gpu_bench.h"

namespace euromodal::bench {
namespace {

struct Shape {
  const char* name;
  int64_t N, K;
  bool norm, residual, swiglu, wide;
};

void skinny(GpuBench& bench, DType type, const char* form, double bits) {
  for (const Shape& s : {Shape{"qkv", 8192, 6144, true, false, false, false},
                         Shape{"o", 6144, 6144, false, true, false, false},
                         Shape{"gate-up", 32768, 6144, true, false, true, false},
                         Shape{"down", 6144, 16384, false, true, false, false},
                         Shape{"head", 128000, 6144, true, false, false, true}}) {
    const double weight = static_cast<double>(s.N) * static_cast<double>(s.K) * bits / 8.0;
    const int copies = bench.copies(static_cast<size_t>(weight));
    const auto padded =
        static_cast<size_t>(static_cast<double>(s.N * s.K) * (type == DType::kBf16   ? 2.0
                                                              : type == DType::kInt4 ? 0.5
                                                                                     : 1.0));
    std::vector<void*> weights;
    for (int i = 0; i < copies; ++i)
      weights.push_back(type == DType::kBf16 ? bench.random(padded) : bench.zeros(padded));
    void* scale =
        bench.random(static_cast<size_t>(s.N * (type == DType::kInt4 ? s.K / 128 * 2 : 4)));
    void* x = bench.random(static_cast<size_t>(16 * s.K * 2));
    void* norm = bench.random(static_cast<size_t>(s.K * 2));
    void* y = bench.zeros(static_cast<size_t>(16 * s.N * 4));
    for (const int64_t M : {1, 8, 16}) {
      SkinnyLinearArgs args;
      args.x_MK = x;
      args.scale = type == DType::kBf16 ? nullptr : scale;
      args.norm_weight_K = s.norm ? norm : nullptr;
      args.norm_eps = 1e-5F;
      args.residual_MN = s.residual ? y : nullptr;
      args.y_MN = y;
      args.y_type = s.wide ? DType::kF32 : DType::kBf16;
      args.M = M;
      args.N = s.N;
      args.K = s.K;
      args.weight_type = type;
      args.group = type == DType::kInt4 ? 128 : 0;
      args.epilogue = s.swiglu ? SkinnyEpilogue::kSwiglu : SkinnyEpilogue::kNone;
      args.dependent = true;
      const double us = bench.time_us([&](int i, cudaStream_t stream) {
        SkinnyLinearArgs mine = args;
        mine.weight_NK = weights[static_cast<size_t>(i) % weights.size()];
        return skinny_linear(mine, stream);
      });
      bench.report(fmt::format("skinny {}", form), fmt::format("{} {}x{}x{}", s.name, M, s.N, s.K),
                   us, weight + static_cast<double>(M) * static_cast<double>(s.K * 2 + s.N * 2));
    }
  }
}

}  // namespace

EM_GPU_BENCH(skinny_bf16) { skinny(bench, DType::kBf16, "bf16", 16.0); }
EM_GPU_BENCH(skinny_fp8) { skinny(bench, DType::kFp8E4M3, "fp8", 8.0); }
EM_GPU_BENCH(skinny_int8) { skinny(bench, DType::kInt8, "int8", 8.0); }
EM_GPU_BENCH(skinny_int4) { skinny(bench, DType::kInt4, "int4", 4.125); }

}  // namespace euromodal::bench
