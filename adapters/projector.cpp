// projector.cpp — see projector.h.
#include "adapters/projector.h"

#include <cmath>

#include <torch/csrc/autograd/custom_function.h>

#include "backbone/kernels/gelu/gelu.h"
#include "backbone/kernels/layer_norm/layer_norm.h"
#include "backbone/kernels/linear/linear.h"
#include "backbone/kernels/rms_norm/rms_norm.h"
#include "backbone/kernels/to_device.h"
#include "core/error.h"

namespace euromodal {
namespace {

constexpr double kLayerNormEps = 1e-5;  // torch.nn.LayerNorm
constexpr double kOutputEps = 1e-6;

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// The gain is one number for all rows: autograd's own product would add its gradient over the
/// whole pack at once, and the bits would depend on how samples are packed. Double backward not
/// supported.
struct GainFunction final : torch::autograd::Function<GainFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x_RD, const at::Tensor& gain_1,
                            std::vector<int64_t> cu) {
    ctx->save_for_backward({x_RD, gain_1});
    ctx->saved_data["cu"] = std::move(cu);
    return x_RD * gain_1;
  }
  static variable_list backward(AutogradContext* ctx, variable_list dy) {
    const auto saved = ctx->get_saved_variables();
    const std::vector<int64_t> cu = ctx->saved_data["cu"].toIntVector();
    at::Tensor dx, dgain;
    if (ctx->needs_input_grad(0)) dx = dy[0] * saved[1];
    if (ctx->needs_input_grad(1)) {
      const auto sums = saved[0].scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
      for (size_t s = 0; s + 1 < cu.size(); ++s) {
        const at::Tensor x = saved[0].slice(0, cu[s], cu[s + 1]).to(sums);
        const at::Tensor d = dy[0].slice(0, cu[s], cu[s + 1]).to(sums);
        const at::Tensor part = (x * d).sum();
        dgain = dgain.defined() ? dgain + part : part;
      }
      dgain = dgain.to(saved[1].scalar_type()).view({1});
    }
    return {dx, dgain, at::Tensor()};
  }
};

}  // namespace

Segments adapter_segments(const AdapterInput& input, const std::vector<int64_t>& rows_of_item) {
  std::vector<int64_t> lengths;
  int64_t total = 0;
  for (const int64_t rows : rows_of_item) total += rows;
  if (!input.samples.per_sample) return Segments::one(total);
  check(input.samples.rows() == static_cast<int64_t>(rows_of_item.size()),
        "adapter: the samples cover {} items, but there are {}", input.samples.rows(),
        rows_of_item.size());
  for (int64_t s = 0; s < input.samples.count(); ++s) {
    int64_t rows = 0;
    for (int64_t i = 0; i < input.samples.length(s); ++i)
      rows += rows_of_item[static_cast<size_t>(input.samples.begin(s) + i)];
    if (rows > 0) lengths.push_back(rows);
  }
  return Segments::from_lengths(lengths, /*per_sample=*/true);
}

at::Tensor drop_prefix(const at::Tensor& rows_LE, const std::vector<RowLayout>& items) {
  bool any = false;
  for (const RowLayout& item : items) any |= item.prefix > 0;
  if (!any) return rows_LE;
  std::vector<int64_t> index;
  int64_t at = 0;
  for (const RowLayout& item : items) {
    for (int64_t i = item.prefix; i < item.rows(); ++i) index.push_back(at + i);
    at += item.rows();
  }
  return rows_LE.index_select(0, to_device(index, rows_LE.device()));
}

at::Tensor checked_rows(const AdapterInput& input, int64_t feature_width, at::ScalarType dtype) {
  int64_t rows = 0;
  for (const RowLayout& item : input.items) rows += item.rows();
  check(input.rows_LE.dim() == 2 && input.rows_LE.size(0) == rows &&
            input.rows_LE.size(1) == feature_width,
        "adapter: features [{}], expected [{}, {}] for {} items",
        fmt::join(input.rows_LE.sizes(), ", "), rows, feature_width, input.items.size());
  return input.rows_LE.to(dtype);
}

at::Tensor scale_by_gain(const at::Tensor& x_RD, const at::Tensor& gain_1, const Segments& rows) {
  return GainFunction::apply(x_RD, gain_1, rows.cu);
}

Projector::Projector(const Config& config, const AdapterShape& shape, int64_t mlp_width,
                     const WeightScope& weights)
    : feature_width_(shape.feature_width) {
  const int64_t hidden = config.i64("hidden");
  check<ConfigError>(hidden > 0 && hidden < (int64_t{1} << 24),
                     "{}: {} is no width; expected a number above 0", config.where("hidden"),
                     hidden);
  const bool bias = config.boolean("bias", true);
  if (config.boolean("layer_norm", false)) {
    norm_weight_ = keep(weights, "layer_norm.weight", {feature_width_}, Init::ones());
    norm_bias_ = keep(weights, "layer_norm.bias", {feature_width_}, Init::zeros());
  }
  const auto drawn = [](int64_t inputs) {
    return Init::normal(1.0 / std::sqrt(static_cast<double>(inputs)));
  };
  linear_1_weight_ = keep(weights, "linear_1.weight", {hidden, mlp_width}, drawn(mlp_width));
  if (bias) linear_1_bias_ = keep(weights, "linear_1.bias", {hidden}, Init::zeros());
  linear_2_weight_ =
      keep(weights, "linear_2.weight", {shape.backbone_width, hidden}, drawn(hidden));
  if (bias) linear_2_bias_ = keep(weights, "linear_2.bias", {shape.backbone_width}, Init::zeros());
  if (config.has("output") && config.child("output").boolean("rms", false)) {
    gain_ = keep(weights, "gain", {1}, Init::constant(shape.embedding_rms));
  }
}

at::Tensor Projector::keep(const WeightScope& weights, const std::string& name,
                           at::IntArrayRef shape, Init init) {
  at::Tensor out = weights.take(name, shape, init);
  parameters_.push_back({name, out});
  return out;
}

at::Tensor Projector::normalise(const at::Tensor& rows_LE, const Segments& rows) const {
  if (!norm_weight_.defined() || rows_LE.size(0) == 0) return rows_LE;
  return layer_norm(rows_LE, norm_weight_, norm_bias_, kLayerNormEps, rows);
}

at::Tensor Projector::project(const at::Tensor& x_RI, const Segments& rows) const {
  if (x_RI.size(0) == 0)
    return at::empty({0, linear_2_weight_.size(0)}, linear_2_weight_.options());
  const at::Tensor h_RH =
      gelu(linear(x_RI, linear_1_weight_, linear_1_bias_, rows), GeluKind::kGelu);
  const at::Tensor y_RD = linear(h_RH, linear_2_weight_, linear_2_bias_, rows);
  if (!gain_.defined()) return y_RD;
  const at::Tensor ones_D = at::ones({y_RD.size(1)}, y_RD.options());
  return scale_by_gain(rms_norm(y_RD, ones_D, kOutputEps, rows), gain_, rows);
}

}  // namespace euromodal
