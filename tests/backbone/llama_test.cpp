// llama_test.cpp — the backbone against transformers (goldens/): logits, loss, gradients, greedy
// tokens; cached = uncached; packed = one by one, bit for bit in per-sample mode; bf16.
#include "backbone/llama.h"

#include <filesystem>

#include <c10/core/GradMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "backbone/kernels/ops.h"
#include "core/files.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

namespace fs = std::filesystem;
using testing_support::tensor_equal;
using testing_support::tensor_near;

struct Golden {
  LlamaConfig config;
  std::vector<NamedTensor> weights;
  std::map<std::string, at::Tensor> t;
};

Golden load_golden(const std::string& name) {
  Golden out;
  const fs::path base = fs::path(EM_TEST_DIR) / "goldens" / name;
  const Json json = read_json(base.string() + ".json");
  out.config = LlamaConfig::from_json(JsonView(json, name));
  const SafetensorsFile file(base.string() + ".safetensors");
  for (const TensorInfo& info : file.infos()) {
    at::Tensor tensor = file.tensor(info).clone();
    if (info.name.starts_with("weights.")) {
      out.weights.push_back({info.name.substr(8), std::move(tensor)});
    } else {
      out.t[info.name] = std::move(tensor);
    }
  }
  return out;
}

struct Built {
  Llama llama;
  std::map<std::string, at::Tensor> parameters;
  // The head; of a tied model a handle of its own, as the trainer takes one: the table's gradients
  // from its two ends are summed apart, each in sample order.
  at::Tensor head_VD;
};

Built build(const Golden& golden, at::ScalarType dtype, bool train = false) {
  Weights weights = Weights::from_tensors(golden.weights, dtype, "golden");
  Built out{Llama(golden.config, weights.scope()), {}, {}};
  weights.finish();
  for (const NamedTensor& p : weights.taken()) {
    if (train) p.tensor.requires_grad_(true);
    out.parameters[p.name] = p.tensor;
  }
  out.head_VD = out.llama.head_VD();
  if (train && golden.config.tie_embeddings) {
    out.head_VD = out.head_VD.detach().requires_grad_(true);
  }
  return out;
}

class LlamaGoldenTest : public testing::TestWithParam<const char*> {};

TEST_P(LlamaGoldenTest, LogitsMatchTransformers) {
  const Golden golden = load_golden(GetParam());
  const Built model = build(golden, at::kFloat);
  const c10::NoGradGuard no_grad;
  const Segments rows = Segments::one(golden.t.at("ids").size(0));
  const at::Tensor h_TD = model.llama.forward(model.llama.embed(golden.t.at("ids"), rows), rows);
  EXPECT_TRUE(
      tensor_near(model.llama.logits(h_TD), golden.t.at("logits"), {.abs = 2e-5, .rel = 2e-5}));
}

TEST_P(LlamaGoldenTest, LossAndGradientsMatchTransformers) {
  const Golden golden = load_golden(GetParam());
  const Built model = build(golden, at::kFloat, /*train=*/true);
  const at::Tensor ids_T = golden.t.at("ids");
  const int64_t T = ids_T.size(0);
  const Segments rows = Segments::one(T);
  const at::Tensor h_TD = model.llama.forward(model.llama.embed(ids_T, rows), rows);
  const at::Tensor sum = linear_cross_entropy({.hidden_RD = h_TD.narrow(0, 0, T - 1),
                                               .weight_VD = model.llama.head_VD(),
                                               .labels_R = ids_T.narrow(0, 1, T - 1),
                                               .row_weight_R = {},
                                               .label_smoothing = 0.0,
                                               .chunk_rows = 16},
                                              Segments::one(T - 1));
  const at::Tensor loss = sum / static_cast<double>(T - 1);
  EXPECT_TRUE(tensor_near(loss, golden.t.at("loss"), {.abs = 1e-5, .rel = 1e-5}));
  loss.backward();
  int compared = 0;
  for (const auto& [name, want] : golden.t) {
    if (!name.starts_with("grad.")) continue;
    ASSERT_TRUE(model.parameters.at(name.substr(5)).grad().defined()) << name;
    EXPECT_TRUE(
        tensor_near(model.parameters.at(name.substr(5)).grad(), want, {.abs = 2e-5, .rel = 1e-3}))
        << name;
    ++compared;
  }
  EXPECT_EQ(compared, 7);
  for (const auto& [name, p] : model.parameters) EXPECT_TRUE(p.grad().defined()) << name;
}

