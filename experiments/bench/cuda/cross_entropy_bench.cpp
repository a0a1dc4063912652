// cross_entropy_bench.cpp — the row passes of the fused losses on a chunk of EuroLLM's logits:
// losses alone (one read), and with the gradient in place (one read, one write); and the whole
// fused loss of 8192 rows, logits by matrix products, beside what these products take.
#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "backbone/kernels/cross_entropy/cross_entropy.h"
#include "backbone/kernels/cross_entropy/cross_entropy_kernel.h"
#include "backbone/kernels/distillation/distillation_kernel.h"
#include "experiments/bench/cuda/gpu_bench.h"

using namespace euromodal;
using namespace euromodal::bench;

EM_GPU_BENCH(cross_entropy) {
  constexpr int64_t kRows = 2048, kVocab = 128000;
  constexpr size_t kBytes = size_t{kRows} * kVocab * 2;
  void* logits = bench.random(kBytes);
  const auto* labels = static_cast<const int64_t*>(bench.zeros(kRows * sizeof(int64_t)));
  auto* loss = static_cast<float*>(bench.zeros(kRows * sizeof(float)));
  for (const bool gradient : {false, true}) {
    const CrossEntropyRowsArgs args{.logits_RV = logits,
                                    .labels_R = labels,
                                    .row_weight_R = nullptr,
                                    .loss_R = loss,
                                    .rows = kRows,
                                    .vocab = kVocab,
                                    .smoothing = 0.0F,
                                    .z_loss = 0.0F,
                                    .gradient = gradient,
                                    .type = DType::kBf16};
    const double us = bench.time_us(
        [&](int /*i*/, cudaStream_t stream) { return cross_entropy_rows(args, stream); });
    bench.report("cross_entropy", gradient ? "2048 x 128000 bf16, gradient" : "2048 x 128000 bf16",
                 us, static_cast<double>(kBytes) * (gradient ? 2 : 1));
  }
}

EM_GPU_BENCH(distillation) {
  constexpr int64_t kRows = 1024, kVocab = 128000;
  constexpr size_t kBytes = size_t{kRows} * kVocab * 2;
  void *student = bench.random(kBytes), *teacher = bench.random(kBytes);
  auto* loss = static_cast<float*>(bench.zeros(kRows * sizeof(float)));
  for (const bool gradient : {false, true}) {
    const DistillationRowsArgs args{.student_RV = student,
                                    .teacher_RV = teacher,
                                    .row_weight_R = nullptr,
                                    .loss_R = loss,
                                    .rows = kRows,
                                    .vocab = kVocab,
                                    .inverse_temperature = 1.0F,
                                    .gradient = gradient,
                                    .type = DType::kBf16};
    const double us = bench.time_us(
        [&](int /*i*/, cudaStream_t stream) { return distillation_rows(args, stream); });
    bench.report("distillation", gradient ? "1024 x 128000 bf16, gradient" : "1024 x 128000 bf16",
                 us, static_cast<double>(kBytes) * (gradient ? 3 : 2));
  }
}

EM_GPU_BENCH(linear_cross_entropy) {
  constexpr int64_t R = 8192, D = 6144, V = 128000;
  const auto on = at::TensorOptions().device(at::kCUDA);
  const at::Tensor hidden_RD = at::randn({R, D}, on.dtype(at::kBFloat16));
  const at::Tensor weight_VD = at::empty({V, D}, on.dtype(at::kBFloat16)).normal_(0.0, 0.013);
  const at::Tensor labels_R = at::randint(0, V, {R}, on.dtype(at::kLong));
  must(cudaDeviceSynchronize(), "random matrices");
  struct Case {
    const char* name;
    bool hidden, weight;
    double products;
  };
  for (const Case& c : {Case{"", false, false, 1}, Case{", gradient of hidden", true, false, 2},
                        Case{", both gradients", true, true, 3}}) {
    const c10::AutoGradMode graph(c.hidden);
    const double us = bench.time_long_us([&] {
      const at::Tensor hidden = hidden_RD.detach().requires_grad_(c.hidden),
                       weight = weight_VD.detach().requires_grad_(c.weight);
      const at::Tensor loss = linear_cross_entropy(
          {.hidden_RD = hidden, .weight_VD = weight, .labels_R = labels_R, .row_weight_R = {}},
          Segments::one(R));
      if (c.hidden) loss.backward();
    });
    const double matrices = static_cast<double>(R * D + V * D) * 2.0 * c.products;
    bench.report("linear_cross_entropy", std::string("8192 x 6144 x 128000 bf16") + c.name, us,
                 matrices, 2.0 * static_cast<double>(R) * D * V * c.products);
  }
}
