// next_token.cpp — see next_token.h. T rows of a batch, R of them labelled, D width, V vocabulary.
#include "training/objectives/next_token.h"

#include <algorithm>
#include <array>
#include <cmath>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "backbone/greedy.h"
#include "backbone/kernels/cross_entropy/cross_entropy.h"
#include "core/time_split.h"
#include "multimodal/model.h"
#include "multimodal/record_prompt.h"
#include "training/data/datasets.h"
#include "training/objectives/media_inputs.h"
#include "training/objectives/model_flops.h"

namespace euromodal {

namespace {

constexpr size_t kKinds = 4;  // text alone, and the three modalities
constexpr const char* kKindNames[kKinds] = {"loss_text", "loss_image", "loss_audio", "loss_video"};

size_t next_token_kind(const Example& example) {
  return example.kinds.empty() ? 0 : 1 + static_cast<size_t>(example.kinds.front());
}

/// The labelled rows of a batch, read from the plans (host side), of one kind or of all.
struct LabelledRows {
  std::vector<int64_t> rows, labels;
  std::vector<int64_t> lengths;  // labelled rows of each sample
};

LabelledRows next_token_rows(const Batch& batch, std::optional<size_t> kind) {
  LabelledRows out;
  for (size_t s = 0; s < batch.examples.size(); ++s) {
    const Example& example = batch.examples[s];
    const size_t before = out.rows.size();
    if (!kind || *kind == next_token_kind(example)) {
      const int64_t base = batch.rows.begin(static_cast<int64_t>(s));
      for (size_t t = 0; t < example.plan.labels.size(); ++t) {
        if (example.plan.labels[t] < 0) continue;
        out.rows.push_back(base + static_cast<int64_t>(t));
        out.labels.push_back(example.plan.labels[t]);
      }
    }
    out.lengths.push_back(static_cast<int64_t>(out.rows.size() - before));
  }
  return out;
}

at::Tensor next_token_index(const std::vector<int64_t>& values) {
  return at::tensor(values, at::TensorOptions().dtype(at::kLong));
}

class NextToken final : public Objective {
 public:
  NextToken(const Config& config, uint64_t seed, bool deterministic)
      : model_(MultimodalModel::from_config(config.child("model"), seed)),
        pretrained_(config.child("model").has("folder") ||
                    config.child("model").child("backbone").has("model")),
        label_smoothing_(config.f64("label_smoothing", 0.0)),
        deterministic_(deterministic),
        features_(config.i64("feature_cache_mb", 512) * 1'000'000),
        inputs_(config.i64("input_cache_mb", 512) * 1'000'000),
        prefixes_(config.i64("prefix_cache_mb", 64) * 1'000'000),
        keep_prefixes_(config.i64("prefix_cache_mb", 64) > 0) {
    check<ConfigError>(label_smoothing_ >= 0.0 && label_smoothing_ < 1.0,
                       "{}: expected a number in [0, 1), got {}", config.where("label_smoothing"),
                       label_smoothing_);
    head_VD_ = model_->backbone().head_VD();
  }

  Example prepare(const Sample& sample, const Rng&, bool) const override {
    Example out;
    out.id = sample.record.id;
    out.index = sample.index;
    std::vector<int64_t> tokens;
    const std::vector<const MediaRef*> refs = media_refs(sample.record);
    check<DataError>(refs.size() == sample.media.size(), "{} media in the record but {} sources",
                     refs.size(), sample.media.size());
    for (size_t i = 0; i < refs.size(); ++i) {
      const Modality kind = refs[i]->kind;
      check<DataError>(model_->takes(kind), "the model takes no {}", modality_name(kind));
      out.kinds.push_back(kind);
      out.inputs.push_back(inputs_.get(model_->encoder(kind), *refs[i], sample.media[i]));
      out.media_keys.push_back(media_key(*refs[i], sample.media[i]));
      tokens.push_back(model_->num_tokens(kind, out.inputs.back()));
    }
    out.plan = plan_record(sample.record, tokens, model_->plan_context());
    const int64_t longest = model_->backbone().config().max_positions;
    check<DataError>(static_cast<int64_t>(out.plan.ids.size()) <= longest,
                     "{} tokens, but the backbone takes {} positions", out.plan.ids.size(),
                     longest);
    check<DataError>(std::any_of(out.plan.labels.begin(), out.plan.labels.end(),
                                 [](int64_t label) { return label >= 0; }),
                     "no token to learn from (no assistant's turn)");
    return out;
  }

