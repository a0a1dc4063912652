// classification.cpp — see classification.h. S items of a batch, L their feature rows, E encoder
// width, C classes.
#include "training/objectives/classification.h"

#include <map>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "backbone/kernels/linear/linear.h"
#include "backbone/kernels/to_device.h"
#include "core/files.h"
#include "multimodal/encoder_folder.h"
#include "training/data/datasets.h"
#include "training/objectives/media_augment.h"
#include "training/objectives/model_flops.h"

namespace euromodal {

namespace {

class Classification final : public Objective {
 public:
  Classification(const Config& config, uint64_t seed, bool deterministic)
      : encoder_(make_objective_encoder(config.child("encoder"), seed)),
        labels_(read_labels(config.path("classes"))),
        head_(Weights::random(seed, at::kFloat)),
        label_smoothing_(config.f64("label_smoothing", 0.0)),
        deterministic_(deterministic),
        merge_lora_(config.boolean("merge_lora", false)),
        inputs_(config.i64("input_cache_mb", 512) * 1'000'000) {
    check<ConfigError>(label_smoothing_ >= 0.0 && label_smoothing_ < 1.0,
                       "{}: expected a number in [0, 1), got {}", config.where("label_smoothing"),
                       label_smoothing_);
    if (config.has("augment")) {
      const Config augment = config.child("augment");
      check<ConfigError>(encoder_->modality() != Modality::kAudio,
                         "{}: crop, brightness and noise are for pictures, the encoder takes sound",
                         augment.where());
      augment_ = parse_image_augment(augment);
    }
    for (size_t c = 0; c < labels_.size(); ++c) class_of_[labels_[c]] = static_cast<int64_t>(c);
    const auto C = static_cast<int64_t>(labels_.size());
    weight_CE_ = head_.take("head.weight", {C, encoder_->width()}, Init::normal(0.02));
    bias_C_ = head_.take("head.bias", {C}, Init::zeros());
    parameters_ = encoder_parameters(*encoder_);
    for (const NamedTensor& p : head_.taken()) parameters_.push_back(p);
  }

  Example prepare(const Sample& sample, const Rng& rng, bool training) const override {
    Example out;
    out.id = sample.record.id;
    out.index = sample.index;
    if (training) out.dropout_key = rng.fork("dropout").key();
    const size_t item = only_media(sample, *encoder_);
    const auto found = class_of_.find(sample.record.label);
    check<DataError>(found != class_of_.end(), "label \"{}\" is none of the {} classes",
                     sample.record.label, labels_.size());
    out.target = {found->second};
    out.kinds = {encoder_->modality()};
    const MediaRef& ref = *media_refs(sample.record)[item];
    out.inputs.push_back(
        training ? augmented_input(*encoder_, ref, sample.media[item], inputs_, augment_, rng)
                 : inputs_.get(*encoder_, ref, sample.media[item]));
    return out;
  }

  void transform_media_on(at::Device device) override { inputs_.transform_on(device); }

  LossSums loss(const Batch& batch, bool) override {
    LossSums out;
    const auto S = static_cast<int64_t>(batch.examples.size());
    if (S == 0) return out;
    std::vector<int64_t> targets;
    for (const Example& example : batch.examples) targets.push_back(example.target.at(0));
    const Features features = encode_batch(*encoder_, batch, deterministic_);
    const Segments items =
        Segments::from_lengths(std::vector<int64_t>(targets.size(), 1), batch.rows.per_sample);
    const at::Tensor logits_SC = linear(pool(features).to(at::kFloat), weight_CE_, bias_C_, items);
    const at::Tensor log_p_SC = at::log_softmax(logits_SC, 1);
    const at::Tensor target_S1 = to_device(targets, log_p_SC.device()).view({S, 1});
    at::Tensor loss_S = -log_p_SC.gather(1, target_S1).view({S}) * (1.0 - label_smoothing_);
    if (label_smoothing_ > 0.0) loss_S = loss_S - log_p_SC.mean(1) * label_smoothing_;
    out.loss_sum = loss_S.sum();
    out.count = static_cast<double>(S);
    const c10::NoGradGuard no_graph;
    out.metrics.push_back(
        {"accuracy", logits_SC.argmax(1).eq(target_S1.view({S})).sum(at::kFloat), out.count});
    return out;
  }

  const std::vector<NamedTensor>& parameters() const override { return parameters_; }

  double flops(const Batch& batch) override {
    if (!cost_) cost_ = encoder_cost(*encoder_);  // now it is known what is trained
    double total = 0.0;
    for (const Example& example : batch.examples)
      total += encoder_flops(*encoder_, *cost_, example.inputs.at(0));
    return total;
  }

  void save_model(const std::filesystem::path& dir) const override {
    AtomicFolder folder(dir);
    save_encoder_folder(folder.path(), *encoder_, merge_lora_);
    save_safetensors(folder.path() / "head.safetensors",
                     {{"head.weight", weight_CE_.detach()}, {"head.bias", bias_C_.detach()}});
    std::string lines;
    for (const std::string& label : labels_) lines += label + "\n";
    write_text_atomic(folder.path() / "classes.txt", lines);
    folder.commit();
  }

 private:
  // Mean over each item's rows -> [S, E].
  at::Tensor pool(const Features& features) const {
    const RowLayout& first = features.items.front();
    bool same = !deterministic_;
    for (const RowLayout& item : features.items) same = same && item == first;
    if (same) {
      const auto S = static_cast<int64_t>(features.items.size());
      const at::Tensor rows_SLE = features.rows_LE.view({S, first.rows(), encoder_->width()});
      return rows_SLE.narrow(1, first.prefix, first.rows() - first.prefix).mean(1);
    }
    std::vector<at::Tensor> means;
    int64_t begin = 0;
    for (const RowLayout& item : features.items) {
      means.push_back(
          features.rows_LE.narrow(0, begin + item.prefix, item.rows() - item.prefix).mean(0));
      begin += item.rows();
    }
    return at::stack(means);
  }

  std::unique_ptr<Encoder> encoder_;
  std::vector<std::string> labels_;
  std::map<std::string, int64_t> class_of_;
  Weights head_;
  double label_smoothing_;
  bool deterministic_, merge_lora_;
  ImageAugment augment_;
  mutable MediaInputs inputs_;
  std::optional<StackCost> cost_;
  at::Tensor weight_CE_, bias_C_;
  std::vector<NamedTensor> parameters_;
};

}  // namespace

std::unique_ptr<Objective> make_classification(const Config& config, uint64_t seed,
                                               bool deterministic) {
  return std::make_unique<Classification>(config, seed, deterministic);
}

}  // namespace euromodal
