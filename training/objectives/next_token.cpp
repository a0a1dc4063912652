// next_token.cpp — cross-entropy of the next token on labelled rows, through the whole coupled
// model (or its text backbone alone). T packed rows, R of them labelled, D width, V vocabulary.
// Only labelled rows reach the head, in chunks: logits [R, V] never exist at once.
#include <map>
#include <mutex>
#include <set>

#include <ATen/ATen.h>

#include "backbone/kernels/cross_entropy/cross_entropy.h"
#include "core/files.h"
#include "multimodal/model.h"
#include "training/objectives/objectives.h"

namespace euromodal {
namespace {

/// What the log calls a sample: the kind of its media, "text" without, "mixed" with several kinds.
std::string next_token_kind(const Example& example) {
  if (example.kinds.empty()) return "text";
  const std::set<Modality> kinds(example.kinds.begin(), example.kinds.end());
  return kinds.size() == 1 ? modality_name(*kinds.begin()) : "mixed";
}

class NextToken final : public Objective {
 public:
  NextToken(const Config& config, const ObjectiveOptions& options)
      : model_(MultimodalModel::from_config(config.child("model"), options.seed)),
        smoothing_(config.f64("label_smoothing", 0.0)),
        chunk_rows_(config.i64("chunk_rows", 1024)),
        cache_(std::make_unique<FeatureCache>(config.i64("feature_cache_mb", 0) << 20)) {
    check<ConfigError>(smoothing_ >= 0.0 && smoothing_ < 1.0, "{}: {} is outside [0, 1)",
                       config.where("label_smoothing"), smoothing_);
    check<ConfigError>(chunk_rows_ > 0, "{}: expected a number above 0",
                       config.where("chunk_rows"));
  }

  Example prepare(const Sample& sample, const Rng&, bool) const override {
    Example out;
    out.id = sample.record.id;
    out.index = sample.index;
    std::vector<int64_t> tokens;
    size_t item = 0;
    for (const Message& message : sample.record.messages) {
      for (const Part& part : message.parts) {
        if (!part.is_media) continue;
        const MediaSource& source = sample.media.at(item++);
        check<DataError>(model_->takes(part.media.kind),
                         "sample {}: holds {}, which this model does not take", out.id,
                         modality_name(part.media.kind));
        out.kinds.push_back(part.media.kind);
        out.media_keys.push_back(
            fmt::format("{}@{}-{}", source.name, part.media.t0_s, part.media.t1_s));
        out.inputs.push_back(prepare_media(part.media.kind, source, out.media_keys.back()));
        tokens.push_back(model_->num_tokens(part.media.kind, out.inputs.back()));
      }
    }
    out.plan = plan_record(sample.record, tokens, model_->plan_context());
    return out;
  }

  LossSums loss(const Batch& batch, bool) override {
    const int64_t* labels = batch.labels_T.const_data_ptr<int64_t>();
    std::vector<int64_t> picked, targets, per_sample;
    for (int64_t s = 0; s < batch.rows.count(); ++s) {
      const size_t before = picked.size();
      for (int64_t t = batch.rows.begin(s); t < batch.rows.cu[static_cast<size_t>(s) + 1]; ++t) {
        if (labels[t] < 0) continue;
        picked.push_back(t);
        targets.push_back(labels[t]);
      }
      per_sample.push_back(static_cast<int64_t>(picked.size() - before));
    }
    const at::Tensor hidden_TD = model_->forward(batch, cache_.get());
    const at::Tensor picked_R = at::tensor(picked, at::kLong).to(hidden_TD.device());
    at::Tensor row_loss_R;
    LossSums out;
    out.loss_sum =
        linear_cross_entropy({.hidden_RD = hidden_TD.index_select(0, picked_R),
                              .weight_VD = model_->backbone().head_VD(),
                              .labels_R = at::tensor(targets, at::kLong).to(hidden_TD.device()),
                              .row_weight_R = {},
                              .label_smoothing = smoothing_,
                              .chunk_rows = chunk_rows_,
                              .row_loss_R = &row_loss_R},
                             Segments::from_lengths(per_sample, batch.rows.per_sample));
    out.count = static_cast<double>(picked.size());
    const float* rows = row_loss_R.const_data_ptr<float>();
    int64_t row = 0;
    for (size_t s = 0; s < batch.examples.size(); ++s) {
      auto& [sum, count] = out.metrics["loss_" + next_token_kind(batch.examples[s])];
      for (int64_t i = 0; i < per_sample[s]; ++i) sum += rows[row++];
      count += static_cast<double>(per_sample[s]);
    }
    return out;
  }

  const std::vector<NamedTensor>& parameters() const override { return model_->parameters(); }
  void save_model(const std::filesystem::path& dir) const override { model_->save(dir); }

 private:
  // Features of frozen encoders that are cached need no decoding again: only the input's shape
  // counts from then on (a tensor without data).
  EncoderInput prepare_media(Modality kind, const MediaSource& source,
                             const std::string& key) const {
    {
      const std::scoped_lock lock(mutex_);
      const auto it = shapes_.find({kind, key});
      if (it != shapes_.end() && cache_->find(kind, key).defined()) return it->second;
    }
    EncoderInput made = model_->prepare(kind, source);
    const std::scoped_lock lock(mutex_);
    shapes_[{kind, key}] = {
        at::empty(made.x.sizes(),
                  at::TensorOptions().dtype(made.x.scalar_type()).device(at::kMeta)),
        made.valid};
    return made;
  }

  std::unique_ptr<MultimodalModel> model_;
  double smoothing_;
  int64_t chunk_rows_;
  std::unique_ptr<FeatureCache> cache_;
  mutable std::mutex mutex_;
  mutable std::map<std::pair<Modality, std::string>, EncoderInput> shapes_;
};

}  // namespace

std::unique_ptr<Objective> make_next_token(const Config& config, const ObjectiveOptions& options) {
  return std::make_unique<NextToken>(config, options);
}

}  // namespace euromodal
