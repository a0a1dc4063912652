// packed_amx_test.cpp — the kernels for AMX on emulated tiles, and on real ones where the machine
// has them: integers bit for bit their reference; bf16 within the rounding of f32 sums, and bit for
// bit the same with few rows (vectors) and many (tiles).
#if defined(__x86_64__)
#include <cmath>
#include <limits>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "backbone/kernels/packed_linear/packed_linear.h"
#include "backbone/kernels/packed_linear/packed_linear_ref.h"
#include "tests/backbone/kernels/emulated_amx.h"
#include "tests/support/emulated_tiles.h"
#include "tests/support/gradcheck.h"
#include "tests/support/packed_forms.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

using testing_support::integer_forms;

using namespace testing_support;
using packed::TileConfig;

class PackedAmxTest : public testing::Test {
 protected:
  void SetUp() override {
    if (machine_isa() < CpuIsa::kAvx512Vnni) GTEST_SKIP() << "this machine has no AVX-512 VNNI";
  }
};

at::Tensor emulated(const at::Tensor& x, const PackedWeight& w, const at::Tensor& bias = {}) {
  const std::array<PackedOperand, 1> one = {PackedOperand{&w, bias}};
  return packed_linears(x, one, emulated_amx())[0];
}

constexpr std::array<std::array<int64_t, 3>, 9> kAmxSizes = {{{1, 256, 64},
                                                              {7, 64, 16},
                                                              {8, 31, 5},
                                                              {16, 130, 33},
                                                              {17, 288, 48},
                                                              {32, 129, 50},
                                                              {33, 32, 1},
                                                              {50, 257, 72},
                                                              {0, 32, 16}}};

TEST_F(PackedAmxTest, IntegersAreTheReferenceBitForBit) {
  for (const PackedForm& form : integer_forms()) {
    for (const auto& [t, i, o] : kAmxSizes) {
      SCOPED_TRACE(packed_form_name(form) + " rows " + std::to_string(t));
      const PackedWeight w = pack_weight(randn({o, i}, 1), form);
      const at::Tensor x = randn({t, i}, 2, at::kBFloat16), bias = randn({o}, 3, at::kBFloat16);
      EXPECT_TRUE(at::equal(emulated(x, w, bias), packed_linear_ref(x, w, bias)));
      EXPECT_TRUE(at::equal(emulated(x, w), packed_linear_ref(x, w, {})));
    }
  }
}

TEST_F(PackedAmxTest, ExtremeCodesDoNotSaturate) {
  at::Tensor weight = at::full({32, 256}, -1.0, at::kFloat);
  weight.select(0, 1).fill_(1.0);
  weight.slice(1, 0, 256, 2).select(0, 2).fill_(1.0);
  for (const PackedForm& form : integer_forms()) {
    const PackedWeight w = pack_weight(weight, form);
    for (const double value : {1.0, -1.0}) {
      SCOPED_TRACE(packed_form_name(form));
      const at::Tensor x = at::full({20, 256}, value, at::kFloat);
      EXPECT_TRUE(at::equal(emulated(x, w), packed_linear_ref(x, w, {})));
    }
  }
}

TEST_F(PackedAmxTest, Bf16MatchesTheReference) {
  for (const auto& [t, i, o] : kAmxSizes) {
    SCOPED_TRACE(t);
    const PackedWeight w = pack_weight(randn({o, i}, 1, at::kBFloat16), {});
    const at::Tensor x = randn({t, i}, 2, at::kBFloat16), bias = randn({o}, 3, at::kBFloat16);
    EXPECT_TRUE(tensor_near(emulated(x, w, bias), packed_linear_ref(x, w, bias),
                            Tolerance{1e-2, 1e-2}));  // one rounding to bf16
    EXPECT_TRUE(tensor_near(emulated(x, w), packed_linear_ref(x, w, {}), Tolerance{1e-2, 1e-2}));
  }
}

TEST_F(PackedAmxTest, RowsDependOnNothingElse) {
  std::vector<PackedForm> forms = integer_forms();
  forms.emplace_back();
  const int threads = at::get_num_threads();
  for (const PackedForm& form : forms) {
    SCOPED_TRACE(packed_form_name(form));
    const PackedWeight w = pack_weight(randn({100, 210}, 1, at::kBFloat16), form);
    const at::Tensor x = randn({45, 210}, 2, at::kBFloat16), all = emulated(x, w);
    for (const int64_t rows : {1, 2, 5, 7, 8, 9, 16, 23, 40})
      EXPECT_TRUE(at::equal(emulated(x.narrow(0, 3, rows), w), all.narrow(0, 3, rows))) << rows;
    at::set_num_threads(threads == 1 ? 2 : 1);
    EXPECT_TRUE(at::equal(emulated(x, w), all));
    at::set_num_threads(threads);
  }
}

