// decode_attention_bench.cpp — attention of one new token over pages (8 key/value heads of 128, 16
// query heads, all layers of the 1.7B shape): bytes of keys and values per second as a share of the
// read bandwidth measured around each sample, beside ATen's attention over a contiguous cache.
// Shares are medians.
//
//   decode_attention_bench [SAMPLES]
#include <chrono>
#include <cmath>
#include <functional>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include "backbone/kernels/attention/attention.h"
#include "backbone/kernels/decode_attention/decode_attention.h"
#include "backbone/kv_cache.h"
#include "inference/bench/machine_limits.h"
#include "inference/bench/text_bench.h"

namespace euromodal {
namespace {

constexpr int64_t kLayers = 24, kHeads = 16, kKvHeads = 8, kWidth = 128;

struct Kind {
  const char* name;
  at::ScalarType dtype;
  bool int8;
};
constexpr Kind kKinds[] = {{"f32", at::kFloat, false},
                           {"bf16", at::kBFloat16, false},
                           {"bf16, int8 cache", at::kBFloat16, true}};

double seconds_of(const std::function<void()>& pass) {
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 4; ++i) pass();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / 4.0;
}

void bench_cache(const Kind& kind, int64_t depth, int64_t samples) {
  KvCache cache(kLayers, kKvHeads, kWidth, kind.dtype, kind.int8);
  const at::Tensor rows = at::randn({depth, kKvHeads, kWidth}).to(kind.dtype);
  std::vector<std::pair<at::Tensor, at::Tensor>> flat;
  for (int64_t layer = 0; layer < kLayers; ++layer) {
    cache.append(layer, rows, rows);
    flat.push_back(cache.layer(layer));
  }
  const at::Tensor q = at::randn({1, kHeads, kWidth}).to(kind.dtype), out = at::empty_like(q);
  const double scale = 1.0 / std::sqrt(static_cast<double>(kWidth));
  const auto bytes = static_cast<double>(depth * cache.layout().token_bytes());
  std::vector<CpuIsa> isas;
  for (int isa = 0; isa <= static_cast<int>(machine_isa()); ++isa)
    if (isa != static_cast<int>(CpuIsa::kAvx512Vnni)) isas.push_back(static_cast<CpuIsa>(isa));
  std::vector<std::vector<double>> shares(isas.size()), over_aten(isas.size());
  for (int64_t sample = 0; sample < samples; ++sample) {
    for (size_t i = 0; i < isas.size(); ++i) {
      const double before = read_bandwidth();
      const double own = seconds_of([&] {
        for (int64_t layer = 0; layer < kLayers; ++layer) {
          const DecodeSequence sequence{cache.pages(), depth, 0, 1};
          decode_attention(q, cache.layout(), layer, {&sequence, 1}, scale, out, isas[i]);
        }
      });
      const double aten = seconds_of([&] {
        for (const auto& [k, v] : flat) attention_cached(q, k, v, scale);
      });
      shares[i].push_back(bytes / own / ((before + read_bandwidth()) / 2.0));
      over_aten[i].push_back(aten / own);
    }
  }
  for (size_t i = 0; i < isas.size(); ++i)
    fmt::print("{:17} depth {:5} {:12} {:5.1f} % of read bandwidth, {:.2f} x ATen\n", kind.name,
               depth, cpu_isa_name(isas[i]), 100.0 * median(shares[i]), median(over_aten[i]));
}

}  // namespace
}  // namespace euromodal

int main(int argc, char** argv) {
  const c10::InferenceMode inference;
  const int64_t samples = argc > 1 ? std::atoll(argv[1]) : 7;
  fmt::print("{} threads, read bandwidth {:.1f} GB/s\n", at::get_num_threads(),
             euromodal::read_bandwidth() / 1e9);
  for (const auto& kind : euromodal::kKinds)
    for (const int64_t depth : {512, 2048, 8192}) euromodal::bench_cache(kind, depth, samples);
}
