// packed_linear_bench.cpp — one row through the linears of all 24 blocks of the 1.7B shape, without
// anything in between but the rounding of inputs: bytes of packed weights per second as a share of
// the read bandwidth, measured before and after each sample (the larger counts). Medians.
//
//   packed_linear_bench [SAMPLES] [FORM ...]      (int8, int4, int4-g32 and bfloat16;
//   EUROMODAL_CPU_ISA)
#include <algorithm>
#include <array>
#include <chrono>
#include <initializer_list>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include "backbone/kernels/packed_linear/packed_product.h"
#include "backbone/kernels/team.h"
#include "inference/bench/machine_limits.h"
#include "inference/bench/text_bench.h"

namespace euromodal {
namespace {

using E = c10::BFloat16;

constexpr int64_t kLayers = 24, kHidden = 2048, kInner = 5632, kKeys = 1024;

/// Linears of the same inputs go together, as in backbone/decode_pass.
const std::vector<std::vector<std::array<int64_t, 2>>> kProducts = {
    {{kHidden, kHidden}, {kKeys, kHidden}, {kKeys, kHidden}},
    {{kHidden, kHidden}},
    {{kInner, kHidden}, {kInner, kHidden}},
    {{kHidden, kInner}}};

class Linears {
 public:
  explicit Linears(const PackedForm& form) {
    for (int64_t layer = 0; layer < kLayers; ++layer) {
      for (const auto& shapes : kProducts) {
        std::vector<PackedWeight>& weights = products_.emplace_back();
        for (const auto& [outputs, inputs] : shapes) {
          weights.push_back({form, outputs, inputs, {}});
          PackedWeight& w = weights.back();
          w.blocks = huge_bytes(outputs / kPackedOutputs, w.layout().block).fill_(1);
          bytes_ += static_cast<double>(w.bytes());
        }
      }
    }
  }
  double bytes() const { return bytes_; }

  void pass() {
    const auto threads = static_cast<size_t>(team_size());
    std::vector<PackedShare> shares(products_.size() * threads);
    run_team([&](const Team& team) {
      for (size_t p = 0; p < products_.size(); ++p) {
        const std::vector<PackedWeight>& weights = products_[p];
        PackedInputs<E> inputs(x_.const_data_ptr<E>(), 1, weights.front(), kernels_.widened);
        inputs.use(memory_.mutable_data_ptr<uint8_t>());
        team.share(inputs.row_pieces(),
                   [&](int64_t begin, int64_t end) { inputs.prepare(begin, end); });
        std::vector<PackedProduct<E>::Output> outputs;
        for (const PackedWeight& w : weights)
          outputs.push_back(
              {&w, nullptr,
               y_.mutable_data_ptr<E>() + kInner * static_cast<int64_t>(outputs.size())});
        const PackedProduct<E> product(inputs.rows(), 1, outputs, kernels_);
        product.work({&shares[p * threads], static_cast<size_t>(team.size())}, team.rank());
        team.meet();
      }
    });
  }

 private:
  std::vector<std::vector<PackedWeight>> products_;
  double bytes_ = 0.0;
  PackedKernels kernels_ = packed_kernels(cpu_isa());
  at::Tensor x_ = at::randn({kInner}).to(at::kBFloat16),
             y_ = at::zeros({3 * kInner}, at::kBFloat16), memory_ = at::empty({1 << 20}, at::kByte);
};

void bench_form(const std::string& name, int64_t samples) {
  Linears linears(parse_packed_form(name));
  linears.pass();
  const auto passes = std::max<int64_t>(1, static_cast<int64_t>(4e9 / linears.bytes()));
  std::vector<double> shares;
  for (int64_t sample = 0; sample < samples; ++sample) {
    const double before = read_bandwidth();
    const auto start = std::chrono::steady_clock::now();
    for (int64_t i = 0; i < passes; ++i) linears.pass();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    shares.push_back(linears.bytes() * static_cast<double>(passes) / seconds.count() /
                     std::max(before, read_bandwidth()));
  }
  fmt::print("{:10} {:5.0f} MB  {:5.1f} % of read bandwidth\n", name, linears.bytes() / 1e6,
             100.0 * median(shares));
}

}  // namespace
}  // namespace euromodal

int main(int argc, char** argv) {
  const c10::InferenceMode inference;
  const int64_t samples = argc > 1 ? std::atoll(argv[1]) : 12;
  std::vector<std::string> forms(argv + std::min(argc, 2), argv + argc);
  if (forms.empty()) forms = {"int8", "int4", "int4-g32", "bfloat16"};
  fmt::print("{} threads, {}, read bandwidth {:.1f} GB/s\n", at::get_num_threads(),
             euromodal::cpu_isa_name(euromodal::cpu_isa()), euromodal::read_bandwidth() / 1e9);
  for (const std::string& form : forms) euromodal::bench_form(form, samples);
}
