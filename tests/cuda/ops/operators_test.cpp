// operators_test.cpp — the operators on a GPU against the same on the CPU: values and gradients,
// f32 and bf16.
#include <functional>

#include "backbone/kernels/linear/float8_weight.h"
#include "backbone/kernels/ops.h"
#include "backbone/kernels/skinny_linear/skinny_linear_ref.h"
#include "tests/cuda/ops/gpu.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

using testing_support::tensor_near;
using testing_support::Tolerance;

using Operator = std::function<at::Tensor(const std::vector<at::Tensor>&)>;

/// Value and gradients of the inputs that want one, on the CPU.
std::vector<at::Tensor> results(const Operator& op, const std::vector<at::Tensor>& inputs,
                                at::Device device) {
  std::vector<at::Tensor> there;
  for (const at::Tensor& x : inputs)
    there.push_back(x.detach().to(device).requires_grad_(at::isFloatingType(x.scalar_type()) &&
                                                         x.requires_grad()));
  const at::Tensor y = op(there);
  std::vector<at::Tensor> out{y.detach().cpu()};
  at::manual_seed(5);
  const at::Tensor dy = at::randn(y.sizes()).to(y.scalar_type());
  (y * dy.to(device)).sum().backward();
  for (const at::Tensor& x : there)
    if (x.requires_grad()) out.push_back(x.grad().cpu());
  return out;
}

void compare(const char* name, const Operator& op, const std::vector<at::Tensor>& inputs,
             at::Device device, Tolerance tolerance) {
  const auto want = results(op, inputs, at::kCPU), got = results(op, inputs, device);
  ASSERT_EQ(got.size(), want.size()) << name;
  for (size_t i = 0; i < got.size(); ++i)
    EXPECT_TRUE(tensor_near(got[i], want[i], tolerance))
        << name << (i == 0 ? " value" : " gradient ") << i;
}

at::Tensor drawn(at::IntArrayRef shape, at::ScalarType type) {
  return at::randn(shape).to(type).requires_grad_(true);
}

