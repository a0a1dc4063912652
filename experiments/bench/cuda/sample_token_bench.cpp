// sample_token_bench.cpp — drawing a token from EuroLLM's 128 000 logits: greedy, plain, and with
// all rules, for one row and for a full batch.
#include <cstring>

#include <ATen/ATen.h>
#include <fmt/core.h>

#include "backbone/kernels/sample_token/sample_token_kernel.h"
#include "experiments/bench/cuda/gpu_bench.h"

using namespace euromodal;
using namespace euromodal::bench;

EM_GPU_BENCH(sample_token) {
  constexpr int64_t kVocab = 128000, kMost = 64;
  struct Case {
    const char* name;
    SampleParams params;
  };
  const Case cases[] = {
      {"greedy", {}},
      {"temperature", {.temperature = 0.8}},
      {"top-p", {.temperature = 0.8, .top_p = 0.9}},
      {"top-k, top-p, min-p", {.temperature = 0.8, .top_k = 40, .top_p = 0.9, .min_p = 0.02}}};
  at::manual_seed(1);
  const at::Tensor logits_BV = (at::randn({kMost, kVocab}) * 3).cuda();
  auto* step = static_cast<int64_t*>(bench.zeros(kMost * 8));
  auto* token = static_cast<int64_t*>(bench.zeros(kMost * 8));
  auto* logprob = static_cast<float*>(bench.zeros(kMost * 4));
  for (const auto& [name, params] : cases) {
    at::Tensor with = at::empty({kMost, static_cast<int64_t>(sizeof(params))}, at::kByte);
    for (int64_t b = 0; b < kMost; ++b)
      std::memcpy(with[b].mutable_data_ptr(), &params, sizeof(params));
    with = with.cuda();
    for (const int64_t B : {int64_t{1}, int64_t{8}, kMost}) {
      for (const bool wants_logprob : {false, true}) {
        SampleTokenArgs args;
        args.logits_BV = logits_BV.const_data_ptr<float>();
        args.params_B = static_cast<const SampleParams*>(with.const_data_ptr());
        args.step_B = step;
        args.token_B = token;
        args.logprob_B = wants_logprob ? logprob : nullptr;
        args.B = B;
        args.V = kVocab;
        const double us = bench.time_us(
            [&](int /*i*/, cudaStream_t stream) { return sample_token(args, stream); });
        bench.report("sample_token",
                     fmt::format("{} x 128000 {}{}", B, name, wants_logprob ? ", log p" : ""), us,
                     4.0 * static_cast<double>(B * kVocab));
      }
    }
  }
}
