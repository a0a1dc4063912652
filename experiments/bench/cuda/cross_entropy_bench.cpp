// cross_entropy_bench.cpp — the row passes of the fused losses on a chunk of EuroLLM's logits:
// losses alone (one read), and with the gradient in place (one read, one write).
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
