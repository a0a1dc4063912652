// labelled_rows.h — which rows of a batch a language model learns from, and what each weighs in the
// loss.
#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>

#include "core/config.h"
#include "multimodal/batch.h"

namespace euromodal {

/// What a sample is about: 0 text alone, else 1 + the modality of its first medium.
constexpr size_t kSampleKinds = 4;
constexpr std::array<const char*, kSampleKinds> kSampleKindNames = {"text", "image", "audio",
                                                                    "video"};
size_t sample_kind(const Example& example);

/// How the labelled tokens of a sample, N of them, weigh against other samples:
///   token   each 1: the loss is a mean over tokens, long answers count most
///   sample  each 1 / N: a mean over samples
///   sqrt    each 1 / sqrt(N): between the two (InternVL 2.5, arXiv:2412.05271, calls it square
///           averaging)
/// times the factor of the sample's kind.
struct LossWeights {
  enum class Rule { kToken, kSample, kSqrt } rule = Rule::kToken;
  std::array<double, kSampleKinds> kind = {1.0, 1.0, 1.0, 1.0};

  /// `loss_weight: token | sample | sqrt`, `kind_weights: {text: 1, image: 1, audio: 2}`.
  static LossWeights parse(const Config& config);
  /// All tokens of a sample together: a multiple of 2^-24, so that sums over ranks, parts and
  /// micro-batches are exact in f64 whatever their order.
  double of_sample(size_t sample_kind, int64_t labelled) const;
  bool all_one() const;  // every token weighs 1
};

/// The labelled rows of a batch, read from the plans (host side).
struct LabelledRows {
  std::vector<int64_t> rows, labels;
  std::vector<float> weights;    // one a row
  std::vector<int64_t> lengths;  // labelled rows of each sample of the batch
  double weight = 0.0;           // sum of the samples' weights
};

/// Of the samples of one kind, or of all.
LabelledRows labelled_rows(const Batch& batch, const LossWeights& weights,
                           std::optional<size_t> kind = std::nullopt);

}  // namespace euromodal
