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
    for (const int64_t M : {1, 4, 8, 16}) {
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

// The four linears of a block one after the other, as a step runs them, with more or less of each
// weight asked for ahead: what the ends and beginnings of kernels cost.
void chain(GpuBench& bench, const char* word) {
  const SkinnyForm form = parse_skinny_form(word);
  constexpr int64_t kD = 6144, kF = 16384;
  struct Layer {
    int64_t N, K;
    bool norm, swiglu;
  };
  const Layer layers[] = {{8192, kD, true, false},
                          {kD, kD, false, false},
                          {2 * kF, kD, true, true},
                          {kD, kF, false, false}};
  size_t bytes[4], block_bytes = 0;
  for (int l = 0; l < 4; ++l)
    block_bytes += bytes[l] =
        static_cast<size_t>(layers[l].N * skinny_row_bytes(form.type, layers[l].K));
  const int blocks = std::max(2, bench.copies(block_bytes));
  std::vector<SkinnyLinearArgs> calls;
  double scale_bytes = 0.0;
  void *h = bench.random(16 * kD * 2), *wide = bench.zeros(16 * kF * 2),
       *norm = bench.random(kD * 2);
  for (int block = 0; block < blocks; ++block) {
    for (int l = 0; l < 4; ++l) {
      const Layer& layer = layers[l];
      const int64_t groups =
          form.group > 0 ? layer.N * skinny_groups(layer.K, form.group) : int64_t{0};
      const int64_t scales = form.group > 0 ? groups * 2 : layer.N * 4;
      SkinnyLinearArgs args;
      args.weight_NK = form.type == DType::kBf16 ? bench.random(bytes[l]) : bench.zeros(bytes[l]);
      if (form.type != DType::kBf16) args.scale = bench.random(static_cast<size_t>(scales));
      if (block == 0 && form.group > 0) scale_bytes += static_cast<double>(scales);
      args.x_MK = layer.K == kF || l == 1 ? wide : h;
      args.y_MN = l % 2 == 0 ? wide : h;
      args.residual_MN = l % 2 == 0 ? nullptr : h;
      args.norm_weight_K = layer.norm ? norm : nullptr;
      args.norm_eps = 1e-5F;
      args.N = layer.N;
      args.K = layer.K;
      args.weight_type = form.type;
      args.group = static_cast<int>(form.group);
      args.epilogue = layer.swiglu ? SkinnyEpilogue::kSwiglu : SkinnyEpilogue::kNone;
      args.dependent = true;
      calls.push_back(args);
    }
  }
  for (const int64_t M : {1, 16}) {
    for (const int64_t megabytes : {0, 4, 8, 12, 16, 24}) {
      for (SkinnyLinearArgs& args : calls) {
        args.M = M;
        args.l2_ahead = megabytes << 20;
      }
      for (size_t i = 0; i < calls.size(); ++i)
        calls[i].ahead = skinny_ahead(calls[(i + 1) % calls.size()], megabytes << 20);
      const double us = bench.time_us([&](int i, cudaStream_t stream) {
        for (size_t l = 0; l < 4; ++l) {
          const cudaError_t error =
              skinny_linear(calls[(static_cast<size_t>(i) * 4 + l) % calls.size()], stream);
          if (error != cudaSuccess) return error;
        }
        return cudaSuccess;
      });
      bench.report(fmt::format("skinny {}", word),
                   fmt::format("block of {} rows, {} MB ahead", M, megabytes), us,
                   static_cast<double>(block_bytes) + scale_bytes);
    }
  }
}

}  // namespace

EM_GPU_BENCH(skinny_chain) {
  for (const char* word : {"bfloat16", "float8", "int8", "int4"}) chain(bench, word);
}

EM_GPU_BENCH(skinny_bf16) { skinny(bench, "bfloat16"); }
EM_GPU_BENCH(skinny_fp8) { skinny(bench, "float8"); }
EM_GPU_BENCH(skinny_int8) {
  for (const char* word : {"int8", "int8-g32"}) skinny(bench, word);
}
EM_GPU_BENCH(skinny_int4) {
  for (const char* word : {"int4", "int4-g32", "int4-g32-asym"}) skinny(bench, word);
}

}  // namespace euromodal::bench