TEST_P(LlamaGoldenTest, CachedEqualsUncachedAndGreedyTokensMatch) {
  const Golden golden = load_golden(GetParam());
  const Built model = build(golden, at::kFloat);
  const c10::NoGradGuard no_grad;
  const at::Tensor want = golden.t.at("greedy");
  std::vector<int64_t> got;
  KvCache cache = model.llama.make_cache();
  at::Tensor ids = golden.t.at("ids").narrow(0, 0, 9);
  std::vector<int64_t> all(ids.const_data_ptr<int64_t>(), ids.const_data_ptr<int64_t>() + 9);
  for (int64_t step = 0; step < want.size(0); ++step) {
    const at::Tensor h =
        model.llama.forward_cached(model.llama.embed(ids, Segments::one(ids.size(0))), cache);
    const at::Tensor logits = model.llama.logits(h.narrow(0, h.size(0) - 1, 1));
    const Segments rows = Segments::one(static_cast<int64_t>(all.size()));
    const at::Tensor whole =
        model.llama.forward(model.llama.embed(at::tensor(all, at::kLong), rows), rows);
    ASSERT_TRUE(tensor_near(logits, model.llama.logits(whole.narrow(0, whole.size(0) - 1, 1)),
                            {.abs = 2e-5, .rel = 2e-5}))
        << "step " << step;
    got.push_back(logits.argmax().item<int64_t>());
    all.push_back(got.back());
    ids = at::tensor(std::vector<int64_t>{got.back()}, at::kLong);
  }
  EXPECT_EQ(got, std::vector<int64_t>(want.const_data_ptr<int64_t>(),
                                      want.const_data_ptr<int64_t>() + want.size(0)));
}

TEST_P(LlamaGoldenTest, Bfloat16PointsTheSameWay) {
  const Golden golden = load_golden(GetParam());
  const Built model = build(golden, at::kBFloat16);
  const c10::NoGradGuard no_grad;
  const Segments rows = Segments::one(golden.t.at("ids").size(0));
  const at::Tensor got =
      model.llama.logits(model.llama.forward(model.llama.embed(golden.t.at("ids"), rows), rows));
  EXPECT_EQ(got.scalar_type(), at::kFloat);
  EXPECT_GT(at::cosine_similarity(got.flatten(), golden.t.at("logits").flatten(), 0).item<double>(),
            0.999);
}

INSTANTIATE_TEST_SUITE_P(Models, LlamaGoldenTest,
                         testing::Values("gqa1_theta1e4", "gqa2_theta1e6", "gqa6_tied",
                                         "biases_head_dim", "rope_linear", "rope_dynamic",
                                         "rope_llama3", "rope_yarn"),
                         [](const auto& info) { return std::string(info.param); });

/// Sum of the next-token losses of samples in one pack; gradients accumulate in the parameters.
double packed_loss(const Built& model, const std::vector<at::Tensor>& samples) {
  std::vector<int64_t> lengths, kept;
  for (const at::Tensor& s : samples) lengths.push_back(s.size(0));
  const Segments rows = Segments::from_lengths(lengths, /*per_sample=*/true);
  const at::Tensor ids_T = at::cat(samples);
  std::vector<int64_t> picked, labels;
  for (int64_t s = 0; s < rows.count(); ++s) {
    kept.push_back(rows.length(s) - 1);
    for (int64_t t = rows.begin(s); t + 1 < rows.cu[s + 1]; ++t) {
      picked.push_back(t);
      labels.push_back(ids_T[t + 1].item<int64_t>());
    }
  }
  const at::Tensor h_TD = model.llama.forward(model.llama.embed(ids_T, rows), rows);
  const at::Tensor loss =
      linear_cross_entropy({.hidden_RD = h_TD.index_select(0, at::tensor(picked, at::kLong)),
                            .weight_VD = model.head_VD,
                            .labels_R = at::tensor(labels, at::kLong),
                            .row_weight_R = {}},
                           Segments::from_lengths(kept, /*per_sample=*/true));
  loss.backward();
  return loss.item<double>();
}

