// coupled_model_test.cpp — the coupling with a small drawn backbone and encoders of one matrix:
// packed = unpacked, gradients where they belong, the cache, wrong counts.
#include "multimodal/coupled_model.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "backbone/kernels/linear/linear.h"
#include "tests/support/gradcheck.h"
#include "tests/support/small_llama.h"
#include "tests/support/temp.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

constexpr int64_t kWidth = 6;  // of the encoders

/// Every pixel times a matrix [E, 3]; counts what it is asked for.
class PixelEncoder final : public Encoder {
 public:
  explicit PixelEncoder(Modality kind)
      : kind_(kind),
        parameters_{{"weight", randn({kWidth, 3}, 11 + static_cast<uint64_t>(kind))}} {}
  Modality modality() const override { return kind_; }
  int64_t width() const override { return kWidth; }
  int64_t num_layers() const override { return 1; }
  RawMedia read(const MediaSource&) const override { return Image{}; }
  EncoderInput preprocess(const RawMedia&) const override { return {}; }
  RowLayout layout(const EncoderInput& input, const FeatureSelect&) const override {
    return {.frames = input.x.size(0), .height = input.x.size(2), .width = input.x.size(3)};
  }
  Features forward(const std::vector<EncoderInput>& inputs, const FeatureSelect& select, bool,
                   const DropoutKeys&) const override {
    Features out;
    std::vector<at::Tensor> rows;
    for (const EncoderInput& input : inputs) {
      ++encoded;
      out.items.push_back(layout(input, select));
      const at::Tensor x = input.x.permute({0, 2, 3, 1}).reshape({-1, 3});
      rows.push_back(linear(x, parameters_[0].tensor, {}, Segments::one(x.size(0))));
    }
    out.rows_LE = at::cat(rows);
    return out;
  }
  std::string settings() const override { return "pixels"; }
  const std::vector<NamedTensor>& parameters() const override { return parameters_; }
  void save(const std::filesystem::path&) const override {}
  mutable int encoded = 0;

 private:
  Modality kind_;
  std::vector<NamedTensor> parameters_;
};

LlamaConfig small_config() {
  LlamaConfig out = testing_support::llama_config({320, 16, 24, 2, 4, 2, 4, 128});
  out.rms_norm_eps = 1e-5;
  out.rope.original_max_positions = 128;
  out.eos_ids = {4};
  return out;
}

constexpr const char* kAdapterYaml[3] = {
    "{type: pool, grid: [2, 2], hidden: 8, layer_norm: true, output: {rms: true}}",
    "{type: stack_mlp, stack: 3, hidden: 8, output: {rms: true}}",
    "{type: pool, grid: [1, 1], hidden: 8}"};

struct World {
  std::unique_ptr<CoupledModel> model;
  std::array<std::shared_ptr<PixelEncoder>, 3> encoders;

  World() {
    ModelParts parts;
    parts.text = random_text_model(small_config(), 5);
    uint64_t seed = 50;
    for (const NamedTensor& p : parts.text.parameters) {  // fresh blocks would do nothing
      at::Tensor tensor = p.tensor;
      tensor.add_(randn(tensor.sizes(), seed++), 0.1);
    }
    const auto folder = std::filesystem::path(EM_TEST_DIR) / "goldens/plain";
    parts.context.tokenizer = Tokenizer::load(folder);
    parts.context.chat = ChatTemplate::load(folder);
    Weights weights = Weights::random(9, at::kFloat);
    for (const Modality kind : kModalities) {
      const auto k = static_cast<size_t>(kind);
      encoders[k] = std::make_shared<PixelEncoder>(kind);
      set_placeholder(parts.context, kind, parts.context.marker[k], 900 + static_cast<int64_t>(k));
      MediaPart media;
      media.encoder = encoders[k];
      media.features = "last";
      media.select = FeatureSelect::parse("last");
      media.adapter = make_adapter(Config::parse(kAdapterYaml[k]), {kWidth, 16, 0.25},
                                   weights.scope(std::string(modality_name(kind)) + "."));
      parts.media[k] = std::move(media);
    }
    model = std::make_unique<CoupledModel>(std::move(parts));
  }

