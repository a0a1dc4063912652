// train_step_bench.cpp — steps of training an adapter in front of a frozen backbone, measured
// against the same steps in eager PyTorch by train_vs_pytorch (which writes the inputs and reads
// what this prints):
//
//   train_step_bench MODEL_DIR DATA.safetensors STEPS THREADS [none | mlp | layer | "every K"]
//
// One line of JSON: losses of all steps, tokens and seconds of all steps but the first (which reads
// the weights from the disk), peak memory in kB (VmHWM).
#include <chrono>
#include <fstream>
#include <map>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/core.h>

#include "adapters/adapter.h"
#include "backbone/kernels/cross_entropy/cross_entropy.h"
#include "core/json.h"
#include "multimodal/coupled_model.h"
#include "training/dist/collectives.h"
#include "training/flat_buffer.h"
#include "training/gradient_sync.h"
#include "training/optimizer.h"

using namespace euromodal;

namespace {

/// Pictures come as the feature rows that an encoder made of them: EncoderInput::x is [L, E].
class BenchFeatures final : public Encoder {
 public:
  explicit BenchFeatures(int64_t width) : width_(width) {}
  Modality modality() const override { return Modality::kImage; }
  int64_t width() const override { return width_; }
  int64_t num_layers() const override { return 0; }
  RawMedia read(const MediaSource&) const override { throw Error("features are given"); }
  EncoderInput preprocess(const RawMedia&) const override { throw Error("features are given"); }
  RowLayout layout(const EncoderInput& input, const FeatureSelect&) const override {
    return {.width = input.x.size(0)};
  }
  Features forward(const std::vector<EncoderInput>& inputs, const FeatureSelect& select, bool,
                   const DropoutKeys&) const override {
    Features out;
    std::vector<at::Tensor> rows;
    for (const EncoderInput& input : inputs) {
      out.items.push_back(layout(input, select));
      rows.push_back(input.x);
    }
    out.rows_LE = at::cat(rows);
    return out;
  }
  std::string settings() const override { return "features are given"; }
  const std::vector<NamedTensor>& parameters() const override { return none_; }
  void save(const std::filesystem::path&) const override { throw Error("nothing to save"); }

 private:
  int64_t width_;
  std::vector<NamedTensor> none_;
};

/// The inputs of all steps, as train_vs_pytorch wrote them.
struct BenchData {
  std::map<std::string, at::Tensor> t;
  explicit BenchData(const std::string& file) {
    const SafetensorsFile stored(file);
    for (const TensorInfo& info : stored.infos()) t[info.name] = stored.tensor(info);
  }
  int64_t at(const char* name, int64_t i) const { return t.at(name).const_data_ptr<int64_t>()[i]; }

  Batch batch(int64_t step) const {
    const int64_t samples = at("samples", 0);
    int64_t begin = 0;
    for (int64_t i = 0; i < step * samples; ++i) begin += at("lengths", i);
    std::vector<Example> examples;
    for (int64_t i = step * samples; i < (step + 1) * samples; ++i) {
      Example e;
      e.id = fmt::format("{}", i);
      for (int64_t row = begin; row < begin + at("lengths", i); ++row) {
        e.plan.ids.push_back(at("ids", row));
        e.plan.labels.push_back(at("labels", row));
      }
      begin += at("lengths", i);
      const at::Tensor rows_LE = t.at("features").select(0, at("pictures", i));
      e.plan.spans = {{Modality::kImage, 0, at("media_start", i), rows_LE.size(0)}};
      e.kinds = {Modality::kImage};
      e.inputs = {{rows_LE, 0}};
      e.media_keys = {""};
      examples.push_back(std::move(e));
    }
    return collate(std::move(examples), /*per_sample=*/false);
  }
};

ModelParts bench_parts(const std::string& model, const BenchData& data) {
  ModelParts parts;
  parts.text = load_text_model(model, at::kFloat);
  MediaPart media;
  media.encoder = std::make_shared<BenchFeatures>(data.t.at("features").size(2));
  std::vector<NamedTensor> tensors;
  for (const auto& [name, tensor] : data.t)
    if (name.starts_with("adapter.")) tensors.push_back({name.substr(8), tensor});
  const int64_t hidden = data.t.at("adapter.linear_1.weight").size(0);
  Weights weights = Weights::from_tensors(std::move(tensors), at::kFloat, "adapter");
  media.adapter = make_adapter(
      Config::parse(fmt::format("type: mlp\nhidden: {}\n", hidden)),
      {.feature_width = media.encoder->width(), .backbone_width = parts.text.config.hidden_size},
      weights.scope());
  weights.finish();
  parts.media[static_cast<size_t>(Modality::kImage)] = std::move(media);
  return parts;
}

int64_t bench_peak_kb() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("VmHWM:")) return std::stoll(line.substr(6));
  throw Error("/proc/self/status: no VmHWM");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) {
    fmt::print(stderr, "usage: train_step_bench MODEL_DIR DATA.safetensors STEPS THREADS [MODE]\n");
    return 2;
  }
  at::set_num_threads(std::stoi(argv[4]));
  const BenchData data(argv[2]);
  CoupledModel model(bench_parts(argv[1], data));
  model.backbone().set_checkpointing(Checkpointing::parse(
      Config::parse(fmt::format("checkpointing: {}\n", argc > 5 ? argv[5] : "none"))));
  std::vector<NamedTensor> trainable;
  for (const NamedTensor& p : model.parameters())
    if (p.name.starts_with("adapter.")) trainable.push_back(p);
  for (const NamedTensor& p : trainable) p.tensor.requires_grad_(true);
  GroupOptions group;
  group.lr = data.t.at("lr").item<double>();
  group.beta2 = 0.95;
  FlatBuffer buffer(trainable, std::vector<int64_t>(trainable.size(), 0), {group}, {}, {});
  Optimizer optimizer(buffer, {group}, /*one_by_one=*/false);
  const auto world = make_single();
  GradientSync sync(buffer, *world, /*overlap=*/false);
  PrefixCache prefixes(64'000'000);

  Json losses = Json::array();
  double seconds = 0.0;
  int64_t tokens = 0;
  for (int64_t step = 0; step < std::stoll(argv[3]); ++step) {
    const Batch batch = data.batch(step);
    const auto start = std::chrono::steady_clock::now();
    std::vector<int64_t> rows, labels;
    const int64_t* all = batch.labels_T.const_data_ptr<int64_t>();
    for (int64_t t = 0; t < batch.labels_T.numel(); ++t) {
      if (all[t] < 0) continue;
      rows.push_back(t);
      labels.push_back(all[t]);
    }
    const auto count = static_cast<int64_t>(rows.size());
    const at::Tensor hidden_TD = model.forward(batch, nullptr, &prefixes);
    const at::Tensor sum =
        linear_cross_entropy({.hidden_RD = hidden_TD.index_select(0, at::tensor(rows, at::kLong)),
                              .weight_VD = model.backbone().head_VD(),
                              .labels_R = at::tensor(labels, at::kLong),
                              .row_weight_R = {}},
                             Segments::one(count));
    sync.begin({1});
    sync.backward(sum, /*last=*/true);
    sync.finish();
    optimizer.step({1.0}, 1.0 / static_cast<double>(count), *world);
    losses.push_back(sum.item<double>() / static_cast<double>(count));
    if (step == 0) continue;
    seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    tokens += batch.ids_T.numel();
  }
  fmt::print("{}\n", Json{{"losses", losses},
                          {"tokens", tokens},
                          {"seconds", seconds},
                          {"peak_kb", bench_peak_kb()}}
                         .dump());
  return 0;
}