TEST(OperatorsOnGpuTest, GiveWhatTheCpuGives) {
  EM_ON_GPU(device);
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    SCOPED_TRACE(c10::toString(type));
    at::manual_seed(1);
    const bool wide = type == at::kFloat;
    const Tolerance tolerance = wide ? Tolerance{2e-4, 2e-3} : Tolerance{6e-2, 4e-2};
    const Segments rows = Segments::from_lengths({5, 0, 37, 8});
    const int64_t T = rows.rows();
    compare(
        "linear", [&](const auto& x) { return linear(x[0], x[1], x[2], rows); },
        {drawn({T, 24}, type), drawn({40, 24}, type), drawn({40}, type)}, device, tolerance);
    const Float8Weight w = round_to_float8(at::randn({40, 48}).to(type));
    compare(
        "linear of a float8 weight",
        [&](const auto& x) { return linear(x[0], x[1], {}, rows, x[2]); },
        {drawn({rows.rows(), 48}, type), w.codes_OI, w.scale_O}, device, tolerance);
    EXPECT_TRUE(at::equal(widen_float8(w.codes_OI.to(device), w.scale_O.to(device), type).cpu(),
                          widen_float8(w.codes_OI, w.scale_O, type)));
    compare(
        "rms_norm", [&](const auto& x) { return rms_norm(x[0], x[1], 1e-5, rows); },
        {drawn({T, 72}, type), drawn({72}, type)}, device, tolerance);
    compare(
        "layer_norm", [&](const auto& x) { return layer_norm(x[0], x[1], x[2], 1e-5, rows); },
        {drawn({T, 72}, type), drawn({72}, type), drawn({72}, type)}, device, tolerance);
    compare(
        "swiglu", [&](const auto& x) { return swiglu(x[0], x[1]); },
        {drawn({T, 33}, type), drawn({T, 33}, type)}, device, tolerance);
    compare(
        "swiglu of fused rows", [&](const auto& x) { return swiglu(x[0]); }, {drawn({T, 66}, type)},
        device, tolerance);
    for (const GeluKind kind : {GeluKind::kGelu, GeluKind::kGeluTanh, GeluKind::kQuickGelu})
      compare(
          "gelu", [&](const auto& x) { return gelu(x[0], kind); }, {drawn({T, 33}, type)}, device,
          tolerance);
    const RopeTable table = rope_table({.head_dim = 16, .max_positions = 64}, 64, 64);
    compare(
        "rope",
        [&](const auto& x) {
          const at::Device on = x[0].device();
          return rope(x[0], {table.cos_PN.to(on), table.sin_PN.to(on)}, x[1]);
        },
        {drawn({T, 3, 16}, type), at::randint(0, 64, {T}, at::kLong)}, device, tolerance);
    compare(
        "mrope",
        [&](const auto& x) {
          const at::Device on = x[0].device();
          return mrope(x[0], {table.cos_PN.to(on), table.sin_PN.to(on)}, x[1], {{2, 3, 3}, false});
        },
        {drawn({T, 3, 16}, type), at::randint(0, 64, {3, T}, at::kLong)}, device, tolerance);
    compare(
        "splice_rows",
        [&](const auto& x) {
          return splice_rows(x[0], x[1], {{0, 2}, {7, 0}, {T - 5, 5}});
        },
        {drawn({T, 24}, type), drawn({7, 24}, type)}, device, tolerance);
    compare(
        "embedding", [&](const auto& x) { return embedding(x[0], x[1], rows); },
        {drawn({19, 8}, type), at::randint(0, 19, {T}, at::kLong)}, device, tolerance);
    for (const bool causal : {true, false}) {
      compare(
          "attention",
          [&](const auto& x) {
            return attention(
                {.q_THN = x[0], .k_TKN = x[1], .v_TKN = x[2], .causal = causal, .scale = 0.2},
                rows);
          },
          {drawn({T, 6, 32}, type), drawn({T, 2, 32}, type), drawn({T, 2, 32}, type)}, device,
          tolerance);
    }
    const at::Tensor k_before = at::randn({11, 2, 32}).to(type),
                     v_before = at::randn({11, 2, 32}).to(type);
    compare(
        "attention behind a prefix",
        [&](const auto& x) {
          const at::Device on = x[0].device();
          const AttentionPrefix some{k_before.to(on), v_before.to(on)};
          return attention({.q_THN = x[0],
                            .k_TKN = x[1],
                            .v_TKN = x[2],
                            .causal = true,
                            .scale = 0.2,
                            .prefix = {some, {}, {}, some}},
                           rows);
        },
        {drawn({T, 6, 32}, type), drawn({T, 2, 32}, type), drawn({T, 2, 32}, type)}, device,
        tolerance);
    for (const double smoothing : {0.0, 0.1}) {
      compare(
          "linear_cross_entropy",
          [&](const auto& x) {
            return linear_cross_entropy({.hidden_RD = x[0],
                                         .weight_VD = x[1],
                                         .labels_R = x[2],
                                         .row_weight_R = {},
                                         .label_smoothing = smoothing,
                                         .z_loss = 1e-2,
                                         .chunk_rows = 16},
                                        rows) /
                   static_cast<double>(T);
          },
          {drawn({T, 24}, type), drawn({101, 24}, type), at::randint(0, 101, {T}, at::kLong)},
          device, tolerance);
    }
  }
}

TEST(OperatorsOnGpuTest, CachedAttentionIsThatOfTheCpu) {
  EM_ON_GPU(device);
  at::manual_seed(2);
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const at::Tensor k = at::randn({50, 2, 64}).to(type), v = at::randn({50, 2, 64}).to(type);
    for (const int64_t now : {1, 7, 50}) {
      const at::Tensor q = at::randn({now, 6, 64}).to(type);
      const at::Tensor want = attention_cached(q, k, v, 0.125),
                       got = attention_cached(q.to(device), k.to(device), v.to(device), 0.125);
      EXPECT_TRUE(tensor_near(got.cpu(), want, {2e-2, 2e-2})) << now;
    }
  }
}

TEST(OperatorsOnGpuTest, WidenedWeightsAreThoseOfTheCpu) {
  EM_ON_GPU(device);
  at::manual_seed(3);
  const at::Tensor w = at::randn({37, 200}).to(at::kBFloat16);
  for (const char* word : {"float8", "int8", "int8-g32-asym", "int4-asym", "int4-g32"}) {
    const SkinnyWeight weight = quantize_rows_ref(w, parse_skinny_form(word));
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kHalf})
      EXPECT_TRUE(widen_rows(weight.to(device), type).cpu().equal(widen_rows(weight, type)))
          << word;
  }
}

}  // namespace
}  // namespace euromodal