  void train(const std::string& prefix) const {
    for (const NamedTensor& p : model->parameters()) {
      at::Tensor tensor = p.tensor;
      if (p.name.starts_with(prefix)) tensor.set_requires_grad(true);
    }
  }
};

EncoderInput pixels(Modality kind, uint64_t seed) {
  if (kind == Modality::kAudio) return {randn({1, 3, 1, 7}, seed), 0};
  return {randn({kind == Modality::kVideo ? 2 : 1, 3, 4, 4}, seed), 0};
}

uint64_t hash_of(const std::string& text) {
  uint64_t out = 7;
  for (const char c : text) out = out * 31 + static_cast<uint64_t>(c);
  return out % 100000;
}

Example example_of(const World& world, const std::string& id, const std::vector<Modality>& kinds) {
  Record record;
  record.id = id;
  Message user{"user"};
  Example out;
  out.id = id;
  std::vector<int64_t> tokens;
  for (const Modality kind : kinds) {
    user.parts.push_back({.is_media = true, .media = {.kind = kind, .uri = id}});
    out.inputs.push_back(pixels(kind, hash_of(id) + tokens.size()));
    out.kinds.push_back(kind);
    out.media_keys.push_back(fmt::format("{}.{}", id, tokens.size()));
    tokens.push_back(world.model->num_tokens(kind, out.inputs.back()));
  }
  user.parts.push_back({.text = "what is " + id});
  record.messages = {user, {"assistant", {{.text = "it is " + id}}}};
  out.plan = plan_record(record, tokens, world.model->plan_context());
  return out;
}

const Modality kI = Modality::kImage, kA = Modality::kAudio, kV = Modality::kVideo;

std::vector<Example> three_samples(const World& world) {
  return {example_of(world, "one", {kI, kA, kI}), example_of(world, "two", {}),
          example_of(world, "three", {kV, kI})};
}

at::Tensor grad_of(const World& world, const std::string& name) {
  for (const NamedTensor& p : world.model->parameters())
    if (p.name == name) return p.tensor.grad();
  ADD_FAILURE() << "no parameter " << name;
  return {};
}

TEST(CoupledModelTest, PackedEqualsUnpackedBitwise) {
  const World packed, alone;
  for (const World* world : {&packed, &alone}) {
    world->train("adapter.");
    world->train("backbone.");
  }
  const Batch batch = collate(three_samples(packed), /*per_sample=*/true);
  const at::Tensor hidden = packed.model->forward(batch, nullptr);
  const at::Tensor dy = randn(hidden.sizes(), 3);
  (hidden * dy).sum().backward();
  auto samples = three_samples(alone);
  for (size_t s = 0; s < samples.size(); ++s) {
    const auto at = static_cast<int64_t>(s);
    std::vector<Example> one;
    one.push_back(std::move(samples[s]));
    const at::Tensor h = alone.model->forward(collate(std::move(one), true), nullptr);
    const auto rows = [&](const at::Tensor& t) {
      return t.slice(0, batch.rows.begin(at), batch.rows.begin(at) + batch.rows.length(at));
    };
    EXPECT_TRUE(same_bits(h, rows(hidden))) << "sample " << s;
    (h * rows(dy)).sum().backward();
  }
  for (const NamedTensor& p : packed.model->parameters()) {
    if (p.name.starts_with("encoder.") || p.name == "backbone.lm_head.weight") continue;
    const at::Tensor other = grad_of(alone, p.name);
    ASSERT_TRUE(p.tensor.grad().defined() && other.defined()) << p.name;
    EXPECT_TRUE(same_bits(p.tensor.grad(), other)) << p.name;
  }
}

