// ctc.cpp — see ctc.h. S items of a batch, L their feature rows in all (R of the longest), E
// encoder width, A symbols (blank first).
#include "training/objectives/ctc.h"

#include <algorithm>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "backbone/kernels/linear/linear.h"
#include "core/files.h"
#include "multimodal/encoder_folder.h"
#include "training/data/datasets.h"
#include "training/objectives/ctc_text.h"
#include "training/objectives/media_augment.h"
#include "training/objectives/model_flops.h"

namespace euromodal {

namespace {

std::string ctc_answer(const Record& record) {
  std::string out;
  for (const Message& message : record.messages) {
    if (message.role != "assistant") continue;
    for (const Part& part : message.parts) out += part.text;
  }
  return out;
}

class Ctc final : public Objective {
 public:
  Ctc(const Config& config, uint64_t seed, bool deterministic)
      : encoder_(make_objective_encoder(config.child("encoder"), seed)),
        alphabet_(read_labels(config.path("alphabet")), config.path("alphabet").string()),
        head_(Weights::random(seed, at::kFloat)),
        deterministic_(deterministic),
        merge_lora_(config.boolean("merge_lora", false)),
        inputs_(config.i64("input_cache_mb", 512) * 1'000'000) {
    check<ConfigError>(encoder_->modality() == Modality::kAudio,
                       "{}: ctc needs an encoder of sound, this one takes {}",
                       config.where("encoder"), modality_name(encoder_->modality()));
    if (config.has("augment")) augment_ = parse_spec_augment(config.child("augment"));
    weight_AE_ =
        head_.take("head.weight", {alphabet_.symbols(), encoder_->width()}, Init::normal(0.02));
    bias_A_ = head_.take("head.bias", {alphabet_.symbols()}, Init::zeros());
    parameters_ = encoder_parameters(*encoder_);
    for (const NamedTensor& p : head_.taken()) parameters_.push_back(p);
  }

  Example prepare(const Sample& sample, const Rng& rng, bool training) const override {
    Example out;
    out.id = sample.record.id;
    out.index = sample.index;
    if (training) out.dropout_key = rng.fork("dropout").key();
    const size_t item = only_media(sample, *encoder_);
    out.target = alphabet_.encode(ctc_answer(sample.record));
    check<DataError>(!out.target.empty(), "no text of an assistant's turn");
    out.kinds = {Modality::kAudio};
    EncoderInput input =
        inputs_.get(*encoder_, *media_refs(sample.record)[item], sample.media[item]);
    const int64_t rows = encoder_->layout(input, FeatureSelect{}).rows();
    check<DataError>(rows >= ctc_rows_needed(out.target),
                     "{} feature rows are too few for {} characters", rows, out.target.size());
    if (training && (augment_.time_masks > 0 || augment_.freq_masks > 0))
      input = spec_augment(input, augment_, rng.fork("spec_augment"));
    out.inputs.push_back(std::move(input));
    return out;
  }

  void transform_media_on(at::Device device) override { inputs_.transform_on(device); }

  LossSums loss(const Batch& batch, bool training) override {
    LossSums out;
    if (batch.examples.empty()) return out;
    const Features features = encode_batch(*encoder_, batch, deterministic_);
    std::vector<int64_t> lengths;
    for (const RowLayout& item : features.items) lengths.push_back(item.rows());
    const at::Tensor logits_LA = linear(features.rows_LE.to(at::kFloat), weight_AE_, bias_A_,
                                        Segments::from_lengths(lengths, batch.rows.per_sample));
    const at::Tensor log_p_LA = at::log_softmax(logits_LA, 1);
    out.loss_sum = deterministic_ ? loss_one_by_one(batch, log_p_LA, lengths)
                                  : loss_padded(batch, log_p_LA, lengths);
    out.count = static_cast<double>(lengths.size());
    if (!training) add_error_rates(batch, log_p_LA, lengths, out);
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
                     {{"head.weight", weight_AE_.detach()}, {"head.bias", bias_A_.detach()}});
    std::string lines;
    for (const std::string& character : alphabet_.characters()) lines += character + "\n";
    write_text_atomic(folder.path() / "alphabet.txt", lines);
    folder.commit();
  }

 private:
  at::Tensor loss_padded(const Batch& batch, const at::Tensor& log_p_LA,
                         const std::vector<int64_t>& lengths) const {
    std::vector<at::Tensor> items = log_p_LA.split_with_sizes(lengths, 0);
    const int64_t R = *std::max_element(lengths.begin(), lengths.end());
    for (size_t s = 0; s < items.size(); ++s) {
      if (lengths[s] < R) items[s] = at::constant_pad_nd(items[s], {0, 0, 0, R - lengths[s]});
    }
    std::vector<int64_t> symbols, target_lengths;
    for (const Example& example : batch.examples) {
      symbols.insert(symbols.end(), example.target.begin(), example.target.end());
      target_lengths.push_back(static_cast<int64_t>(example.target.size()));
    }
    return at::ctc_loss(at::stack(items, 1), at::tensor(symbols, at::kLong), lengths,
                        target_lengths, /*blank=*/0, at::Reduction::Sum);
  }

  at::Tensor loss_one_by_one(const Batch& batch, const at::Tensor& log_p_LA,
                             const std::vector<int64_t>& lengths) const {
    at::Tensor total;
    const std::vector<at::Tensor> items = log_p_LA.split_with_sizes(lengths, 0);
    for (size_t s = 0; s < items.size(); ++s) {
      const std::vector<int64_t>& target = batch.examples[s].target;
      const at::Tensor one = at::ctc_loss(
          items[s].unsqueeze(1), at::tensor(target, at::kLong), at::IntArrayRef{lengths[s]},
          at::IntArrayRef{static_cast<int64_t>(target.size())}, /*blank=*/0, at::Reduction::Sum);
      total = total.defined() ? total + one : one;
    }
    return total;
  }

  void add_error_rates(const Batch& batch, const at::Tensor& log_p_LA,
                       const std::vector<int64_t>& lengths, LossSums& out) const {
    const c10::NoGradGuard no_graph;
    const at::Tensor best_L = log_p_LA.argmax(1).to(at::kCPU);
    const int64_t* best = best_L.const_data_ptr<int64_t>();
    double edits = 0.0, characters = 0.0, exact = 0.0;
    for (size_t s = 0; s < lengths.size(); ++s) {
      const std::vector<int64_t>& target = batch.examples[s].target;
      const int64_t wrong = edit_distance(ctc_collapse(best, lengths[s]), target);
      best += lengths[s];
      edits += static_cast<double>(wrong);
      characters += static_cast<double>(target.size());
      exact += wrong == 0 ? 1.0 : 0.0;
    }
    out.metrics.push_back({"cer", at::tensor(edits, at::kDouble), characters});
    out.metrics.push_back({"exact", at::tensor(exact, at::kDouble), out.count});
  }

  std::unique_ptr<Encoder> encoder_;
  CtcAlphabet alphabet_;
  Weights head_;
  bool deterministic_, merge_lora_;
  SpecAugment augment_;
  mutable MediaInputs inputs_;
  std::optional<StackCost> cost_;
  at::Tensor weight_AE_, bias_A_;
  std::vector<NamedTensor> parameters_;
};

}  // namespace

std::unique_ptr<Objective> make_ctc(const Config& config, uint64_t seed, bool deterministic) {
  return std::make_unique<Ctc>(config, seed, deterministic);
}

}  // namespace euromodal