// Sums in the raw: the store of a kernel is not rounded to bf16.
at::Tensor raw_sums(PackedKernel kernel, const at::Tensor& x_MI, const PackedWeight& w,
                    int64_t inputs) {
  at::Tensor out = at::empty({x_MI.size(0), w.blocks.size(0) * kPackedOutputs}, at::kFloat);
  PackedKernelArgs args;
  args.x = static_cast<const uint8_t*>(x_MI.const_data_ptr());
  args.x_bytes = x_MI.stride(0) * 2;
  args.weight = w.blocks.const_data_ptr<uint8_t>();
  args.layout = w.layout();
  args.layout.inputs = inputs;
  args.M = x_MI.size(0);
  args.end = w.blocks.size(0);
  args.to = &out;
  args.store = [](void* to, const float* tile, int64_t row, int64_t rows, int64_t output,
                  int64_t columns) {
    auto& sums = *static_cast<at::Tensor*>(to);
    for (int64_t r = 0; r < rows; ++r)
      std::copy_n(tile + r * columns, columns,
                  sums.mutable_data_ptr<float>() + (row + r) * sums.size(1) + output);
  };
  kernel(args);
  return out;
}

// Attention gives fewer inputs than the weights have: what is behind must not be read as numbers.
TEST_F(PackedAmxTest, InputsBehindTheLastStayOut) {
  at::Tensor weight = randn({48, 100}, 1, at::kBFloat16), x = randn({37, 100}, 2, at::kBFloat16);
  weight.narrow(1, 70, 30).fill_(std::numeric_limits<float>::quiet_NaN());
  x.narrow(1, 70, 30).fill_(std::numeric_limits<float>::infinity());
  const PackedWeight w = pack_weight(weight, {});
  const at::Tensor all = raw_sums(emulated_amx().bf16, x, w, 70),
                   few = raw_sums(emulated_amx().bf16, x.narrow(0, 0, 5), w, 70);
  EXPECT_TRUE(tensor_near(
      all, at::mm(x.narrow(1, 0, 70).to(at::kFloat), weight.narrow(1, 0, 70).to(at::kFloat).t()),
      Tolerance{1e-4, 1e-5}));
  EXPECT_TRUE(at::equal(few, all.narrow(0, 0, 5)));
}

// Products below 2^-126 are zero, with tiles as with vectors, and the thread's own rules return.
TEST_F(PackedAmxTest, DenormalsAreZero) {
  const at::Tensor weight = at::full({16, 64}, 0x1p-70, at::kBFloat16);
  const PackedWeight w = pack_weight(weight, {});
  for (const int64_t rows : {3, 20}) {
    const at::Tensor x = at::full({rows, 64}, 0x1p-60, at::kBFloat16);
    EXPECT_EQ(raw_sums(emulated_amx().bf16, x, w, 64).abs().max().item<float>(), 0.0F) << rows;
    const at::Tensor larger = at::full({rows, 64}, 0x1p-56, at::kBFloat16);
    EXPECT_EQ(raw_sums(emulated_amx().bf16, larger, w, 64).min().item<float>(), 0x1p-120F) << rows;
  }
  volatile float small = 0x1p-100F;
  const float product = small * 0x1p-40F;
  EXPECT_GT(product, 0.0F);
}

TEST_F(PackedAmxTest, TilesAreGivenBackAndShapedOncePerShape) {
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  for (const PackedForm& form : {PackedForm{}, PackedForm{WeightForm::kInt4, 32, false}}) {
    const PackedWeight w = pack_weight(randn({160, 128}, 1, at::kBFloat16), form);
    int64_t before = emulated_configurations();
    (void)emulated(randn({64, 128}, 2, at::kBFloat16), w);
    EXPECT_EQ(emulated_configurations() - before, 1);
    EXPECT_FALSE(emulated_tiles_held());
    before = emulated_configurations();
    (void)emulated(randn({7, 128}, 2, at::kBFloat16), w);
    EXPECT_EQ(emulated_configurations(), before);  // few rows need none
  }
  at::set_num_threads(threads);
}