/// Hidden rows, then the gradients of all adapters.
std::vector<at::Tensor> adapter_step(const World& world, std::vector<Example> samples,
                                     bool per_sample, PrefixCache* prefixes) {
  for (const NamedTensor& p : world.model->parameters()) p.tensor.mutable_grad() = at::Tensor();
  const at::Tensor h_TD =
      world.model->forward(collate(std::move(samples), per_sample), nullptr, prefixes);
  if (h_TD.requires_grad()) h_TD.sin().sum().backward();
  std::vector<at::Tensor> out{h_TD.detach()};
  for (const NamedTensor& p : world.model->parameters())
    if (p.name.starts_with("adapter.")) out.push_back(p.tensor.grad());
  return out;
}

TEST(CoupledModelTest, RowsBeforeTheFirstMediumMayRunAsConstants) {
  const World world;
  world.train("adapter.");
  for (const bool per_sample : {false, true}) {
    PrefixCache prefixes(1 << 20);
    const auto want = adapter_step(world, three_samples(world), per_sample, nullptr);
    const auto got = adapter_step(world, three_samples(world), per_sample, &prefixes);
    const auto again = adapter_step(world, three_samples(world), per_sample, &prefixes);
    EXPECT_EQ(prefixes.size(), 1);  // both samples with media begin alike
    for (size_t i = 0; i < want.size(); ++i) {
      EXPECT_TRUE(tensor_near(got[i], want[i], {5e-5, 1e-3})) << i;
      EXPECT_TRUE(per_sample ? same_bits(again[i], got[i])
                             : tensor_near(again[i], got[i], {5e-5, 1e-3}))
          << i;
    }
  }
  // In a pack, or one sample after the other, some of them from a cache.
  PrefixCache prefixes(1 << 20), none(0);
  const auto packed = adapter_step(world, three_samples(world), true, &prefixes);
  int64_t row = 0;
  auto samples = three_samples(world);
  for (size_t s = 0; s < samples.size(); ++s) {
    const at::Tensor h_TD = adapter_step(world, {samples[s]}, true, s == 0 ? &prefixes : &none)[0];
    EXPECT_TRUE(same_bits(h_TD, packed[0].narrow(0, row, h_TD.size(0)))) << s;
    row += h_TD.size(0);
  }
  world.train("backbone.model.layers.0");
  adapter_step(world, three_samples(world), true, &prefixes);
  EXPECT_EQ(prefixes.size(), 0);
}

TEST(CoupledModelTest, FastModeAgreesWithDeterministicMode) {
  const World world;
  const at::Tensor a = world.model->forward(collate(three_samples(world), true), nullptr);
  const at::Tensor b = world.model->forward(collate(three_samples(world), false), nullptr);
  EXPECT_TRUE(tensor_near(a, b, {2e-5, 1e-4}));
}

TEST(CoupledModelTest, GradientsReachExactlyTheTrainableTensors) {
  const World world;
  world.train("adapter.");
  std::vector<Example> examples = {example_of(world, "one", {kI}), example_of(world, "two", {kA})};
  world.model->forward(collate(std::move(examples), false), nullptr).square().sum().backward();
  for (const NamedTensor& p : world.model->parameters()) {
    const bool wanted =
        p.name.starts_with("adapter.image.") || p.name.starts_with("adapter.audio.");
    EXPECT_EQ(p.tensor.grad().defined(), wanted) << p.name;
    if (!wanted) continue;
    EXPECT_GT(p.tensor.grad().abs().max().item<double>(), 0) << p.name;
  }
}

TEST(CoupledModelTest, TrainableEncodersGetGradients) {
  const World world;
  world.train("encoder.audio.");
  FeatureCache cache(1 << 20);
  world.model->forward(collate(three_samples(world), false), &cache).square().sum().backward();
  EXPECT_TRUE(grad_of(world, "encoder.audio.weight").defined());
  EXPECT_FALSE(grad_of(world, "encoder.image.weight").defined());
  EXPECT_FALSE(grad_of(world, "adapter.audio.linear_1.weight").defined());
  // What still changes is never cached.
  EXPECT_FALSE(cache.find(kA, "one.1").defined());
  EXPECT_TRUE(cache.find(kI, "one.0").defined());
}

