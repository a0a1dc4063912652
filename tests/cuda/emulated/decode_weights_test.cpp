// decode_weights_test.cpp — a block's linears as the device decoder reads them: fused in every
// form, by the emulated quantiser, with the numbers that the same word gives on the CPU; faults
// named.
#include "backbone/cuda/decode_weights.h"

#include <cctype>
#include <limits>
#include <map>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include "backbone/device_model.h"
#include "backbone/kernels/skinny_linear/skinny_linear_ref.h"
#include "backbone/packed_model.h"
#include "core/error.h"
#include "tests/support/small_llama.h"
#include "tests/support/temp.h"

namespace euromodal {
namespace {

/// bf16, widths that are no whole blocks.
TextModel bf16_model() {
  TextModel out = testing_support::small_llama({61, 96, 224, 2, 4, 2, 24, 64});
  for (const NamedTensor& p : out.parameters) p.tensor.set_data(p.tensor.to(at::kBFloat16));
  return out;
}

at::Tensor rows_of(std::initializer_list<const Linear*> linears) {
  std::vector<at::Tensor> out;
  for (const Linear* linear : linears) out.push_back(linear->weight_OI().clone());
  return at::cat(out);
}

TEST(DecodeWeightsTest, AreTheNumbersOfTheCpusFormOfThatName) {
  for (const char* word : {"bfloat16", "float8", "int8", "int8-asym", "int8-g32", "int8-g32-asym",
                           "int4", "int4-asym", "int4-g32", "int4-g32-asym"}) {
    SCOPED_TRACE(word);
    const TextModel model = bf16_model();
    const SkinnyForm form = parse_skinny_form(word);
    std::vector<at::Tensor> plain;
    for (const LlamaBlock& b : model.llama->blocks()) {
      for (const at::Tensor& weight : {rows_of({&b.q, &b.k, &b.v}), rows_of({&b.o}),
                                       rows_of({&b.gate, &b.up}), rows_of({&b.down})})
        plain.push_back(weight);
    }
    size_t i = 0;
    for (const DecodeBlock& block : decode_blocks(*model.llama, form, nullptr)) {
      for (const DecodeLinear* linear : {&block.qkv, &block.o, &block.gate_up, &block.down}) {
        const at::Tensor want = plain.at(i++);
        EXPECT_EQ(linear->weight.form, form);
        EXPECT_TRUE(linear->weight_OI.equal(want));
        const at::Tensor numbers = skinny_weight_numbers(linear->weight);
        EXPECT_TRUE(numbers.equal(skinny_weight_numbers(quantize_rows_ref(want, form))));
        if (form.type != DType::kFp8E4M3) {
          EXPECT_TRUE(numbers.equal(
              unpack_weight(pack_weight(want, parse_packed_form(word)), at::kDouble)));
        }
        EXPECT_EQ(linear->inputs(), want.size(1));
        EXPECT_EQ(linear->outputs(), want.size(0));
      }
    }
    EXPECT_EQ(i, plain.size());
  }
}

/// What each linear stands for, by name, f64.
std::map<std::string, at::Tensor> numbers_of(const TextModel& model) {
  std::map<std::string, at::Tensor> out;
  for (const Linear& linear : all_linears(*model.llama))
    out[linear.name()] = linear.packed() ? unpack_weight(*linear.packed(), at::kDouble)
                                         : linear.weight_OI().to(at::kDouble);
  return out;
}

at::Tensor logits_of(const TextModel& model) {
  const c10::NoGradGuard no_grad;
  const Segments rows = Segments::one(5);
  const at::Tensor emb_TD = model.llama->embed(at::tensor({5, 1, 17, 3, 9}, at::kLong), rows);
  return model.llama->logits(model.llama->forward(emb_TD, rows));
}

/// The model without codes: what they stand for as plain matrices.
TextModel plain_model(const TextModel& model) {
  TextModel out;
  out.config = model.config;
  out.config.packed.reset();
  out.config.packed_linears.clear();
  out.config.tie_embeddings = false;
  std::map<std::string, at::Tensor> tensors;
  for (const NamedTensor& p : model.parameters)
    if (p.tensor.scalar_type() != at::kByte && p.tensor.numel() > 0) tensors[p.name] = p.tensor;
  for (const auto& [name, numbers] : numbers_of(model))
    tensors[name + ".weight"] = numbers.to(at::kFloat).to(model.llama->dtype());
  std::vector<NamedTensor> all;
  for (const auto& [name, tensor] : tensors) all.push_back({name, tensor});
  Weights weights = Weights::from_tensors(std::move(all), model.llama->dtype());
  out.llama = std::make_unique<Llama>(out.config, weights.scope());
  weights.finish();
  return out;
}

struct Stored {
  const char* name;  // under tests/backbone/goldens
  const char* qkv;   // forms
  const char* gate_up;
  const char* head;
};

class StoredWeightsTest : public testing::TestWithParam<Stored> {};

TEST_P(StoredWeightsTest, AreReadWithoutRounding) {
  const auto& [name, qkv, gate_up, head] = GetParam();
  const std::filesystem::path dir = std::filesystem::path(EM_GOLDENS_DIR) / name;
  const TextModel on_cpu = load_text_model(dir, at::kBFloat16),
                  model = load_text_model(dir, at::kBFloat16);
  const auto want = numbers_of(on_cpu);
  const at::Tensor want_logits = logits_of(plain_model(on_cpu));
  use_device_codes(*model.llama, at::kCPU);
  EXPECT_TRUE(logits_of(model).equal(want_logits)) << "widened for each product";
  const auto blocks = decode_blocks(*model.llama, std::nullopt, nullptr);
  const std::vector<const Linear*> only_head = {&model.llama->head()};
  const DecodeLinear made_head = fuse(only_head, std::nullopt, nullptr);
  EXPECT_EQ(skinny_form_name(blocks[0].qkv.weight.form), qkv);
  EXPECT_EQ(skinny_form_name(blocks[0].gate_up.weight.form), gate_up);
  EXPECT_EQ(skinny_form_name(made_head.weight.form), head);
  const auto expect_same = [&](const DecodeLinear& got, const std::vector<const Linear*>& linears) {
    std::vector<at::Tensor> rows;
    for (const Linear* linear : linears) rows.push_back(want.at(linear->name()));
    at::Tensor numbers = at::cat(rows);
    if (got.weight.form == SkinnyForm{}) numbers = numbers.to(at::kFloat).to(at::kBFloat16);
    EXPECT_TRUE(skinny_weight_numbers(got.weight).equal(numbers.to(at::kDouble))) << got.name;
    const at::Tensor plain_OI =
        got.weight_OI.defined() ? got.weight_OI : widen_rows(got.weight, at::kBFloat16);
    EXPECT_TRUE(plain_OI.equal(numbers.to(at::kFloat).to(at::kBFloat16))) << got.name;
  };
  for (size_t i = 0; i < blocks.size(); ++i) {
    const LlamaBlock& b = model.llama->blocks()[i];
    expect_same(blocks[i].qkv, {&b.q, &b.k, &b.v});
    expect_same(blocks[i].o, {&b.o});
    expect_same(blocks[i].gate_up, {&b.gate, &b.up});
    expect_same(blocks[i].down, {&b.down});
  }
  expect_same(made_head, only_head);
  EXPECT_TRUE(logits_of(model).equal(want_logits)) << "views of the fused weights";
}

INSTANTIATE_TEST_SUITE_P(
    All, StoredWeightsTest,
    testing::Values(Stored{"hub/awq", "int4-g32-asym", "int4-g32-asym", "bfloat16"},
                    Stored{"hub/awq_g64", "int4-g32-asym", "bfloat16", "bfloat16"},
                    Stored{"hub/awq_symmetric", "int4-g32", "int4-g32", "bfloat16"},
                    Stored{"hub/gptq", "int4-g32-asym", "int4-g32-asym", "bfloat16"},
                    Stored{"hub/gptq_v2_rows", "int4-g32-asym", "int4-g32-asym", "bfloat16"},
                    Stored{"hub/gptq_symmetric", "int4-g32", "int4-g32", "int4-g32"},
                    Stored{"hub/gptq_act", "bfloat16", "bfloat16", "bfloat16"},
                    Stored{"hub/gptq_8", "int8-g32-asym", "int8-g32-asym", "bfloat16"},
                    Stored{"gguf/q8_0.gguf", "int8-g32", "int8-g32", "int8-g32"},
                    Stored{"gguf/parts/q8_0-00001-of-00003.gguf", "int8-g32", "int8-g32",
                           "int8-g32"},
                    Stored{"gguf/q4_0.gguf", "int4-g32", "int4-g32", "int4-g32"},
                    Stored{"gguf/k_quants.gguf", "bfloat16", "bfloat16", "bfloat16"},
                    Stored{"gguf/bf16.gguf", "bfloat16", "bfloat16", "bfloat16"}),
    [](const auto& info) {
      std::string name = info.param.name;
      for (char& c : name)
        if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
      return name;
    });

// Folders of `euromodal quantize`.
TEST(DecodeWeightsTest, PackedFoldersAreReadWithoutRounding) {
  for (const char* word : {"bfloat16", "int8", "int8-g32-asym", "int4-asym", "int4-g32"}) {
    SCOPED_TRACE(word);
    const TempDir dir;
    TextModel drawn = bf16_model();
    drawn.config.rms_norm_eps = 1e-5;
    save_text_model(dir / "plain", drawn.config, drawn.parameters);
    {
      const TextModel made = load_text_model(dir / "plain", std::nullopt);
      pack_weights(*made.llama, parse_packed_form(word));
      save_packed_model(dir / "plain", dir / "packed", made);
    }
    const TextModel on_cpu = load_text_model(dir / "packed", std::nullopt),
                    model = load_text_model(dir / "packed", std::nullopt);
    const auto want = numbers_of(on_cpu);
    use_device_codes(*model.llama, at::kCPU);
    EXPECT_TRUE(logits_of(model).equal(logits_of(plain_model(on_cpu))));
    const auto blocks = decode_blocks(*model.llama, std::nullopt, nullptr);
    EXPECT_EQ(skinny_form_name(blocks[1].down.weight.form), word);
    EXPECT_TRUE(skinny_weight_numbers(blocks[1].down.weight)
                    .equal(want.at("model.layers.1.mlp.down_proj")));
    if (word != std::string("bfloat16")) {
      EXPECT_TRUE(throws_with<Error>(
          [&] { decode_blocks(*model.llama, parse_skinny_form("float8"), nullptr); },
          {"q_proj", word, "float8", "--weights"}));
    }
  }
}

// A folder that left some linears plain: what is asked for holds for those, codes stay.
TEST(DecodeWeightsTest, PlainNeighboursBecomeCodesWhenAskedFor) {
  const std::filesystem::path dir = std::filesystem::path(EM_GOLDENS_DIR) / "hub/awq_g64";
  const TextModel on_cpu = load_text_model(dir, at::kBFloat16),
                  model = load_text_model(dir, at::kBFloat16);
  const SkinnyForm form = parse_skinny_form("int4-g32-asym");
  use_device_codes(*model.llama, at::kCPU);
  const auto blocks = decode_blocks(*model.llama, form, nullptr);
  const LlamaBlock& b = on_cpu.llama->blocks()[0];
  ASSERT_EQ(b.gate.packed(), nullptr);
  EXPECT_EQ(blocks[0].gate_up.weight.form, form);
  EXPECT_TRUE(
      skinny_weight_numbers(blocks[0].gate_up.weight)
          .equal(at::cat({skinny_weight_numbers(quantize_rows_ref(b.gate.weight_OI(), form)),
                          unpack_weight(*b.up.packed(), at::kDouble)})));
}

TEST(DecodeWeightsTest, FaultsAreNamed) {
  const TextModel model = bf16_model();
  model.llama->blocks()[1].down.weight_OI()[3][5] = std::numeric_limits<float>::infinity();
  EXPECT_TRUE(throws_with<Error>(
      [&] { decode_blocks(*model.llama, parse_skinny_form("int4-g32"), nullptr); },
      {"model.layers.1.mlp.down_proj", "not finite", "int4-g32"}));
  EXPECT_TRUE(throws_with<Error>([] { parse_skinny_form("int4-g64"); },
                                 {"int4-g64", "int4", "-g32", "-asym", "float8"}));
}

}  // namespace
}  // namespace euromodal
