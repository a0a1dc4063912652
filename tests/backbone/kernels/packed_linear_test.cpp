// packed_linear_test.cpp — packed weights and products with them, on every instruction set that
// this machine has: integers bit for bit their reference, bf16 within the rounding of f32 sums.
#include "backbone/kernels/packed_linear/packed_linear.h"

#include <array>
#include <limits>
#include <vector>

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "backbone/kernels/packed_linear/packed_linear_ref.h"
#include "backbone/kernels/packed_linear/packed_product.h"
#include "core/error.h"
#include "tests/support/gradcheck.h"
#include "tests/support/packed_forms.h"
#include "tests/support/temp.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

using testing_support::integer_forms;

using namespace testing_support;

std::vector<CpuIsa> machine_isas() {
  std::vector<CpuIsa> out;
  for (int isa = 0; isa <= static_cast<int>(machine_isa()); ++isa)
    out.push_back(static_cast<CpuIsa>(isa));
  return out;
}

constexpr std::array<std::array<int64_t, 3>, 8> kSizes = {{{1, 256, 64},
                                                           {3, 31, 5},
                                                           {13, 129, 33},
                                                           {26, 192, 50},
                                                           {1, 1, 1},
                                                           {0, 32, 16},
                                                           {7, 160, 40},
                                                           {8, 257, 72}}};

TEST(PackedLinearTest, IntegersAreTheReferenceBitForBit) {
  for (const PackedForm& form : integer_forms()) {
    for (const auto& [t, i, o] : kSizes) {
      const PackedWeight w = pack_weight(randn({o, i}, 1), form);
      for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
        const at::Tensor x = randn({t, i}, 2, dtype), bias = randn({o}, 3, dtype);
        for (const CpuIsa isa : machine_isas()) {
          SCOPED_TRACE(packed_form_name(form) + " " + cpu_isa_name(isa));
          EXPECT_TRUE(at::equal(packed_linear(x, w, bias, isa), packed_linear_ref(x, w, bias)));
          EXPECT_TRUE(at::equal(packed_linear(x, w, {}, isa), packed_linear_ref(x, w, {})));
        }
      }
    }
  }
}

// The largest codes and inputs there are: nothing saturates on the way.
TEST(PackedLinearTest, ExtremeCodesDoNotSaturate) {
  for (const PackedForm& form : integer_forms()) {
    at::Tensor weight = at::full({32, 256}, -1.0);
    weight.select(0, 1).fill_(1.0);
    weight.slice(1, 0, 256, 2).select(0, 2).fill_(1.0);
    const PackedWeight w = pack_weight(weight.to(at::kFloat), form);
    for (const double value : {1.0, -1.0}) {
      const at::Tensor x = at::full({2, 256}, value, at::kFloat);
      for (const CpuIsa isa : machine_isas()) {
        SCOPED_TRACE(packed_form_name(form) + " " + cpu_isa_name(isa));
        EXPECT_TRUE(at::equal(packed_linear(x, w, {}, isa), packed_linear_ref(x, w, {})));
      }
    }
  }
}

TEST(PackedLinearTest, Bf16MatchesTheReference) {
  for (const auto& [t, i, o] : kSizes) {
    const at::Tensor weight = randn({o, i}, 1, at::kBFloat16), x = randn({t, i}, 2, at::kBFloat16),
                     bias = randn({o}, 3, at::kBFloat16);
    const PackedWeight w = pack_weight(weight, {});
    EXPECT_TRUE(at::equal(unpack_weight(w, at::kBFloat16), weight));
    for (const CpuIsa isa : machine_isas()) {
      SCOPED_TRACE(cpu_isa_name(isa));
      EXPECT_TRUE(tensor_near(packed_linear(x, w, bias, isa), packed_linear_ref(x, w, bias),
                              Tolerance{1e-2, 1e-2}));  // one rounding to bf16
      EXPECT_TRUE(tensor_near(packed_linear(x, w, {}, isa), packed_linear_ref(x, w, {}),
                              Tolerance{1e-2, 1e-2}));
    }
  }
}

