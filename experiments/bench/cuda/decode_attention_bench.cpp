// decode_attention_bench.cpp — what a decoding step of EuroLLM-22B does besides its linears:
// attention over the cache, with RoPE and cache write as steps run it and alone; RoPE and cache
// write alone; the choice of a token.
#include <ATen/ATen.h>
#include <fmt/format.h>

#include "backbone/kernels/argmax/argmax_kernel.h"
#include "backbone/kernels/decode_attention/decode_attention_kernel.h"
#include "backbone/kernels/rope_store/rope_store_kernel.h"
#include "experiments/bench/cuda/gpu_bench.h"

namespace euromodal::bench {
namespace {

constexpr int64_t kH = 48, kK = 8, kN = 128, kPage = 64;

void* sent(GpuBench& bench, const at::Tensor& host) {
  void* there = bench.zeros(host.nbytes());
  (void)cudaMemcpy(there, host.const_data_ptr(), host.nbytes(), cudaMemcpyHostToDevice);
  return there;
}

/// `step`: with RoPE and cache write.
void attend(GpuBench& bench, int64_t B, int64_t length, DType type, bool step) {
  const int64_t pages = (length + kPage - 1) / kPage, bytes = type == DType::kBf16 ? 2 : 1;
  const auto layer = static_cast<size_t>(B * pages * kK * kPage * kN * bytes);
  const int copies = bench.copies(2 * layer);
  std::vector<void*> k, v;
  for (int i = 0; i < copies; ++i) {
    k.push_back(type == DType::kBf16 ? bench.random(layer) : bench.zeros(layer));
    v.push_back(type == DType::kBf16 ? bench.random(layer) : bench.zeros(layer));
  }
  const at::Tensor table = at::randperm(B * pages).to(at::kInt);
  DecodeAttentionArgs args;
  if (step) {
    args.qkv_BO = bench.random(static_cast<size_t>(B * (kH + 2 * kK) * kN * 2));
    args.cos_PN = args.sin_PN =
        static_cast<const float*>(bench.random(static_cast<size_t>(length * kN * 4)));
  } else {
    args.q_BHN = bench.random(static_cast<size_t>(B * kH * kN * 2));
  }
  args.kv_type = type;
  args.kv_scale_2 =
      type == DType::kBf16 ? nullptr : static_cast<const float*>(sent(bench, at::ones({2})));
  args.length_B = static_cast<const int32_t*>(sent(bench, at::full({B}, length, at::kInt)));
  args.page_table_BP = static_cast<const int32_t*>(sent(bench, table));
  args.max_pages = pages;
  args.y_BHN = bench.zeros(static_cast<size_t>(B * kH * kN * 2));
  args.B = B;
  args.H = kH;
  args.K = kK;
  args.N = kN;
  args.page_size = kPage;
  args.scale = 0.088F;
  args.splits = decode_attention_splits(B, kK, length, 132);
  args.workspace =
      static_cast<float*>(bench.zeros(decode_attention_workspace(B, kH, kN, args.splits) * 4));
  args.dependent = true;
  const double us = bench.time_us([&](int i, cudaStream_t stream) {
    DecodeAttentionArgs mine = args;
    mine.k_pages = k[static_cast<size_t>(i) % k.size()];
    mine.v_pages = v[static_cast<size_t>(i) % v.size()];
    return decode_attention(mine, stream);
  });
  bench.report(
      step ? "rope + cache write + attention" : "decode attention",
      fmt::format("batch {} depth {} {}", B, length, type == DType::kBf16 ? "bf16" : "fp8"), us,
      2.0 * static_cast<double>(layer));
}

}  // namespace

EM_GPU_BENCH(decode_attention) {
  for (const DType type : {DType::kBf16, DType::kFp8E4M3}) {
    for (const bool step : {true, false}) {
      attend(bench, 1, 128, type, step);
      attend(bench, 1, 2048, type, step);
      attend(bench, 1, 8192, type, step);
      attend(bench, 1, 32768, type, step);
      attend(bench, 16, 4096, type, step);
      attend(bench, 64, 1024, type, step);
    }
  }
}

EM_GPU_BENCH(rope_store) {
  for (const int64_t T : {1, 16}) {
    RopeStoreArgs args;
    args.qkv_TO = bench.random(static_cast<size_t>(T * (kH + 2 * kK) * kN * 2));
    args.q_THN = bench.zeros(static_cast<size_t>(T * kH * kN * 2));
    args.k_pages = bench.zeros(static_cast<size_t>(T * kK * kPage * kN * 2));
    args.v_pages = bench.zeros(static_cast<size_t>(T * kK * kPage * kN * 2));
    args.cos_PN = args.sin_PN = static_cast<const float*>(bench.random(size_t{64} * kN * 4));
    args.position_T = static_cast<const int32_t*>(bench.zeros(static_cast<size_t>(T * 4)));
    args.sequence_T = static_cast<const int32_t*>(sent(bench, at::arange(T, at::kInt)));
    args.page_table_SP = static_cast<const int32_t*>(sent(bench, at::arange(T, at::kInt)));
    args.max_pages = 1;
    args.T = T;
    args.H = kH;
    args.K = kK;
    args.N = kN;
    args.page_size = kPage;
    const double us =
        bench.time_us([&](int, cudaStream_t stream) { return rope_store(args, stream); });
    bench.report("rope + cache write", fmt::format("{} rows", T), us,
                 static_cast<double>(T * (kH + 2 * kK) * kN * 4));
  }
}

EM_GPU_BENCH(argmax) {
  for (const int64_t B : {1, 16}) {
    const void* logits = bench.random(static_cast<size_t>(B * 128000 * 4));
    void* token = bench.zeros(static_cast<size_t>(B * 8));
    const double us = bench.time_us([&](int, cudaStream_t stream) {
      return argmax(
          {static_cast<const float*>(logits), static_cast<int64_t*>(token), nullptr, B, 128000},
          stream);
    });
    bench.report("argmax", fmt::format("{} x 128000 f32", B), us,
                 static_cast<double>(B * 128000 * 4));
  }
}

}  // namespace euromodal::bench
