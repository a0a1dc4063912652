// next_token.cpp — see next_token.h. T rows of a batch, R of them labelled, D width, V vocabulary.
#include "training/objectives/next_token.h"

#include <algorithm>
#include <array>
#include <cmath>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "backbone/greedy.h"
#include "backbone/kernels/cross_entropy/cross_entropy.h"
#include "backbone/kernels/row_losses.h"
#include "backbone/kernels/to_device.h"
#include "core/time_split.h"
#include "multimodal/model.h"
#include "multimodal/record_prompt.h"
#include "training/data/datasets.h"
#include "training/objectives/distillation.h"
#include "training/objectives/labelled_rows.h"
#include "training/objectives/media_augment.h"
#include "training/objectives/model_flops.h"

namespace euromodal {

namespace {

bool next_token_pretrained(const Config& model) {
  return model.has("folder") || model.child("backbone").has("model");
}

class NextToken final : public Objective {
 public:
  NextToken(const Config& config, uint64_t seed, bool deterministic)
      : model_(MultimodalModel::from_config(config.child("model"), seed)),
        pretrained_(next_token_pretrained(config.child("model"))),
        label_smoothing_(config.f64("label_smoothing", 0.0)),
        z_loss_(config.f64("z_loss", 0.0)),
        weights_(LossWeights::parse(config)),
        distill_(DistillOptions::parse(config)),
        distill_where_(config.where("distill")),
        augment_(MediaAugment::parse(config)),
        deterministic_(deterministic),
        features_(config.i64("feature_cache_mb", 512) * 1'000'000),
        inputs_(config.i64("input_cache_mb", 512) * 1'000'000),
        prefixes_(config.i64("prefix_cache_mb", 64) * 1'000'000),
        keep_prefixes_(config.i64("prefix_cache_mb", 64) > 0) {
    check<ConfigError>(label_smoothing_ >= 0.0 && label_smoothing_ < 1.0,
                       "{}: expected a number in [0, 1), got {}", config.where("label_smoothing"),
                       label_smoothing_);
    check<ConfigError>(z_loss_ >= 0.0 && z_loss_ < 1.0, "{}: expected a number in [0, 1), got {}",
                       config.where("z_loss"), z_loss_);
    head_VD_ = model_->backbone().head_VD();
  }

  Example prepare(const Sample& sample, const Rng& rng, bool training) const override {
    Example out;
    out.id = sample.record.id;
    out.index = sample.index;
    if (training) out.dropout_key = rng.fork("dropout").key();
    std::vector<int64_t> tokens;
    const std::vector<const MediaRef*> refs = media_refs(sample.record);
    check<DataError>(refs.size() == sample.media.size(), "{} media in the record but {} sources",
                     refs.size(), sample.media.size());
    for (size_t i = 0; i < refs.size(); ++i) {
      const Modality kind = refs[i]->kind;
      check<DataError>(model_->takes(kind), "the model takes no {}", modality_name(kind));
      out.kinds.push_back(kind);
      tokens.push_back(add_medium(*refs[i], sample.media[i], rng.fork("medium", i), training, out));
    }
    out.plan = plan_record(sample.record, tokens, model_->plan_context());
    const int64_t longest = model_->backbone().config().max_positions;
    check<DataError>(static_cast<int64_t>(out.plan.ids.size()) <= longest,
                     "{} tokens, but the backbone takes {} positions", out.plan.ids.size(),
                     longest);
    check<DataError>(std::any_of(out.plan.labels.begin(), out.plan.labels.end(),
                                 [](int64_t label) { return label >= 0; }),
                     "no token to learn from (no assistant's turn)");
    if (distill_)
      out.teacher = plan_teacher(sample.record, out.plan, model_->plan_context(), longest);
    return out;
  }

  void transform_media_on(at::Device device) override { inputs_.transform_on(device); }

  LossSums loss(const Batch& batch, bool training) override {
    Pass pass{batch,
              model_->forward(batch, &features_, keep_prefixes_ ? &prefixes_ : nullptr),
              {},
              training};
    if (distill_) pass.teacher = teacher_rows(*model_, batch);
    std::array<bool, kSampleKinds> present{};
    for (const Example& example : batch.examples) present[sample_kind(example)] = true;
    const bool one_kind = std::count(present.begin(), present.end(), true) == 1;
    LossSums out;
    if (deterministic_ || one_kind) {  // one sum: kinds would change the order of additions
      out = sum(pass, std::nullopt);
    }
    for (size_t kind = 0; kind < kSampleKinds; ++kind) {
      if (!present[kind]) continue;
      LossSums part = one_kind ? out : kind_sum(pass, kind);
      if (part.count == 0.0) continue;
      out.metrics.push_back(
          {fmt::format("loss_{}", kSampleKindNames[kind]), part.loss_sum.detach(), part.count});
      if (one_kind || deterministic_) continue;
      out.loss_sum = out.loss_sum.defined() ? out.loss_sum + part.loss_sum : part.loss_sum;
      out.count += part.count;
      for (Metric& metric : part.metrics) out.metrics.push_back(std::move(metric));
    }
    return out;
  }

  const std::vector<NamedTensor>& parameters() const override { return model_->parameters(); }

  Llama* backbone() override { return &model_->backbone(); }