TEST(PackedLinearTest, RowsDependOnNothingElse) {
  const at::Tensor weight = randn({100, 192}, 1, at::kBFloat16),
                   other = randn({40, 192}, 4, at::kBFloat16),
                   x = randn({29, 192}, 2, at::kBFloat16);
  std::vector<PackedForm> forms = integer_forms();
  forms.emplace_back();
  const int threads = at::get_num_threads();
  for (const PackedForm& form : forms) {
    const PackedWeight w = pack_weight(weight, form), v = pack_weight(other, form);
    for (const CpuIsa isa : machine_isas()) {
      SCOPED_TRACE(packed_form_name(form) + " " + cpu_isa_name(isa));
      const at::Tensor all = packed_linear(x, w, {}, isa);
      for (int64_t t = 0; t < x.size(0); ++t)
        EXPECT_TRUE(at::equal(packed_linear(x.narrow(0, t, 1), w, {}, isa), all.narrow(0, t, 1)));
      const std::array<PackedOperand, 2> both = {PackedOperand{&w, {}}, PackedOperand{&v, {}}};
      at::set_num_threads(threads == 1 ? 2 : 1);
      const auto together = packed_linears(x, both, isa);
      at::set_num_threads(threads);
      EXPECT_TRUE(at::equal(together[0], all));
      EXPECT_TRUE(at::equal(together[1], packed_linear(x, v, {}, isa)));
    }
  }
}

TEST(PackedWeightTest, CodesAreTheNearest) {
  const at::Tensor weight = randn({33, 200}, 1);
  for (const PackedForm& form : integer_forms()) {
    SCOPED_TRACE(packed_form_name(form));
    const at::Tensor back = unpack_weight(pack_weight(weight, form), at::kFloat);
    const double levels = form.form == WeightForm::kInt8 ? 254.0 : 15.0;
    // Half a step of the widest group; a step is at most the range over the levels. Symmetric int4
    // has one level less on the one side, where the error is up to a whole step.
    const double range = 2.0 * weight.abs().max().item<double>();
    const double step = range / levels, most = form.asymmetric || levels > 15.0 ? 0.51 : 1.1;
    EXPECT_LE((back - weight).abs().max().item<double>(), most * step);
    if (form.asymmetric) continue;  // codes need not reach both ends again
    const PackedWeight again = pack_weight(back, form);
    EXPECT_TRUE(tensor_near(unpack_weight(again, at::kFloat), back, Tolerance{1e-3, 1e-3}));
  }
}

TEST(PackedWeightTest, ZerosStayZeros) {
  for (const PackedForm& form : integer_forms()) {
    const PackedWeight w = pack_weight(at::zeros({16, 128}), form);
    EXPECT_TRUE(at::equal(packed_linear(randn({2, 128}, 1), w, {}), at::zeros({2, 16})));
  }
}

TEST(PackedLinearTest, InputsThatAreNotFiniteStayVisible) {
  for (const float bad : {std::numeric_limits<float>::infinity(), std::nanf("")}) {
    at::Tensor x = randn({2, 64}, 1);
    x[1][40] = bad;
    for (const PackedForm& form : integer_forms()) {
      const at::Tensor y = packed_linear(x, pack_weight(randn({16, 64}, 2), form), {});
      EXPECT_TRUE(y.select(0, 0).isfinite().all().item<bool>());
      EXPECT_FALSE(y.select(0, 1).isfinite().any().item<bool>());
    }
  }
}

TEST(PackedWeightTest, FormsHaveNames) {
  for (const PackedForm& form : integer_forms())
    EXPECT_EQ(parse_packed_form(packed_form_name(form)), form);
  EXPECT_EQ(parse_packed_form("bfloat16"), PackedForm{});
  EXPECT_EQ(packed_form_name({WeightForm::kInt4, 32, true}), "int4-g32-asym");
  EXPECT_TRUE(
      (throws_with<Error>([] { parse_packed_form("int3"); }, {"int3", "bfloat16, int8 or int4"})));
}

