// siglip.cpp — SigLIP's image tower (Zhai et al. 2023). Reference: transformers SiglipVisionModel.
//   patches + positions -> blocks -> post_layernorm (last) -> attention pooling head (pooled)
// No class token. hidden_states are not normalised, the last one neither.
#include <cmath>

#include <ATen/ATen.h>

#include "backbone/kernels/linear/linear.h"
#include "encoders/feature_select.h"
#include "encoders/vit_encoder.h"

namespace euromodal {
namespace {

constexpr VitFamily kSiglip = {.name = "SigLIP",
                               .tower_type = "siglip_vision_model",
                               .tower_class = "SiglipVisionModel",
                               .activation = "gelu_pytorch_tanh",
                               .eps = 1e-6,
                               .patch = 16,
                               .patch_bias = true,
                               .prefix = 0};

// One learned query per image attends to its rows, then an MLP.
class SiglipPooling {
 public:
  SiglipPooling() = default;
  SiglipPooling(const WeightScope& weights, const VitConfig& config) : config_(config) {
    const int64_t d = config.width;
    const double std = 1.0 / std::sqrt(static_cast<double>(d));
    probe_11D_ = weights.take("probe", {1, 1, d}, Init::normal(std));
    in_weight_ = weights.take("attention.in_proj_weight", {3 * d, d}, Init::normal(std));
    in_bias_ = weights.take("attention.in_proj_bias", {3 * d}, Init::zeros());
    out_ = take_linear(weights, "attention.out_proj", {.in = d, .out = d});
    norm_ = NormLayer::take(weights, "layernorm", d, config.eps);
    fc1_ = take_linear(weights, "mlp.fc1", {.in = d, .out = config.ffn});
    fc2_ = take_linear(weights, "mlp.fc2", {.in = config.ffn, .out = d});
  }

  /// x_TD: N images of P rows; probe_ND: the query once per image -> [N, D].
  at::Tensor forward(const at::Tensor& x_TD, const at::Tensor& probe_ND, const Segments& rows,
                     const Segments& singles, const DropoutKeys& dropout) const {
    const auto project = [&](int64_t part, const at::Tensor& x, const Segments& segments) {
      const int64_t d = config_.width;
      return linear(x, in_weight_.narrow(0, part * d, d), in_bias_.narrow(0, part * d, d),
                    segments);
    };
    const at::Tensor q_ND = project(0, probe_ND, singles);
    const at::Tensor k_TD = project(1, x_TD, rows), v_TD = project(2, x_TD, rows);
    at::Tensor mixed_ND;
    if (rows.per_sample) {  // the order of ATen's sums depends on the number of images
      std::vector<at::Tensor> parts;
      for (int64_t s = 0; s < rows.count(); ++s)
        parts.push_back(attend(q_ND.narrow(0, s, 1), k_TD.narrow(0, rows.begin(s), rows.length(s)),
                               v_TD.narrow(0, rows.begin(s), rows.length(s))));
      mixed_ND = at::cat(parts);
    } else {
      mixed_ND = attend(q_ND, k_TD, v_TD);
    }
    const at::Tensor y_ND = out_(mixed_ND, singles);
    const at::Tensor inner_NF =
        activate(fc1_(norm_(y_ND, singles), singles, dropout), config_.activation, singles);
    return y_ND + fc2_(inner_NF, singles, dropout);
  }

  /// Of the MLP; the projections of its attention are parameters of torch's MultiheadAttention and
  /// no linears of their own.
  std::vector<Linear> linears() const { return {fc1_, fc2_}; }
  at::Tensor probe_1D() const { return probe_11D_.view({1, -1}); }

 private:
  // One query for the rows of each of N images -> [N, D].
  at::Tensor attend(const at::Tensor& q_ND, const at::Tensor& k_TD, const at::Tensor& v_TD) const {
    const int64_t n = q_ND.size(0), heads = config_.heads, head = config_.width / heads;
    const at::Tensor q_N1HE = q_ND.view({n, 1, heads, head});
    const at::Tensor k_NPHE = k_TD.view({n, -1, heads, head});
    const at::Tensor v_NPHE = v_TD.view({n, -1, heads, head});
    const double scale = 1.0 / std::sqrt(static_cast<double>(head));
    const at::Tensor scores_NPH = (k_NPHE * q_N1HE).to(at::kFloat).sum(-1) * scale;
    const at::Tensor weights_NPH = at::softmax(scores_NPH, 1);
    return (weights_NPH.unsqueeze(-1) * v_NPHE).sum(1).reshape({n, -1}).to(k_TD.scalar_type());
  }

  VitConfig config_{};
  at::Tensor probe_11D_, in_weight_, in_bias_;
  Linear out_, fc1_, fc2_;
  NormLayer norm_;
};

class SiglipEncoder final : public VitEncoder {
 public:
  SiglipEncoder(const EncoderFiles& files, Weights weights)
      : VitEncoder(files, kSiglip, ImageTransform::siglip_defaults()) {
    const WeightScope tower = take_tower(weights);
    post_norm_ = NormLayer::take(tower, "post_layernorm", config_.width, config_.eps);
    with_head_ =
        JsonView(tower_json_, files.what + "/config.json").boolean("vision_use_head", true);
    if (with_head_) {
      head_ = SiglipPooling(tower.scope("head."), config_);
      for (const Linear& layer : head_.linears()) linears_.push_back(layer);
    }
    finish(weights);
  }

  Features forward(const std::vector<EncoderInput>& inputs, const FeatureSelect& select,
                   bool per_item, const DropoutKeys& dropout) const override {
    Features out;
    int64_t count = 0;
    for (const EncoderInput& input : inputs) {
      out.items.push_back(layout(input, select));
      count += images(input);
    }
    at::Tensor x_TD = patch_rows(inputs, per_item) + repeat_rows(positions_PD_, count, per_item);
    const Segments rows = image_segments(count, patches(), per_item);
    const int64_t blocks = select_blocks(select, config_.layers);
    x_TD = run_encoder_blocks({blocks_, rows, dropout}, blocks, checkpointing_, x_TD);
    if (select.kind != FeatureSelect::Kind::kHidden) x_TD = post_norm_(x_TD, rows);
    if (select.kind == FeatureSelect::Kind::kPooled) {
      const Segments singles = image_segments(count, 1, per_item);
      x_TD = head_.forward(x_TD, repeat_rows(head_.probe_1D(), count, per_item), rows, singles,
                           dropout);
    }
    out.rows_LE = x_TD;
    return out;
  }

 private:
  bool has_pooled() const override { return with_head_; }

  NormLayer post_norm_;
  bool with_head_ = true;
  SiglipPooling head_;
};

}  // namespace

std::unique_ptr<Encoder> make_siglip(const EncoderFiles& files, Weights weights) {
  return std::make_unique<SiglipEncoder>(files, std::move(weights));
}

}  // namespace euromodal
