// packed_model_test.cpp — a backbone with packed weights: close to the plain one, the same from a
// packed folder as from memory, memory given back, faults named.
#include "backbone/packed_model.h"

#include <c10/core/GradMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "backbone/device.h"
#include "backbone/kernels/packed_linear/packed_weight.h"
#include "backbone/lora.h"
#include "core/files.h"
#include "core/json.h"
#include "tests/support/gradcheck.h"
#include "tests/support/small_llama.h"
#include "tests/support/temp.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

namespace fs = std::filesystem;
using namespace testing_support;

LlamaConfig small_config(bool tied) {
  LlamaConfig config = llama_config(
      {.V = 100, .D = 64, .F = 96, .layers = 2, .H = 4, .K = 2, .N = 16, .positions = 64});
  config.tie_embeddings = tied;
  config.rms_norm_eps = 1e-5;
  config.attention_bias = true;
  config.dtype = "bfloat16";
  return config;
}

TextModel small_model(at::ScalarType dtype, bool tied = false) {
  return drawn_model(small_config(tied), dtype);
}

at::Tensor logits_of(const Llama& llama) {
  const c10::NoGradGuard no_grad;
  const auto ids = at::arange(3, 40);
  const Segments rows = Segments::one(ids.size(0));
  return llama.logits(llama.forward(llama.embed(ids, rows), rows));
}

std::vector<PackedForm> forms() {
  return {{},
          {WeightForm::kInt8, 128},
          {WeightForm::kInt8, 32, true},
          {WeightForm::kInt4, 32},
          {WeightForm::kInt4, 128, true}};
}

/// Norm of the difference over the norm.
double relative_error(const at::Tensor& got, const at::Tensor& want) {
  return ((got - want).norm() / want.norm()).item<double>();
}

TEST(PackedModelTest, LogitsStayClose) {
  for (const bool tied : {false, true}) {
    for (const PackedForm& form : forms()) {
      SCOPED_TRACE(packed_form_name(form));
      const TextModel model = small_model(at::kBFloat16, tied);
      const at::Tensor want = logits_of(*model.llama);
      pack_weights(*model.llama, form);
      EXPECT_EQ(packed_form(*model.llama), form);
      const double most = form.form == WeightForm::kBf16   ? 0.02
                          : form.form == WeightForm::kInt8 ? 0.03
                                                           : 0.25;
      EXPECT_LE(relative_error(logits_of(*model.llama), want), most);
      EXPECT_EQ(model.llama->linears()[0].weight_OI().numel(), 0);
      EXPECT_EQ(model.llama->embedding_VD().numel(), 100 * 64);
      pack_weights(*model.llama, form);  // again: nothing happens
      const PackedForm other{WeightForm::kInt8, form.group == 32 ? 128 : 32};
      EXPECT_TRUE((throws_with<Error>([&] { pack_weights(*model.llama, other); },
                                      {packed_form_name(form), packed_form_name(other)})));
    }
  }
}

TEST(PackedModelTest, FolderIsTheModelInMemory) {
  for (const bool tied : {false, true}) {
    for (const PackedForm& form : forms()) {
      SCOPED_TRACE(packed_form_name(form));
      const TempDir dir;
      const TextModel model = small_model(at::kBFloat16, tied);
      save_text_model(dir / "plain", model.config, model.parameters);
      write_text_atomic(dir / "plain" / "tokenizer_config.json", "{}");
      pack_weights(*model.llama, form);
      save_packed_model(dir / "plain", dir / "packed", model);
      EXPECT_TRUE(fs::exists(dir / "packed" / "tokenizer_config.json"));
      const TextModel loaded = load_text_model(dir / "packed", std::nullopt);
      EXPECT_EQ(packed_form(*loaded.llama), form);
      EXPECT_EQ(linear_bytes(*loaded.llama), linear_bytes(*model.llama));
      EXPECT_TRUE(at::equal(logits_of(*loaded.llama), logits_of(*model.llama)));
    }
  }
}

TEST(PackedModelTest, LoraIsMergedBefore) {
  const TextModel model = small_model(at::kFloat), merged = small_model(at::kFloat);
  for (const TextModel* m : {&model, &merged}) {
    Linear q = m->llama->linears()[0];
    q.set_lora({randn({4, 64}, 7), randn({64, 4}, 8)});
  }
  merge_lora(merged.llama->linears());
  const PackedForm form{WeightForm::kInt8, 32};
  pack_weights(*model.llama, form);
  pack_weights(*merged.llama, form);
  EXPECT_TRUE(at::equal(logits_of(*model.llama), logits_of(*merged.llama)));
}

