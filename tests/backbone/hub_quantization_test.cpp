// hub_quantization_test.cpp — AWQ and GPTQ folders (goldens of make_hub_goldens.py): weights bit
// for bit those that the codes stand for, logits as transformers computes them with those, faults
// named.
#include "backbone/hub_quantization.h"

#include <functional>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include "backbone/kernels/packed_linear/packed_weight.h"
#include "backbone/llama.h"
#include "backbone/packed_model.h"
#include "core/files.h"
#include "tests/support/temp.h"

namespace euromodal {
namespace {

namespace fs = std::filesystem;

const fs::path kGoldens = fs::path(EM_TEST_DIR) / "goldens/hub";

at::Tensor golden(const std::string& name) {
  static const SafetensorsFile file(kGoldens / "logits.safetensors");
  const TensorInfo* info = file.find(name);
  check(info != nullptr, "no golden {}", name);
  return file.tensor(*info);
}

at::Tensor logits_of(const TextModel& model, const at::Tensor& ids_T) {
  const c10::NoGradGuard no_grad;
  const Segments rows = Segments::one(ids_T.size(0));
  return model.llama->logits(model.llama->forward(model.llama->embed(ids_T, rows), rows));
}

double relative_error(const at::Tensor& got, const at::Tensor& want) {
  return ((got - want).norm() / want.norm()).item<double>();
}

struct HubCase {
  const char* name;
  const char* form;  // of down_proj and most others; "": dequantised
};

class HubFolderTest : public testing::TestWithParam<HubCase> {};

TEST_P(HubFolderTest, IsTheModelThatTheCodesStandFor) {
  const std::string name = GetParam().name, form = GetParam().form;
  const TextModel model = load_text_model(kGoldens / name, at::kFloat);
  const Linear& down = model.llama->linears()[6];
  ASSERT_EQ(down.name(), "model.layers.0.mlp.down_proj");
  const at::Tensor want = golden("weight." + name), ids = golden("ids." + name);
  const at::Tensor logits = logits_of(model, ids), want_logits = golden("logits." + name);
  if (form.empty()) {
    ASSERT_EQ(down.packed(), nullptr);
    EXPECT_TRUE(at::equal(down.weight_OI().narrow(0, 0, 16), want));
    EXPECT_LE((logits - want_logits).abs().max().item<double>(),
              2e-5 * want_logits.abs().max().item<double>());
  } else {
    ASSERT_NE(down.packed(), nullptr);
    EXPECT_EQ(packed_form_name(down.packed()->form), form);
    EXPECT_TRUE(at::equal(unpack_weight(*down.packed(), at::kFloat).narrow(0, 0, 16), want));
    EXPECT_LE(relative_error(logits, want_logits), 0.03);  // activations are rounded to int8
  }
  // The same weights as plain matrices: what is left is the rounding of activations.
  std::vector<NamedTensor> plain;
  for (const NamedTensor& p : model.parameters) {
    if (p.tensor.scalar_type() != at::kByte) plain.push_back(p);
  }
  for (const Linear& linear : model.llama->linears()) {
    if (linear.packed())
      plain.push_back({linear.name() + ".weight", unpack_weight(*linear.packed(), at::kFloat)});
  }
  LlamaConfig config = model.config;
  config.packed_linears.clear();
  Weights weights = Weights::from_tensors(std::move(plain), at::kFloat);
  const Llama llama(config, weights.scope());
  weights.finish();
  const c10::NoGradGuard no_grad;
  const Segments rows = Segments::one(ids.size(0));
  const at::Tensor exact = llama.logits(llama.forward(llama.embed(ids, rows), rows));
  EXPECT_LE((exact - want_logits).abs().max().item<double>(),
            2e-5 * want_logits.abs().max().item<double>());
}

INSTANTIATE_TEST_SUITE_P(
    All, HubFolderTest,
    testing::Values(HubCase{"awq", "int4-g32-asym"}, HubCase{"awq_g64", "int4-g32-asym"},
                    HubCase{"awq_symmetric", "int4-g32"}, HubCase{"gptq", "int4-g32-asym"},
                    HubCase{"gptq_v2_rows", "int4-asym"}, HubCase{"gptq_symmetric", "int4-g32"},
                    HubCase{"gptq_act", ""}, HubCase{"gptq_8", "int8-g32-asym"}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(HubQuantizationTest, FormsOfSingleLinears) {
  const TextModel model = load_text_model(kGoldens / "awq_g64", std::nullopt);
  EXPECT_EQ(model.llama->dtype(), at::kBFloat16);  // of a float16 folder
  for (const Linear& linear : model.llama->linears()) {
    const bool plain = linear.name() == "lm_head" || linear.name().ends_with("gate_proj");
    EXPECT_EQ(linear.packed() == nullptr, plain) << linear.name();
  }
  const TextModel head = load_text_model(kGoldens / "gptq_symmetric", std::nullopt);
  ASSERT_NE(head.llama->head().packed(), nullptr);
  EXPECT_EQ(packed_form_name(head.llama->head().packed()->form), "int4-g32");
}

TEST(HubQuantizationTest, CanBeSavedAsAPackedFolder) {
  const TempDir dir;
  const TextModel model = load_text_model(kGoldens / "awq_g64", std::nullopt);
  pack_weights(*model.llama, parse_packed_form("int4-g32-asym"));
  save_packed_model(kGoldens / "awq_g64", dir / "packed", model);
  const TextModel again = load_text_model(dir / "packed", std::nullopt);
  const at::Tensor ids = golden("ids.awq_g64");
  EXPECT_TRUE(at::equal(logits_of(again, ids), logits_of(model, ids)));
}

TEST(HubQuantizationTest, FaultsAreNamed) {
  const TempDir dir;
  const auto with = [&](const std::string& name, const std::string& key, const Json& value) {
    fs::remove_all(dir / "m");
    fs::copy(kGoldens / name, dir / "m");
    Json config = read_json(dir / "m" / "config.json");
    config["quantization_config"][key] = value;
    write_text_atomic(dir / "m" / "config.json", config.dump());
  };
  const auto load = [&] { load_text_model(dir / "m", at::kFloat); };
  const auto config_fails = [&](const std::string& name, const std::string& key, const Json& value,
                                std::initializer_list<std::string_view> words) {
    with(name, key, value);
    EXPECT_TRUE(throws_with<ConfigError>(load, words));
    EXPECT_TRUE(throws_with<ConfigError>(load, {"config.json", "quantization_config"}));
  };
  config_fails("awq", "bits", 3, {"awq of 3 bits", "only 4"});
  config_fails("awq", "version", "gemv", {"version gemv", "gemm"});
  config_fails("awq", "group_size", 0, {"group_size is 0"});
  config_fails("awq", "quant_method", "fp8", {"quant_method", "fp8", "gptq"});
  config_fails("gptq", "bits", 2, {"gptq of 2 bits", "4 and 8"});
  config_fails("gptq", "checkpoint_format", "marlin", {"checkpoint_format marlin", "gptq_v2"});
  config_fails("gptq", "dynamic", {{"a", 1}}, {"dynamic"});
  config_fails("gptq", "is_marlin_format", true, {"is_marlin_format"});
  with("awq", "group_size", 64);  // other sizes than the file's
  EXPECT_TRUE(throws_with<CheckpointError>(load, {"scales", "[2, 64]", "expected [1, 64]"}));
  with("awq", "group_size", 48);
  EXPECT_TRUE(throws_with<CheckpointError>(load, {"q_proj.qweight", "48", "group_size"}));

  const auto change = [&](const std::string& name,
                          const std::function<void(std::vector<NamedTensor>&)>& edit) {
    with(name, "bits", name == "gptq_8" ? 8 : 4);
    std::vector<NamedTensor> tensors = load_model_tensors(dir / "m");
    edit(tensors);
    for (NamedTensor& named : tensors) named.tensor = named.tensor.clone();
    save_model_tensors(dir / "m", tensors);
  };
  const auto find = [](std::vector<NamedTensor>& tensors, const std::string& end) {
    return std::find_if(tensors.begin(), tensors.end(),
                        [&](const NamedTensor& t) { return t.name.ends_with(end); });
  };
  change("gptq", [&](auto& all) { all.erase(find(all, "q_proj.qzeros")); });
  EXPECT_TRUE(throws_with<CheckpointError>(load, {"q_proj.qzeros is missing"}));
  change("gptq", [&](auto& all) { find(all, "o_proj.bias")->tensor = at::ones({64}); });
  EXPECT_TRUE(throws_with<CheckpointError>(load, {"o_proj.bias is not zero", "attention_bias"}));
  change("gptq",
         [&](auto& all) { find(all, "o_proj.g_idx")->tensor = at::full({64}, 2, at::kInt); });
  EXPECT_TRUE(throws_with<CheckpointError>(load, {"o_proj.g_idx", "2", "0 to 1"}));
  change("awq", [&](auto& all) {
    const auto q = find(all, "k_proj.qweight");
    q->tensor = q->tensor.to(at::kLong);
  });
  EXPECT_TRUE(throws_with<CheckpointError>(load, {"k_proj.qweight", "Long", "Int"}));
  change("awq", [&](auto& all) {
    const auto s = find(all, "v_proj.scales");
    s->tensor = at::full_like(s->tensor, INFINITY);
  });
  EXPECT_TRUE(throws_with<CheckpointError>(load, {"v_proj", "finite"}));
  change("awq", [&](auto& all) {
    all.push_back({"model.layers.0.mlp.up_proj.weight", at::ones({1})});
  });
  EXPECT_TRUE(throws_with<CheckpointError>(load, {"unexpected", "up_proj.weight"}));
}

}  // namespace
}  // namespace euromodal
