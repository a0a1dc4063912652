// decode_weights_test.cpp — a block's linears as the device decoder reads them: fused in every
// form, by the emulated quantiser, with the numbers that the same word gives on the CPU; faults
// named.
#include "backbone/cuda/decode_weights.h"

#include <limits>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "backbone/kernels/skinny_linear/skinny_linear_ref.h"
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
