// gradients_test.cpp — what is trained gets the gradients of transformers and PEFT: a tiny LLaVA,
// with its adapter, LoRA on backbone and encoder, or the whole backbone trained; tensor by tensor,
// and the losses of 50 AdamW steps (goldens of make_gradient_goldens.py).
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "backbone/kernels/cross_entropy/cross_entropy.h"
#include "multimodal/model.h"
#include "tests/support/tensor_near.h"
#include "training/gradient_sync.h"
#include "training/optimizer.h"

namespace euromodal {
namespace {

namespace fs = std::filesystem;

const fs::path kLlava = fs::path(EM_SOURCE_DIR) / "tests/multimodal/goldens";
constexpr const char* kLora =
    "    {{rank: 4, alpha: 8, targets: [{}]}}\n";  // as LoraConfig in the script

std::map<std::string, at::Tensor> gradient_golden(const std::string& name) {
  const SafetensorsFile file(fs::path(EM_TEST_DIR) / "goldens" / (name + ".safetensors"));
  std::map<std::string, at::Tensor> out;
  for (const TensorInfo& info : file.infos()) out[info.name] = file.tensor(info).clone();
  return out;
}

/// The LLaVA of the goldens, its adapter's values too, with or without LoRA.
std::unique_ptr<MultimodalModel> gradient_model(bool lora) {
  if (!lora) return MultimodalModel::load(kLlava / "llava", std::nullopt);
  const std::string dir = (kLlava / "llava").string();
  auto model = MultimodalModel::from_config(
      Config::parse("backbone:\n  model: " + dir + "\n  lora:\n" +
                    fmt::format(kLora, "q_proj, v_proj, down_proj") +
                    "image:\n  encoder:\n    model: " + dir +
                    "/encoder_image\n    features: -2\n    lora:\n" +
                    fmt::format(kLora, "\"*.layers.0.mlp.fc1\", \"*.layers.1.mlp.fc1\"") +
                    "  adapter: {type: mlp, hidden: 32, class_tokens: true}\n"),
      1);
  const SafetensorsFile adapters(kLlava / "llava/adapters.safetensors");
  for (const NamedTensor& p : model->parameters()) {
    if (!p.name.starts_with("adapter.")) continue;
    const TensorInfo* info = adapters.find(p.name.substr(std::strlen("adapter.")));
    EXPECT_NE(info, nullptr) << p.name;
    if (info != nullptr) at::Tensor(p.tensor).copy_(adapters.tensor(*info));
  }
  return model;
}

/// Both conversations of the golden as one batch.
Batch gradient_batch(const std::map<std::string, at::Tensor>& golden, bool per_sample) {
  const SafetensorsFile stored(kLlava / "llava.safetensors");
  const at::Tensor pixels = stored.tensor(*stored.find("pixels")).clone();
  std::vector<Example> examples;
  int64_t next = 0;
  for (int64_t i = 0; i < 2; ++i) {
    Example example;
    example.id = fmt::format("conversation {}", i);
    const at::Tensor ids = golden.at(fmt::format("ids.{}", i)),
                     labels = golden.at(fmt::format("labels.{}", i));
    const int64_t T = ids.size(0);
    for (int64_t t = 0; t < T; ++t) {
      example.plan.ids.push_back(ids[t].item<int64_t>());
      example.plan.labels.push_back(t + 1 < T ? labels[t + 1].item<int64_t>() : -100);
      if (example.plan.ids.back() != 5) continue;
      // 16 rows a picture
      std::vector<Span>& spans = example.plan.spans;
      if (!spans.empty() && spans.back().length < 16) {
        ++spans.back().length;
      } else {
        spans.push_back({Modality::kImage, static_cast<int64_t>(spans.size()), t, 1});
      }
    }
    for (size_t j = 0; j < example.plan.spans.size(); ++j, ++next) {
      example.kinds.push_back(Modality::kImage);
      example.inputs.push_back({pixels.slice(0, next, next + 1), 0});
    }
    examples.push_back(std::move(example));
  }
  return collate(std::move(examples), per_sample);
}

/// The mean over all labels of both conversations.
at::Tensor gradient_loss(const MultimodalModel& model, const Batch& batch) {
  const at::Tensor index = batch.labels_T.ge(0).nonzero().squeeze(1);
  std::vector<int64_t> lengths;
  for (int64_t s = 0; s < batch.rows.count(); ++s) {
    lengths.push_back(batch.labels_T.narrow(0, batch.rows.begin(s), batch.rows.length(s))
                          .ge(0)
                          .sum()
                          .item<int64_t>());
  }
  const at::Tensor sum =
      linear_cross_entropy({.hidden_RD = model.forward(batch).index_select(0, index),
                            .weight_VD = model.backbone().head_VD(),
                            .labels_R = batch.labels_T.index_select(0, index),
                            .row_weight_R = {},
                            .label_smoothing = 0.0},
                           Segments::from_lengths(lengths, batch.rows.per_sample));
  return sum / static_cast<double>(index.numel());
}

std::vector<NamedTensor> gradient_select(const MultimodalModel& model, const std::string& pattern) {
  std::vector<NamedTensor> out;
  for (const NamedTensor& p : model.parameters()) {
    if (glob_match(pattern, p.name)) out.push_back(p);
  }
  return out;
}

struct Case {
  const char* name;
  const char* file;
  bool lora;
  const char* trainable;
  int tensors;
};

class GradientsTest : public testing::TestWithParam<Case> {};

TEST_P(GradientsTest, AreThoseOfTransformersAndPeft) {
  const Case& c = GetParam();
  const auto golden = gradient_golden(c.file), conversations = gradient_golden("gradients");
  for (const bool per_sample : {false, true}) {
    const auto model = gradient_model(c.lora);
    for (const NamedTensor& p : model->parameters()) {
      const auto value = golden.find("lora.value." + p.name);
      if (value != golden.end()) at::Tensor(p.tensor).copy_(value->second);
    }
    for (NamedTensor& p : gradient_select(*model, c.trainable)) p.tensor.requires_grad_(true);
    const at::Tensor loss = gradient_loss(*model, gradient_batch(conversations, per_sample));
    EXPECT_TRUE(tensor_near(loss, golden.at(std::string(c.name) + ".loss"), {1e-5, 1e-5}));
    loss.backward();
    int compared = 0;
    for (const NamedTensor& p : model->parameters()) {
      const auto want = golden.find(std::string(c.name) + ".grad." + p.name);
      ASSERT_EQ(p.tensor.grad().defined(), want != golden.end()) << p.name;
      if (want == golden.end()) continue;
      ++compared;
      // relative to the tensor's largest gradient: its small ones are sums of large terms
      const double largest = want->second.abs().max().item<double>();
      EXPECT_GT(largest, 1e-5) << p.name;
      EXPECT_TRUE(tensor_near(p.tensor.grad(), want->second, {1e-4 * largest, 1e-3})) << p.name;
    }
    EXPECT_EQ(compared, c.tensors);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Trained, GradientsTest,
    testing::Values(Case{"adapter", "gradients", false, "adapter.*", 4},
                    Case{"lora", "gradients", true, "*.lora_*", 2 * (3 * 2 + 2)},
                    Case{"full", "full_gradients", false, "backbone.*", 2 * 9 + 3}),
    [](const auto& info) { return info.param.name; });

TEST(TrainingCurveTest, FiftyAdamWStepsAreThoseOfTorch) {
  const auto golden = gradient_golden("gradients");
  for (const bool lora : {false, true}) {
    const auto model = gradient_model(lora);
    for (const NamedTensor& p : model->parameters()) {
      const auto start = golden.find("lora.start." + p.name);
      if (start != golden.end()) at::Tensor(p.tensor).copy_(start->second);
    }
    const auto trainable = gradient_select(*model, lora ? "*.lora_*" : "adapter.*");
    for (const NamedTensor& p : trainable) at::Tensor(p.tensor).requires_grad_(true);
    GroupOptions group;
    group.lr = 5e-3;
    group.weight_decay = 0.01;
    group.patterns = {"*"};
    FlatBuffer buffer(trainable, std::vector<int64_t>(trainable.size(), 0), {group}, {}, {});
    Optimizer optimizer(buffer, {group}, false);
    const auto world = make_single();
    GradientSync sync(buffer, *world, /*overlap=*/false);
    const Batch batch = gradient_batch(golden, false);
    const at::Tensor want = golden.at(lora ? "lora.curve" : "adapter.curve");
    for (int64_t step = 0; step < want.size(0); ++step) {
      const at::Tensor loss = gradient_loss(*model, batch);
      sync.begin({1});
      sync.backward(loss, /*last=*/true);
      sync.finish();
      const double expected = want[step].item<double>();
      ASSERT_NEAR(loss.item<double>(), expected, 2e-3 * expected)
          << (lora ? "LoRA" : "adapter") << ", step " << step;
      optimizer.step(std::vector<double>(optimizer.groups().size(), 1.0), 1.0, *world);
    }
    EXPECT_LT(want[-1].item<double>(), 0.8 * want[0].item<double>());
  }
}

}  // namespace
}  // namespace euromodal
