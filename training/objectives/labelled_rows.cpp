// labelled_rows.cpp — see labelled_rows.h.
#include "training/objectives/labelled_rows.h"

#include <algorithm>
#include <cmath>

namespace euromodal {

size_t sample_kind(const Example& example) {
  return example.kinds.empty() ? 0 : 1 + static_cast<size_t>(example.kinds.front());
}

LossWeights LossWeights::parse(const Config& config) {
  LossWeights out;
  if (config.has("loss_weight")) {
    const std::string rule = config.choice("loss_weight", {"token", "sample", "sqrt"});
    out.rule = rule == "token" ? Rule::kToken : rule == "sample" ? Rule::kSample : Rule::kSqrt;
  }
  if (config.has("kind_weights")) {
    const Config kinds = config.child("kind_weights");
    for (size_t k = 0; k < kSampleKinds; ++k) {
      out.kind[k] = kinds.f64(kSampleKindNames[k], 1.0);
      check<ConfigError>(out.kind[k] == 0.0 || (out.kind[k] >= 1e-3 && out.kind[k] <= 1e3),
                         "{}: expected 0 or a number from 0.001 to 1000, got {}",
                         kinds.where(kSampleKindNames[k]), out.kind[k]);
    }
    check<ConfigError>(
        std::any_of(out.kind.begin(), out.kind.end(), [](double w) { return w > 0; }),
        "{}: all are 0", kinds.where());
  }
  return out;
}

double LossWeights::of_sample(size_t sample_kind, int64_t labelled) const {
  const auto n = static_cast<double>(labelled);
  const double tokens = rule == Rule::kToken ? n : rule == Rule::kSqrt ? std::sqrt(n) : 1.0;
  constexpr double kGrain = 1 << 24;
  return std::round(kind[sample_kind] * tokens * kGrain) / kGrain;
}

bool LossWeights::all_one() const {
  return rule == Rule::kToken &&
         std::all_of(kind.begin(), kind.end(), [](double w) { return w == 1.0; });
}

LabelledRows labelled_rows(const Batch& batch, const LossWeights& weights,
                           std::optional<size_t> kind) {
  LabelledRows out;
  for (size_t s = 0; s < batch.examples.size(); ++s) {
    const Example& example = batch.examples[s];
    const size_t before = out.rows.size();
    if (!kind || *kind == sample_kind(example)) {
      const int64_t base = batch.rows.begin(static_cast<int64_t>(s));
      for (size_t t = 0; t < example.plan.labels.size(); ++t) {
        if (example.plan.labels[t] < 0) continue;
        out.rows.push_back(base + static_cast<int64_t>(t));
        out.labels.push_back(example.plan.labels[t]);
      }
    }
    const auto labelled = static_cast<int64_t>(out.rows.size() - before);
    out.lengths.push_back(labelled);
    if (labelled == 0) continue;
    const double weight = weights.of_sample(sample_kind(example), labelled);
    out.weight += weight;
    out.weights.resize(out.rows.size(), static_cast<float>(weight / static_cast<double>(labelled)));
  }
  return out;
}

}  // namespace euromodal