TEST(PackedModelTest, FaultsAreNamed) {
  const TextModel model = small_model(at::kFloat);
  EXPECT_TRUE((throws_with<Error>([&] { pack_weights(*model.llama, PackedForm{}); },
                                  {"Float", "bfloat16"})));
  pack_weights(*model.llama, {WeightForm::kInt8, 32});
  const auto ids = at::arange(3, 9);
  const Segments rows = Segments::one(6);
  const at::Tensor emb = model.llama->embed(ids, rows).detach().requires_grad_(true);
  EXPECT_TRUE((throws_with<Error>([&] { model.llama->forward(emb, rows); },
                                  {"q_proj", "packed for inference", "gradient"})));
  Linear q = model.llama->linears()[0];
  EXPECT_TRUE((throws_with<Error>(
      [&] {
        q.set_lora({randn({4, 64}, 7), randn({64, 4}, 8)});
      },
      {"q_proj", "packed"})));
  EXPECT_TRUE((throws_with<Error>(
      [&] {
        move_parameters({{"w", at::zeros({4}, at::kByte)}}, at::Device("cuda"));
      },
      {"w", "packed", "inference", "original folder"})));
}

TEST(PackedModelTest, DamagedFoldersAreErrors) {
  const TempDir dir;
  const TextModel model = small_model(at::kBFloat16);
  save_text_model(dir / "plain", model.config, model.parameters);
  pack_weights(*model.llama, {WeightForm::kInt8, 32});
  save_packed_model(dir / "plain", dir / "packed", model);
  const std::string config = read_text(dir / "packed" / "config.json");
  const auto with = [&](const std::string& word) {
    std::string text = config;
    text.replace(text.find("int8-g32"), 8, word);
    write_text_atomic(dir / "packed" / "config.json", text);
  };
  with("int5");
  EXPECT_TRUE((throws_with<ConfigError>([&] { load_text_model(dir / "packed", std::nullopt); },
                                        {"quantization_config", "int5"})));
  with("int4-g32");  // other sizes
  EXPECT_TRUE((throws_with<CheckpointError>([&] { load_text_model(dir / "packed", std::nullopt); },
                                            {"q_proj.weight.packed", "shape"})));
  Json other = Json::parse(config);
  other["quantization_config"]["quant_method"] = "bitsandbytes";
  write_text_atomic(dir / "packed" / "config.json", other.dump());
  EXPECT_TRUE((throws_with<ConfigError>([&] { load_text_model(dir / "packed", std::nullopt); },
                                        {"quant_method", "bitsandbytes", "euromodal quantize"})));
}

TEST(PackCodesTest, CodesAreTheWeights) {
  for (const PackedForm& form : forms()) {
    if (form.form == WeightForm::kBf16) continue;
    SCOPED_TRACE(packed_form_name(form));
    // Neither whole blocks of outputs nor whole groups of inputs.
    const int64_t O = 37, I = 100, G = (I + form.group - 1) / form.group;
    const int64_t top = form.form == WeightForm::kInt4 ? 16 : 256;
    const at::Tensor codes = (randn({O, I}, 1).abs() * 1000).remainder(top).to(at::kByte),
                     scales = randn({O, G}, 2).to(at::kHalf),
                     zeros = (randn({O, G}, 3).abs() * 1000).remainder(top).to(at::kByte);
    const at::Tensor wide_zeros = form.asymmetric ? zeros : at::full_like(zeros, top / 2);
    const auto spread = [&](const at::Tensor& x) {
      return x.to(at::kFloat).repeat_interleave(form.group, 1).narrow(1, 0, I);
    };
    const PackedWeight packed =
        pack_codes(codes, scales, form.asymmetric ? zeros : at::Tensor(), form);
    EXPECT_TRUE(at::equal(unpack_weight(packed, at::kFloat),
                          spread(scales) * (codes.to(at::kFloat) - spread(wide_zeros))));
    const auto fails = [&](const at::Tensor& c, const at::Tensor& s, const at::Tensor& z,
                           std::initializer_list<std::string_view> words) {
      EXPECT_TRUE(throws_with<Error>([&] { pack_codes(c, s, z, form); }, words));
    };
    const at::Tensor good = form.asymmetric ? zeros : at::Tensor();
    fails(codes, scales.narrow(0, 0, 5), good, {"scales", "37"});
    fails(codes, scales.to(at::kFloat), good, {"scales f16", "Float"});
    fails(codes, scales, form.asymmetric ? at::Tensor() : zeros, {"zeros"});
    fails(codes, at::full_like(scales, INFINITY), good, {"finite"});
    fails(codes.to(at::kInt), scales, good, {"codes u8", "Int"});
    if (top == 16) fails(at::full_like(codes, 16), scales, good, {"int4", "15"});
  }
}

}  // namespace
}  // namespace euromodal