TEST_F(PackedAmxTest, RealTilesDoAsTheEmulatedOnes) {
  if (machine_isa() < CpuIsa::kAmx) GTEST_SKIP() << "this machine has no AMX";
  std::vector<PackedForm> forms = integer_forms();
  forms.emplace_back();
  for (const PackedForm& form : forms) {
    for (const auto& [t, i, o] : kAmxSizes) {
      SCOPED_TRACE(packed_form_name(form) + " rows " + std::to_string(t));
      const PackedWeight w = pack_weight(randn({o, i}, 1, at::kBFloat16), form);
      const at::Tensor x = randn({t, i}, 2, at::kBFloat16);
      EXPECT_TRUE(at::equal(packed_linear(x, w, {}, CpuIsa::kAmx), emulated(x, w)));
    }
  }
}

TEST(AmxUsableTest, NeedsEveryPart) {
  const AmxReport good{1U << 22 | 1U << 24 | 1U << 25, 1024, 64, 8, 16, uint64_t{3} << 17, true};
  EXPECT_TRUE(amx_usable(good));
  for (const int bit : {22, 24, 25}) {
    AmxReport bad = good;
    bad.leaf7_edx &= ~(1U << bit);
    EXPECT_FALSE(amx_usable(bad)) << bit;
  }
  for (const int bit : {17, 18}) {
    AmxReport bad = good;
    bad.xcr0 &= ~(uint64_t{1} << bit);
    EXPECT_FALSE(amx_usable(bad)) << bit;
  }
  AmxReport refused = good, small = good;
  refused.granted = false;
  small.rows = 8;
  EXPECT_FALSE(amx_usable(refused));
  EXPECT_FALSE(amx_usable(small));
  EXPECT_FALSE(amx_usable({}));
}

TileConfig three_tiles() {
  TileConfig config;
  config.rows[0] = 2, config.row_bytes[0] = 8;  // sums [2][2]
  config.rows[1] = 2, config.row_bytes[1] = 4;
  config.rows[2] = 1, config.row_bytes[2] = 8;
  return config;
}

TEST(EmulatedTilesTest, RefusesWhatTheProcessorRefuses) {
  using Tiles = EmulatedTiles;
  const auto refused = [](const auto& f) { EXPECT_THROW(f(), std::logic_error); };
  Tiles::release();
  refused([] { Tiles::zero<0>(); });
  TileConfig config = three_tiles();
  config.rows[3] = 17, config.row_bytes[3] = 64;
  refused([&] { Tiles::configure(config); });
  config.rows[3] = 16, config.row_bytes[3] = 65;
  refused([&] { Tiles::configure(config); });
  config.rows[3] = 0;
  refused([&] { Tiles::configure(config); });
  config = three_tiles();
  config.palette = 2;
  refused([&] { Tiles::configure(config); });
  Tiles::configure(three_tiles());
  refused([] { Tiles::zero<3>(); });
  refused([] { (Tiles::add_int8<0, 1, 1>()); });
  refused([] { (Tiles::add_int8<0, 2, 1>()); });
  refused([] { (Tiles::add_bf16<1, 0, 2>()); });
  EXPECT_NO_THROW((Tiles::add_int8<0, 1, 2>()));
  Tiles::release();
  refused([] { (Tiles::add_int8<0, 1, 2>()); });
}

TEST(EmulatedTilesTest, ProductsByHand) {
  using Tiles = EmulatedTiles;
  Tiles::configure(three_tiles());
  const auto product = [](const void* left, const void* right, void add(), void* sums) {
    Tiles::load<1>(left, 4);
    Tiles::load<2>(right, 8);
    Tiles::zero<0>();
    add();
    Tiles::store<0>(sums, 8);
  };
  const std::array<int8_t, 8> a = {1, -2, 3, -128, 127, 0, 0, 1};
  const std::array<uint8_t, 8> b = {1, 2, 3, 255, 255, 0, 1, 0};
  std::array<int32_t, 4> sums{};
  product(
      a.data(), b.data(), [] { Tiles::add_int8<0, 1, 2>(); }, sums.data());
  EXPECT_EQ(sums, (std::array<int32_t, 4>{1 - 4 + 9 - 32640, 255 + 3, 127 + 255, 127 * 255}));

  // 1 + 2^-24 · 1 is a tie that goes to even; a denormal is no number.
  const std::array<c10::BFloat16, 4> x = {1.0F, 0x1p-24F, 0x1p-130F, -3.0F};
  const std::array<c10::BFloat16, 4> w = {1.0F, 1.0F, 0x1p+120F, 2.0F};
  std::array<float, 4> floats{};
  product(
      x.data(), w.data(), [] { Tiles::add_bf16<0, 1, 2>(); }, floats.data());
  EXPECT_EQ(floats, (std::array<float, 4>{1.0F, 0x1p+120F, -3.0F, -6.0F}));
  Tiles::release();
}

}  // namespace
}  // namespace euromodal
#endif