TEST(CoupledModelTest, FrozenFeaturesComeFromTheCache) {
  const World world;
  FeatureCache cache(1 << 20);
  const Batch batch = collate(three_samples(world), true);
  const at::Tensor plain = world.model->embed(batch, nullptr);
  const at::Tensor first = world.model->embed(batch, &cache);
  const int encoded = world.encoders[0]->encoded;
  const at::Tensor second = world.model->embed(batch, &cache);
  EXPECT_EQ(world.encoders[0]->encoded, encoded);
  EXPECT_TRUE(same_bits(plain, first));
  EXPECT_TRUE(same_bits(plain, second));
  EXPECT_EQ(cache.bytes(), (3 * 16 + 7 + 32) * kWidth * 4);
  // One new item beside known ones: only it is encoded.
  std::vector<Example> mixed = {example_of(world, "one", {kI, kA, kI}),
                                example_of(world, "new", {kI})};
  const Batch other = collate(std::move(mixed), true);
  EXPECT_TRUE(same_bits(world.model->embed(other, &cache), world.model->embed(other, nullptr)));
  EXPECT_EQ(world.encoders[0]->encoded, encoded + 1 + 3);
}

TEST(FeatureCacheTest, KeepsWithinItsBytes) {
  FeatureCache cache(100);
  cache.insert(kI, "a", at::ones({2, 10}));
  EXPECT_EQ(cache.bytes(), 80);
  cache.insert(kI, "b", at::ones({2, 10}));
  cache.insert(kI, "", at::ones({1, 1}));
  EXPECT_EQ(cache.bytes(), 80);
  EXPECT_TRUE(cache.find(kI, "a").defined());
  EXPECT_FALSE(cache.find(kI, "b").defined());
  EXPECT_FALSE(cache.find(kA, "a").defined());
}

TEST(CoupledModelTest, CountsOfPlanAndModelAgree) {
  const World world;
  const Batch batch = collate(three_samples(world), false);
  for (const Example& example : batch.examples) {
    std::map<Modality, int64_t> next;
    for (const Span& span : example.plan.spans) {
      int64_t at = 0;
      for (size_t i = 0; i < example.inputs.size(); ++i) {
        if (example.kinds[i] != span.kind || at++ != span.item) continue;
        EXPECT_EQ(span.length, world.model->num_tokens(span.kind, example.inputs[i]));
      }
      EXPECT_EQ(span.item, next[span.kind]++);
    }
  }
  EXPECT_EQ(world.model->num_tokens(kI, pixels(kI, 1)), 4);
  EXPECT_EQ(world.model->num_tokens(kA, pixels(kA, 1)), 3);
  EXPECT_EQ(world.model->num_tokens(kV, pixels(kV, 1)), 2);
}

TEST(CoupledModelTest, WrongCountsNameTheSample) {
  const World world;
  const auto fails = [&](const std::function<void(Example&)>& spoil,
                         std::initializer_list<std::string_view> words) {
    std::vector<Example> examples = three_samples(world);
    spoil(examples[2]);
    return throws_with<DataError>(
        [&] { world.model->embed(collate(std::move(examples), false), nullptr); }, words);
  };
  EXPECT_TRUE(fails(
      [](Example& e) {
        e.inputs[1].x = at::zeros({2, 3, 4, 4});
      },
      {"three", "image 0", "4", "8"}));
  EXPECT_TRUE(fails([](Example& e) { e.plan.spans.pop_back(); }, {"three", "0", "1"}));
  EXPECT_TRUE(fails([](Example& e) { --e.plan.spans[1].length; }, {"three", "image 0", "3", "4"}));
}

TEST(CoupledModelTest, TextAloneNeedsNoEncoder) {
  const World world;
  world.train("adapter.");
  std::vector<Example> examples = {example_of(world, "text", {})};
  const at::Tensor hidden = world.model->forward(collate(std::move(examples), true), nullptr);
  EXPECT_FALSE(hidden.requires_grad());
  EXPECT_EQ(world.encoders[0]->encoded, 0);
}

}  // namespace
}  // namespace euromodal