  std::vector<NamedTensor> make_aliases() override {
    if (distill_) check_frozen_head();
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
  struct Pass {
    const Batch& batch;
    at::Tensor hidden_TD;
    TeacherRows teacher;
    bool training;
  };

  /// Reads a medium into `out`; returns its number of tokens.
  int64_t add_medium(const MediaRef& ref, const MediaSource& source, const Rng& rng, bool training,
                     Example& out) const {
    const Encoder& encoder = model_->encoder(ref.kind);
    const bool changed = training && augment_.changes(ref.kind);
    out.media_keys.push_back(changed || !ref.tensor.empty() ? "" : media_key(ref, source));
    if (!ref.tensor.empty()) {
      check<DataError>(!changed, "{}: stored features cannot be augmented", source.name);
      const FeatureIdentity identity = model_->feature_identity(ref.kind);
      out.inputs.emplace_back();
      out.features.resize(out.inputs.size());
      out.features.back() = read_features(source, ref.tensor, &identity);
      return model_->num_tokens(ref.kind, out.features.back().layout);
    }
    out.inputs.push_back(changed ? augment_.input(encoder, ref, source, inputs_, rng)
                                 : inputs_.get(encoder, ref, source));
    if (!out.features.empty()) out.features.emplace_back();
    return model_->num_tokens(ref.kind, out.inputs.back());
  }

  /// Loss of the samples of one kind, or of all; metrics: the terms of a distillation.
  LossSums sum(const Pass& pass, std::optional<size_t> kind) const {
    LossSums out;
    const LabelledRows labelled = labelled_rows(pass.batch, weights_, kind);
    out.count = labelled.weight;
    if (out.count == 0.0) return out;
    if (!distill_) {
      out.loss_sum = cross_entropy(pass, labelled, nullptr);
      return out;
    }
    const Segments rows = Segments::from_lengths(labelled.lengths, pass.batch.rows.per_sample);
    at::Tensor graph = at::zeros({}, pass.hidden_TD.options().dtype(at::kFloat)), row_R = graph;
    const Divergence kl = divergence(pass.batch, pass.hidden_TD, pass.teacher, labelled, head_VD_,
                                     distill_->temperature);
    if (kl.sum.defined()) {
      graph = graph + distill_->weight * kl.sum;
      row_R = row_R + distill_->weight * kl.row_loss_R;
      out.metrics.push_back({"kl", kl.sum.detach(), kl.weight});
    }
    if (distill_->ce_weight > 0.0 || !pass.training) {
      at::Tensor ce_R;
      const at::Tensor ce = cross_entropy(pass, labelled, &ce_R);
      graph = graph + distill_->ce_weight * ce;
      row_R = row_R + distill_->ce_weight * ce_R;
      out.metrics.push_back({"cross_entropy", ce.detach(), out.count});
    }
    // The value is summed row by row with both terms in each, so that it does not depend on how
    // samples are packed; the difference of two such near numbers is exact.
    out.loss_sum = row_R.dim() == 0
                       ? graph
                       : graph + (sum_row_losses(row_R.contiguous(), rows) - graph).detach();
    return out;
  }

  LossSums kind_sum(const Pass& pass, size_t kind) const {
    const c10::AutoGradMode graph(!deterministic_ && c10::GradMode::is_enabled());
    return sum(pass, kind);
  }

  at::Tensor cross_entropy(const Pass& pass, const LabelledRows& labelled,
                           at::Tensor* row_loss_R) const {
    const TimeScope scope("loss");
    const auto device = pass.hidden_TD.device();
    const Segments rows = Segments::from_lengths(labelled.lengths, pass.batch.rows.per_sample);
    const at::Tensor hidden_RD = pass.hidden_TD.index_select(0, to_device(labelled.rows, device));
    const Linear& head = model_->backbone().head();
    const bool low = head.lora() != nullptr;
    return linear_cross_entropy(
        {.hidden_RD = hidden_RD,
         .weight_VD = head_VD_,
         .labels_R = to_device(labelled.labels, device),
         .row_weight_R = weights_.all_one()
                             ? at::Tensor()
                             : to_device(at::tensor(labelled.weights, at::kFloat), device),
         .label_smoothing = label_smoothing_,
         .z_loss = pass.training ? z_loss_ : 0.0,
         .row_loss_R = row_loss_R,
         .low_RK =
             low ? head.lora_rows(hidden_RD, rows, sample_dropout_keys(pass.batch)) : at::Tensor(),
         .low_VK = low ? head.lora()->b_OR : at::Tensor()},
        rows);
  }

  /// The backbone itself may learn: the teacher is what it says of the text now, without gradient.
  void check_frozen_head() const {
    check<ConfigError>(model_->backbone().head().lora() == nullptr,
                       "{}: teacher and student share the head, which may have no LoRA (lm_head); "
                       "merge it first",
                       distill_where_);
    for (const NamedTensor& parameter : model_->parameters()) {
      check<ConfigError>(
          !parameter.tensor.requires_grad() ||
              !parameter.tensor.is_same(model_->backbone().head_VD()),
          "{}: teacher and student share the head, which must be frozen, but 'trainable' takes {}",
          distill_where_, parameter.name);
    }
  }

  std::unique_ptr<MultimodalModel> model_;
  bool pretrained_;
  double label_smoothing_, z_loss_;
  LossWeights weights_;
  std::optional<DistillOptions> distill_;
  std::string distill_where_;
  MediaAugment augment_;
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
