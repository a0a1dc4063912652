// classification.cpp — an encoder learns to name classes from the mean of its rows: `classes: FILE`
// (one label a line), the class of a sample is its record's `label`. N samples, C classes.
#include <map>

#include <ATen/ATen.h>

#include "training/objectives/encoder_head.h"

namespace euromodal {
namespace {

class Classification final : public EncoderHead {
 public:
  Classification(const Config& config, const ObjectiveOptions& options,
                 const std::vector<std::string>& classes)
      : EncoderHead(config, options, static_cast<int64_t>(classes.size())),
        smoothing_(config.f64("label_smoothing", 0.0)) {
    check<ConfigError>(smoothing_ >= 0.0 && smoothing_ < 1.0, "{}: {} is outside [0, 1)",
                       config.where("label_smoothing"), smoothing_);
    for (size_t i = 0; i < classes.size(); ++i) {
      check<ConfigError>(classes_.emplace(classes[i], static_cast<int64_t>(i)).second,
                         "{}: '{}' stands twice", config.where("classes"), classes[i]);
    }
  }

  Example prepare(const Sample& sample, const Rng& rng, bool training) const override {
    const auto it = classes_.find(sample.record.label);
    check<DataError>(it != classes_.end(), "sample {}: label '{}' is not one of the {} classes",
                     sample.record.id, sample.record.label, classes_.size());
    Example out = prepare_medium(sample, rng, training);
    out.target = {it->second};
    return out;
  }

  LossSums loss(const Batch& batch, bool) override {
    const auto [rows_LE, samples] = encode(batch);
    std::vector<at::Tensor> means;
    if (same_length(samples)) {  // pictures: one reduction for all
      means.push_back(rows_LE.view({samples.count(), samples.length(0), rows_LE.size(1)}).mean(1));
    } else {
      for (int64_t s = 0; s < samples.count(); ++s)
        means.push_back(
            rows_LE.narrow(0, samples.begin(s), samples.length(s)).mean(0, /*keepdim=*/true));
    }
    const Segments one_each = Segments::from_lengths(std::vector<int64_t>(batch.examples.size(), 1),
                                                     batch.rows.per_sample);
    const at::Tensor logits_NC = head(at::cat(means), one_each).to(at::kFloat);
    std::vector<int64_t> target;
    for (const Example& example : batch.examples) target.push_back(example.target.front());
    const at::Tensor target_N = at::tensor(target, at::kLong);
    const at::Tensor log_NC = at::log_softmax(logits_NC, 1);
    const at::Tensor nll_N =
        -((1.0 - smoothing_) * log_NC.gather(1, target_N.unsqueeze(1)).squeeze(1) +
          smoothing_ * log_NC.mean(1));
    LossSums out;
    out.loss_sum = nll_N[0];
    for (int64_t n = 1; n < nll_N.size(0); ++n)
      out.loss_sum = out.loss_sum + nll_N[n];  // in sample order: the same bits packed or not
    out.count = static_cast<double>(target.size());
    out.metrics["accuracy"] = {logits_NC.argmax(1).eq(target_N).sum().item<double>(), out.count};
    return out;
  }

 private:
  static bool same_length(const Segments& samples) {
    for (int64_t s = 1; s < samples.count(); ++s) {
      if (samples.length(s) != samples.length(0)) return false;
    }
    return samples.count() > 0;
  }

  double smoothing_;
  std::map<std::string, int64_t> classes_;
};

}  // namespace

std::unique_ptr<Objective> make_classification(const Config& config,
                                               const ObjectiveOptions& options) {
  return std::make_unique<Classification>(config, options, read_lines(config.path("classes")));
}

}  // namespace euromodal
