// skinny_linear_bench.cpp — the linears of a decoding step of EuroLLM-22B, each weight form.
#include <algorithm>

#include <fmt/format.h>

#include "backbone/kernels/skinny_linear/skinny_layout.h"
#include "backbone/kernels/skinny_linear/skinny_linear_kernel.h"
#include "backbone/kernels/skinny_linear/skinny_weight.h"
#include "experiments/bench/cuda/gpu_bench.h"

namespace euromodal::bench {
namespace {

struct Shape {
  const char* name;
  int64_t N, K;
  bool norm, residual, swiglu, wide;
};

void skinny(GpuBench& bench, const char* word) {
  const SkinnyForm form = parse_skinny_form(word);
  const DType type = form.type;
  for (const Shape& s : {Shape{"qkv", 8192, 6144, true, false, false, false},
                         Shape{"o", 6144, 6144, false, true, false, false},
                         Shape{"gate-up", 32768, 6144, true, false, true, false},
                         Shape{"down", 6144, 16384, false, true, false, false},
                         Shape{"head", 128000, 6144, true, false, false, true}}) {
    const auto codes = static_cast<size_t>(s.N * skinny_row_bytes(type, s.K));
    const int64_t groups = form.group > 0 ? s.N * skinny_groups(s.K, form.group) : 0;
    const int64_t scales = form.group > 0 ? groups * 2 : type == DType::kBf16 ? 0 : s.N * 4;
    const double weight = static_cast<double>(codes) +
                          static_cast<double>(scales + (form.asymmetric ? groups : int64_t{0}));
    const int copies = bench.copies(static_cast<size_t>(weight));
    std::vector<void*> weights;
    for (int i = 0; i < copies; ++i)
      weights.push_back(type == DType::kBf16 ? bench.random(codes) : bench.zeros(codes));
    void* scale = bench.random(static_cast<size_t>(std::max<int64_t>(scales, 4)));
    void* zero = bench.zeros(static_cast<size_t>(std::max<int64_t>(groups, 4)));
    void* x = bench.random(static_cast<size_t>(16 * s.K * 2));
    void* norm = bench.random(static_cast<size_t>(s.K * 2));
    void* y = bench.zeros(static_cast<size_t>(16 * s.N * 4));
    for (const int64_t M : {1, 8, 16}) {
      SkinnyLinearArgs args;
      args.x_MK = x;
      args.scale = type == DType::kBf16 ? nullptr : scale;
      args.zero = form.asymmetric ? zero : nullptr;
      args.norm_weight_K = s.norm ? norm : nullptr;
      args.norm_eps = 1e-5F;
      args.residual_MN = s.residual ? y : nullptr;
      args.y_MN = y;
      args.y_type = s.wide ? DType::kF32 : DType::kBf16;
      args.M = M;
      args.N = s.N;
      args.K = s.K;
      args.weight_type = type;
      args.group = static_cast<int>(form.group);
      args.epilogue = s.swiglu ? SkinnyEpilogue::kSwiglu : SkinnyEpilogue::kNone;
      args.dependent = true;
      const double us = bench.time_us([&](int i, cudaStream_t stream) {
        SkinnyLinearArgs mine = args;
        mine.weight_NK = weights[static_cast<size_t>(i) % weights.size()];
        return skinny_linear(mine, stream);
      });
      bench.report(fmt::format("skinny {}", word), fmt::format("{} {}x{}x{}", s.name, M, s.N, s.K),
                   us, weight + static_cast<double>(M) * static_cast<double>(s.K * 2 + s.N * 2));
    }
  }
}

}  // namespace

EM_GPU_BENCH(skinny_bf16) { skinny(bench, "bfloat16"); }
EM_GPU_BENCH(skinny_fp8) { skinny(bench, "float8"); }
EM_GPU_BENCH(skinny_int8) {
  for (const char* word : {"int8", "int8-g32"}) skinny(bench, word);
}
EM_GPU_BENCH(skinny_int4) {
  for (const char* word : {"int4", "int4-g32", "int4-g32-asym"}) skinny(bench, word);
}

}  // namespace euromodal::bench