TEST(LlamaPackingTest, PackedEqualsOneByOneBitForBit) {
  for (const char* name : {"gqa2_theta1e6", "gqa6_tied", "biases_head_dim"}) {
    const Golden golden = load_golden(name);
    std::vector<at::Tensor> samples;
    const at::Tensor ids = golden.t.at("ids");
    for (const auto& [start, length] :
         std::vector<std::pair<int64_t, int64_t>>{{0, 7}, {7, 2}, {9, 19}, {28, 7}, {35, 13}})
      samples.push_back(ids.narrow(0, start, length));
    const Built packed = build(golden, at::kFloat, /*train=*/true),
                single = build(golden, at::kFloat, /*train=*/true);
    const double together = packed_loss(packed, samples);
    float apart = 0.0F;
    for (const at::Tensor& s : samples) apart += static_cast<float>(packed_loss(single, {s}));
    EXPECT_EQ(together, static_cast<double>(apart)) << name;
    for (const auto& [key, p] : packed.parameters)
      EXPECT_TRUE(tensor_equal(p.grad(), single.parameters.at(key).grad())) << name << " " << key;
    EXPECT_TRUE(tensor_equal(packed.head_VD.grad(), single.head_VD.grad())) << name;
  }
}

TEST(LlamaFolderTest, SavedAndLoadedAgreeAndDtypesFollowTheFolder) {
  const fs::path dir = fs::path(testing::TempDir()) / "llama_folder";
  fs::remove_all(dir);
  const Golden golden = load_golden("gqa6_tied");
  save_text_model(dir, golden.config, golden.weights);
  const TextModel f32 = load_text_model(dir, std::nullopt);
  EXPECT_EQ(f32.llama->dtype(), at::kFloat);
  EXPECT_EQ(f32.config.num_parameters(), golden.config.num_parameters());
  int64_t counted = 0;
  for (const NamedTensor& p : f32.parameters) counted += p.tensor.numel();
  EXPECT_EQ(counted, golden.config.num_parameters());
  EXPECT_EQ(load_text_model(dir, at::kBFloat16).llama->dtype(), at::kBFloat16);
  const c10::NoGradGuard no_grad;
  const Segments rows = Segments::one(50);
  EXPECT_TRUE(tensor_near(
      f32.llama->logits(f32.llama->forward(f32.llama->embed(golden.t.at("ids"), rows), rows)),
      golden.t.at("logits"), {.abs = 2e-5, .rel = 2e-5}));
}

TEST(LlamaFolderTest, AFreshModelDependsOnItsSeedAlone) {
  const LlamaConfig config = load_golden("gqa2_theta1e6").config;
  const TextModel a = random_text_model(config, 7), b = random_text_model(config, 7),
                  c = random_text_model(config, 8);
  ASSERT_EQ(a.parameters.size(), b.parameters.size());
  bool differs = false;
  for (size_t i = 0; i < a.parameters.size(); ++i) {
    EXPECT_TRUE(tensor_equal(a.parameters[i].tensor, b.parameters[i].tensor));
    differs |= !a.parameters[i].tensor.equal(c.parameters[i].tensor);
  }
  EXPECT_TRUE(differs);
}

TEST(LlamaErrorsTest, IdsAndLengthsAreChecked) {
  const Built model = build(load_golden("gqa2_theta1e6"), at::kFloat);
  const c10::NoGradGuard no_grad;
  const auto error_of = [](auto call) -> std::string {
    try {
      call();
    } catch (const DataError& e) {
      return e.what();
    }
    return "no error";
  };
  EXPECT_THAT(error_of([&] {
                (void)model.llama.embed(at::tensor(std::vector<int64_t>{1, 96}, at::kLong),
                                        Segments::one(2));
              }),
              testing::HasSubstr("token id 96 is outside the vocabulary of 96"));
  EXPECT_THAT(error_of([&] {
                (void)model.llama.embed(at::tensor(std::vector<int64_t>{-1}, at::kLong),
                                        Segments::one(1));
              }),
              testing::HasSubstr("token id -1"));
  const at::Tensor long_TD = at::zeros({129, 24});
  EXPECT_THAT(
      error_of([&] { (void)model.llama.forward(long_TD, Segments::one(129)); }),
      testing::AllOf(testing::HasSubstr("129"), testing::HasSubstr("max_position_embeddings 128")));
  KvCache cache = model.llama.make_cache();
  EXPECT_THAT(error_of([&] { (void)model.llama.forward_cached(long_TD, cache); }),
              testing::HasSubstr("max_position_embeddings 128"));
}

}  // namespace
}  // namespace euromodal