TEST(PackedLinearTest, ErrorsNameWhatDoesNotFit) {
  const PackedWeight w = pack_weight(randn({16, 64}, 1), {WeightForm::kInt8});
  EXPECT_TRUE((throws_with<Error>([&] { packed_linear(randn({2, 63}, 1), w, {}); }, {"63", "64"})));
  EXPECT_TRUE((throws_with<Error>(
      [&] {
        packed_linear(randn({2, 64}, 1, at::kDouble), w, {});
      },
      {"Double"})));
  EXPECT_TRUE((throws_with<Error>(
      [&] {
        packed_linear(randn({2, 64}, 1), w, randn({15}, 2));
      },
      {"bias_O"})));
  EXPECT_TRUE((throws_with<Error>(
      [] {
        pack_weight(randn({16, 64}, 1), PackedForm{});
      },
      {"Float", "bfloat16"})));
  at::Tensor bad = randn({20, 64}, 1);
  bad[17][3] = std::nanf("");
  EXPECT_TRUE((throws_with<Error>([&] { pack_weight(bad, {WeightForm::kInt4}); },
                                  {"output 17", "0 to 127"})));
  const PackedWeight pairs = pack_weight(randn({16, 64}, 1, at::kBFloat16), {});
  EXPECT_TRUE((throws_with<Error>(
      [&] {
        packed_linear(randn({2, 64}, 1), pairs, {});
      },
      {"bf16", "Float"})));
}

// Threads of any speed: each takes its own share from the front, and others' from the back.
TEST(PackedLinearTest, EveryUnitOfASharedProductIsTakenOnce) {
  for (const int64_t count : {0, 1, 2, 7, 64, 1000}) {
    for (const int speed : {0, 1, 5}) {  // takes of the owner for each of the other's
      PackedShare share;
      std::vector<int> taken(static_cast<size_t>(count), 0);
      int64_t begin = 0, end = 0, front = 0, back = count;
      for (int turn = 0;; ++turn) {
        const bool own = turn % (speed + 1) != 0;
        if (!share.take(count, own, begin, end)) break;
        ASSERT_LT(begin, end);
        EXPECT_EQ(own ? begin : end, own ? front : back) << "not where the last one ended";
        (own ? front : back) = own ? end : begin;
        for (int64_t unit = begin; unit < end; ++unit) ++taken.at(static_cast<size_t>(unit));
      }
      EXPECT_FALSE(share.take(count, /*own=*/true, begin, end));
      EXPECT_EQ(taken, std::vector<int>(static_cast<size_t>(count), 1));
    }
  }
}

// Rank 0 comes last: what the others have not left it is done all the same.
TEST(PackedLinearTest, SharesOfThreadsThatDoNotComeAreDoneByTheOthers) {
  const PackedWeight w = pack_weight(randn({1040, 64}, 1), {WeightForm::kInt8});
  const at::Tensor x_TI = randn({1, 64}, 2);
  PackedInputs<float> inputs(x_TI.const_data_ptr<float>(), 1, w, /*widened=*/false);
  std::vector<uint8_t> memory(static_cast<size_t>(inputs.bytes()) + 64);
  inputs.use(memory.data());
  inputs.prepare(0, inputs.row_pieces());
  at::Tensor y_TO = at::full({1, 1040}, std::numeric_limits<float>::quiet_NaN());
  const std::array<PackedProduct<float>::Output, 1> outputs = {
      {{&w, nullptr, y_TO.mutable_data_ptr<float>()}}};
  const PackedProduct<float> product(inputs.rows(), 1, outputs, packed_kernels(machine_isa()));
  std::vector<PackedShare> shares(3);
  product.work(shares, 1);
  EXPECT_TRUE(at::equal(y_TO, packed_linear(x_TI, w, {})));
  y_TO.zero_();
  product.work(shares, 0);
  product.work(shares, 2);
  EXPECT_TRUE(at::equal(y_TO, at::zeros_like(y_TO))) << "done twice";
}

}  // namespace
}  // namespace euromodal