  LossSums loss(const Batch& batch, bool) override {
    LossSums out;
    const at::Tensor hidden_TD =
        model_->forward(batch, &features_, keep_prefixes_ ? &prefixes_ : nullptr);
    std::array<bool, kKinds> present{};
    for (const Example& example : batch.examples) present[next_token_kind(example)] = true;
    const bool one_kind = std::count(present.begin(), present.end(), true) == 1;
    if (deterministic_ || one_kind) {  // one sum: kinds would change the order of additions
      out = sum(batch, hidden_TD, std::nullopt);
    }
    for (size_t kind = 0; kind < kKinds; ++kind) {
      if (!present[kind]) continue;
      if (one_kind) {
        out.metrics.push_back({kKindNames[kind], out.loss_sum.detach(), out.count});
      } else if (deterministic_) {
        const c10::NoGradGuard no_graph;
        const LossSums part = sum(batch, hidden_TD, kind);
        if (part.count > 0) out.metrics.push_back({kKindNames[kind], part.loss_sum, part.count});
      } else {
        const LossSums part = sum(batch, hidden_TD, kind);
        if (part.count == 0) continue;
        out.metrics.push_back({kKindNames[kind], part.loss_sum.detach(), part.count});
        out.loss_sum = out.loss_sum.defined() ? out.loss_sum + part.loss_sum : part.loss_sum;
        out.count += part.count;
      }
    }
    return out;
  }

  const std::vector<NamedTensor>& parameters() const override { return model_->parameters(); }

  Llama* backbone() override { return &model_->backbone(); }

  std::vector<NamedTensor> make_aliases() override {
    const at::Tensor& embedding_VD = model_->backbone().embedding_VD();
    if (!deterministic_ || !embedding_VD.requires_grad() ||
        !model_->backbone().head_VD().is_same(embedding_VD))
      return {};
    // A tied table is used at both ends of the model: its two gradients, each summed sample by
    // sample, must not mix in an order that depends on packing.
    for (const NamedTensor& parameter : model_->parameters()) {
      if (!parameter.tensor.is_same(embedding_VD)) continue;
      head_VD_ = embedding_VD.detach();
      return {{parameter.name, head_VD_}};
    }
    return {};
  }

  std::optional<double> chance_loss() const override {
    if (!pretrained_) return std::nullopt;
    return std::log(static_cast<double>(head_VD_.size(0)));
  }

  double flops(const Batch& batch) override {
    if (!flops_) flops_.emplace(*model_);  // now it is known what is trained
    return flops_->of(batch, &features_);
  }

  bool answers() const override { return true; }

  std::string answer(const Sample& sample, int64_t max_new_tokens) const override {
    const c10::NoGradGuard no_graph;
    std::vector<Example> one;
    one.push_back(caption_record(*model_, sample.record, sample.media));
    const Llama& llama = model_->backbone();
    const auto tokens = static_cast<int64_t>(one.front().plan.ids.size());
    check<DataError>(tokens <= llama.config().max_positions,
                     "{}: {} tokens, but the backbone takes {} positions", sample.record.id, tokens,
                     llama.config().max_positions);
    const std::vector<int64_t> ids =
        greedy_decode(llama, model_->embed(collate(std::move(one), /*per_sample=*/false)),
                      max_new_tokens, llama.config().eos_ids);
    return model_->plan_context().tokenizer->decode(ids, /*skip_special=*/true);
  }

  void save_model(const std::filesystem::path& dir) const override { model_->save(dir); }

 private:
  LossSums sum(const Batch& batch, const at::Tensor& hidden_TD, std::optional<size_t> kind) const {
    LossSums out;
    const LabelledRows labelled = next_token_rows(batch, kind);
    out.count = static_cast<double>(labelled.rows.size());
    if (labelled.rows.empty()) return out;
    const TimeScope scope("loss");
    const auto device = hidden_TD.device();
    out.loss_sum = linear_cross_entropy(
        {.hidden_RD = hidden_TD.index_select(0, next_token_index(labelled.rows).to(device)),
         .weight_VD = head_VD_,
         .labels_R = next_token_index(labelled.labels).to(device),
         .row_weight_R = {},
         .label_smoothing = label_smoothing_},
        Segments::from_lengths(labelled.lengths, batch.rows.per_sample));
    return out;
  }

  std::unique_ptr<MultimodalModel> model_;
  bool pretrained_;
  double label_smoothing_;
  bool deterministic_;
  FeatureCache features_;
  mutable MediaInputs inputs_;
  PrefixCache prefixes_;
  bool keep_prefixes_;
  std::optional<ModelFlops> flops_;
  at::Tensor head_VD_;
};

}  // namespace

std::unique_ptr<Objective> make_next_token(const Config& config, uint64_t seed,
                                           bool deterministic) {
  return std::make_unique<NextToken>(config, seed, deterministic);
}

}  // namespace euromodal
