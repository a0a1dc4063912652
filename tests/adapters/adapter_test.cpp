// adapter_test.cpp — the adapters against transformers' projectors and a torch oracle, their
// counts, their gradients and what deterministic mode promises.
#include "adapters/adapter.h"

#include <algorithm>
#include <functional>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include "adapters/projector.h"
#include "adapters/registry.h"
#include "tests/support/gradcheck.h"
#include "tests/support/temp.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

constexpr int64_t kE = 24, kD = 40;  // as in make_goldens.py

std::map<std::string, at::Tensor> goldens() {
  const SafetensorsFile file(std::filesystem::path(EM_TEST_DIR) / "goldens/adapters.safetensors");
  std::map<std::string, at::Tensor> out;
  for (const TensorInfo& info : file.infos()) out[info.name] = file.tensor(info).clone();
  return out;
}

/// An adapter with the golden weights below `prefix`; every one of them must be taken.
std::unique_ptr<Adapter> golden_adapter(const std::string& prefix, const std::string& yaml) {
  std::vector<NamedTensor> tensors;
  for (const auto& [name, tensor] : goldens()) {
    if (name.starts_with(prefix) && name != prefix + "x" && name != prefix + "y")
      tensors.push_back({name, tensor});
  }
  Weights weights = Weights::from_tensors(tensors, at::kFloat);
  auto adapter = make_adapter(Config::parse(yaml), {kE, kD, 1.0}, weights.scope(prefix));
  weights.finish();
  return adapter;
}

struct Made {
  std::unique_ptr<Adapter> adapter;
  std::vector<at::Tensor> parameters;
};

Made drawn_adapter(const std::string& yaml, AdapterShape shape, at::ScalarType dtype) {
  Weights weights = Weights::random(3, dtype);
  Made out{make_adapter(Config::parse(yaml), shape, weights.scope("")), {}};
  uint64_t seed = 100;
  for (const NamedTensor& p : out.adapter->parameters()) {  // nothing stays zero or one
    at::Tensor tensor = p.tensor;
    tensor.add_(randn(tensor.sizes(), seed++, dtype), 0.2);
    out.parameters.push_back(tensor.set_requires_grad(true));
  }
  return out;
}

AdapterInput input_of(const at::Tensor& rows_LE, std::vector<RowLayout> items) {
  const auto count = static_cast<int64_t>(items.size());
  return {rows_LE, std::move(items), Segments::one(count)};
}

struct Case {
  const char* name;
  const char* yaml;
  RowLayout a, b, c;
};

std::ostream& operator<<(std::ostream& out, const Case& c) { return out << c.name; }

const Case kCases[] = {
    {"Mlp",
     "{type: mlp, hidden: 7, layer_norm: true, output: {rms: true}}",
     {.width = 5},
     {.height = 2, .width = 3, .prefix = 1},
     {.frames = 2, .width = 2}},
    {"MlpWithClassTokens",
     "{type: mlp, hidden: 7, class_tokens: true}",
     {.width = 5},
     {.height = 2, .width = 3, .prefix = 1},
     {.width = 1}},
    {"Stack",
     "{type: stack_mlp, stack: 4, hidden: 6, layer_norm: true, output: {rms: true}}",
     {.width = 8},
     {.width = 5},
     {.width = 1}},
    {"StackWithoutBias",
     "{type: stack_mlp, stack: 3, hidden: 6, bias: false}",
     {.width = 6},
     {.width = 3},
     {.width = 7}},
    {"Pool",
     "{type: pool, grid: [1, 2], hidden: 9, layer_norm: true, output: {rms: true}}",
     {.height = 2, .width = 2},
     {.frames = 3, .height = 1, .width = 4},
     {.height = 3, .width = 2, .prefix = 1}},
};

class AdapterCases : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(All, AdapterCases, testing::ValuesIn(kCases),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(MlpAdapterTest, MatchesLlavaProjector) {
  const auto golden = goldens();
  const auto adapter = golden_adapter("llava.", "{type: mlp, hidden: 40}");
  const at::Tensor y = adapter->forward(
      input_of(golden.at("llava.x"), {{.height = 3, .width = 3}, {.height = 3, .width = 3}}));
  EXPECT_TRUE(tensor_near(y, golden.at("llava.y"), {2e-5, 1e-5}));
}

TEST(StackMlpAdapterTest, MatchesVoxtralProjector) {
  const auto golden = goldens();
  const auto adapter =
      golden_adapter("voxtral.", "{type: stack_mlp, stack: 4, hidden: 40, bias: false}");
  const at::Tensor y =
      adapter->forward(input_of(golden.at("voxtral.x"), {{.width = 12}, {.width = 12}}));
  EXPECT_TRUE(tensor_near(y, golden.at("voxtral.y"), {2e-5, 1e-5}));
}

TEST(StackMlpAdapterTest, FillsTheLastGroupWithZeros) {
  const Made made =
      drawn_adapter("{type: stack_mlp, stack: 4, hidden: 6}", {3, 5, 1.0}, at::kFloat);
  const at::Tensor x = randn({5, 3}, 1);
  const at::Tensor padded = at::cat({x, at::zeros({3, 3})});
  EXPECT_TRUE(tensor_near(made.adapter->forward(input_of(x, {{.width = 5}})),
                          made.adapter->forward(input_of(padded, {{.width = 8}}))));
}

TEST(PoolAdapterTest, MatchesTorchForFramesAndClassTokens) {
  const auto golden = goldens();
  const auto adapter = golden_adapter(
      "pool.", "{type: pool, grid: [2, 3], hidden: 20, layer_norm: true, output: {rms: true}}");
  const at::Tensor y =
      adapter->forward(input_of(golden.at("pool.x"), {{.frames = 3, .height = 4, .width = 6},
                                                      {.height = 2, .width = 3, .prefix = 1}}));
  EXPECT_TRUE(tensor_near(y, golden.at("pool.y"), {2e-5, 1e-5}));
}

TEST(PoolAdapterTest, RefusesGridsThatDoNotDivide) {
  const Made made = drawn_adapter("{type: pool, grid: [2, 2], hidden: 6}", {3, 5, 1.0}, at::kFloat);
  EXPECT_TRUE((throws_with<DataError>(
      [&] { (void)made.adapter->num_tokens({.height = 4, .width = 5}); }, {"4 x 5", "2 x 2"})));
}

TEST_P(AdapterCases, CountsAreExact) {
  const Case& c = GetParam();
  const Made made = drawn_adapter(c.yaml, {4, 5, 0.3}, at::kFloat);
  for (const auto& items :
       std::vector<std::vector<RowLayout>>{{c.a}, {c.b}, {c.c}, {c.a, c.b, c.c}, {c.c, c.c, c.a}}) {
    int64_t rows = 0, tokens = 0;
    for (const RowLayout& item : items) {
      rows += item.rows();
      tokens += made.adapter->num_tokens(item);
    }
    const at::Tensor y = made.adapter->forward(input_of(randn({rows, 4}, 5), items));
    EXPECT_EQ(y.size(0), tokens);
    EXPECT_EQ(y.size(1), 5);
  }
}

TEST_P(AdapterCases, GradientsMatchDifferences) {
  const Case& c = GetParam();
  const Made made = drawn_adapter(c.yaml, {4, 5, 0.3}, at::kDouble);
  const int64_t rows = c.a.rows() + c.b.rows();
  at::Tensor x = randn({rows, 4}, 6, at::kDouble).set_requires_grad(true);
  const at::Tensor weight =
      randn({made.adapter->num_tokens(c.a) + made.adapter->num_tokens(c.b), 5}, 7, at::kDouble);
  const auto value = [&] {
    return (made.adapter->forward({x, {c.a, c.b}, {{0, 1, 2}, true}}) * weight).sum();
  };
  value().backward();
  std::vector<at::Tensor> all = made.parameters;
  all.push_back(x);
  const c10::NoGradGuard no_graph;
  for (at::Tensor& p : all) {
    ASSERT_TRUE(p.grad().defined());
    double* data = p.mutable_data_ptr<double>();
    at::Tensor differences = at::empty_like(p.grad());
    for (int64_t i = 0; i < p.numel(); ++i) {
      const double before = data[i];
      data[i] = before + 1e-6;
      const double up = value().item<double>();
      data[i] = before - 1e-6;
      const double down = value().item<double>();
      data[i] = before;
      differences.view({-1})[i] = (up - down) / 2e-6;
    }
    EXPECT_TRUE(tensor_near(p.grad(), differences, {1e-7, 1e-5}));
  }
}

TEST_P(AdapterCases, PackedEqualsUnpackedBitwise) {
  const Case& c = GetParam();
  const Made packed = drawn_adapter(c.yaml, {4, 5, 0.3}, at::kFloat);
  const Made alone = drawn_adapter(c.yaml, {4, 5, 0.3}, at::kFloat);
  // Three samples: two items, none, one item.
  const std::vector<std::vector<RowLayout>> samples = {{c.a, c.b}, {}, {c.c}};
  const at::Tensor x = randn({c.a.rows() + c.b.rows() + c.c.rows(), 4}, 8);
  const at::Tensor together =
      packed.adapter->forward({x, {c.a, c.b, c.c}, Segments{{0, 2, 2, 3}, true}});
  const at::Tensor dy = randn(together.sizes(), 9);
  (together * dy).sum().backward();
  int64_t at = 0, token = 0;
  for (const auto& items : samples) {
    int64_t rows = 0;
    for (const RowLayout& item : items) rows += item.rows();
    const auto count = static_cast<int64_t>(items.size());
    const at::Tensor y =
        alone.adapter->forward({x.slice(0, at, at + rows), items, Segments{{0, count}, true}});
    const at::Tensor want = together.slice(0, token, token + y.size(0));
    EXPECT_TRUE(same_bits(y, want));
    if (y.size(0) > 0) (y * dy.slice(0, token, token + y.size(0))).sum().backward();
    at += rows;
    token += y.size(0);
  }
  EXPECT_EQ(token, together.size(0));
  for (size_t i = 0; i < packed.parameters.size(); ++i)
    EXPECT_TRUE(same_bits(packed.parameters[i].grad(), alone.parameters[i].grad()))
        << packed.adapter->parameters()[i].name;
}

TEST_P(AdapterCases, NoItemsGiveNoRows) {
  const Made made = drawn_adapter(GetParam().yaml, {4, 5, 0.3}, at::kFloat);
  const at::Tensor y = made.adapter->forward({at::empty({0, 4}), {}, Segments{{0, 0}, true}});
  EXPECT_EQ(y.sizes(), at::IntArrayRef({0, 5}));
}

TEST(AdapterTest, OutputHasTheRmsOfTheEmbeddings) {
  Weights weights = Weights::random(3, at::kFloat);
  const auto adapter = make_adapter(Config::parse("{type: mlp, hidden: 64, output: {rms: true}}"),
                                    {16, 48, 0.07}, weights.scope("adapter.image."));
  const at::Tensor y = adapter->forward(input_of(randn({10, 16}, 1), {{.width = 10}}));
  EXPECT_TRUE(tensor_near(y.square().mean(1).sqrt(), at::full({10}, 0.07), {1e-5, 1e-4}));
}

TEST(AdapterTest, NarrowWeightsGiveNarrowRows) {
  const Made made = drawn_adapter("{type: pool, grid: [1, 1], hidden: 6, layer_norm: true}",
                                  {4, 5, 0.3}, at::kBFloat16);
  const at::Tensor y =
      made.adapter->forward(input_of(randn({4, 4}, 1), {{.height = 2, .width = 2}}));
  EXPECT_EQ(y.scalar_type(), at::kBFloat16);
}

TEST(AdapterTest, NamesWhatIsWrong) {
  const auto make = [](const std::string& yaml) {
    Weights weights = Weights::random(3, at::kFloat);
    return make_adapter(Config::parse(yaml), {4, 5, 1.0}, weights.scope(""));
  };
  EXPECT_TRUE((throws_with<ConfigError>([&] { make("{type: magic, hidden: 4}"); }, {"type"})));
  EXPECT_TRUE((throws_with<ConfigError>([&] { make("{type: mlp}"); }, {"hidden"})));
  EXPECT_TRUE((throws_with<ConfigError>([&] { make("{type: mlp, hidden: 0}"); }, {"hidden"})));
  EXPECT_TRUE(
      (throws_with<ConfigError>([&] { make("{type: mlp, hidden: 4, stack: 4}"); }, {"stack"})));
  EXPECT_TRUE((throws_with<ConfigError>(
      [&] { make("{type: mlp, hidden: 4, output: {rms: true, scale: 2}}"); }, {"scale"})));
  EXPECT_TRUE((throws_with<ConfigError>([&] { make("{type: stack_mlp, hidden: 4, stack: 0}"); },
                                        {"stack"})));
  EXPECT_TRUE(
      (throws_with<ConfigError>([&] { make("{type: pool, hidden: 4, grid: [2]}"); }, {"grid"})));
  const auto adapter = make("{type: mlp, hidden: 4}");
  EXPECT_TRUE((throws_with<Error>(
      [&] {
        (void)adapter->forward(input_of(at::zeros({3, 4}), {{.width = 2}}));
      },
      {"[3, 4]"})));
}

}  // namespace
}  // namespace euromodal
