// clip.cpp — CLIP's image tower (Radford et al. 2021). Reference: transformers CLIPVisionModel.
//   class token and patches + positions -> pre_layrnorm -> blocks (last) -> post_layernorm of the
//   class token (pooled)
// hidden_states[0] is after pre_layrnorm (so spelled); last is not normalised.
#include <ATen/ATen.h>

#include "encoders/feature_select.h"
#include "encoders/vit_encoder.h"

namespace euromodal {
namespace {

constexpr VitFamily kClip = {.name = "CLIP",
                             .tower_type = "clip_vision_model",
                             .tower_class = "CLIPVisionModel",
                             .activation = "quick_gelu",
                             .eps = 1e-5,
                             .patch = 32,
                             .patch_bias = false,
                             .prefix = 1};

class ClipEncoder final : public VitEncoder {
 public:
  ClipEncoder(const EncoderFiles& files, Weights weights)
      : VitEncoder(files, kClip, ImageTransform::clip_defaults()) {
    const WeightScope tower = take_tower(weights);
    class_D_ = tower.take("embeddings.class_embedding", {config_.width}, Init::normal(0.02));
    pre_norm_ = NormLayer::take(tower, "pre_layrnorm", config_.width, config_.eps);
    post_norm_ = NormLayer::take(tower, "post_layernorm", config_.width, config_.eps);
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
    const int64_t d = config_.width, length = patches() + 1;
    const Segments rows = image_segments(count, length, per_item);
    const at::Tensor class_N1D =
        repeat_rows(class_D_.view({1, d}), count, per_item).view({count, 1, d});
    const at::Tensor patches_NPD = patch_rows(inputs, per_item).view({count, patches(), d});
    at::Tensor x_TD = at::cat({class_N1D, patches_NPD}, 1).view({-1, d}) +
                      repeat_rows(positions_PD_, count, per_item);
    x_TD = pre_norm_(x_TD, rows);
    const int64_t blocks = select_blocks(select, config_.layers);
    x_TD = run_encoder_blocks({blocks_, rows, dropout}, blocks, checkpointing_, x_TD);
    const at::Tensor x_NPD = x_TD.view({count, length, d});
    if (select.kind == FeatureSelect::Kind::kPooled) {
      out.rows_LE = post_norm_(x_NPD.select(1, 0).contiguous(), image_segments(count, 1, per_item));
      return out;
    }
    std::vector<at::Tensor> parts;  // of clips only the patches
    int64_t first = 0;
    for (const RowLayout& item : out.items) {
      const int64_t skip = 1 - item.prefix;
      parts.push_back(
          x_NPD.narrow(0, first, item.frames).narrow(1, skip, length - skip).reshape({-1, d}));
      first += item.frames;
    }
    out.rows_LE = at::cat(parts);
    return out;
  }

 private:
  bool has_pooled() const override { return true; }

  at::Tensor class_D_;
  NormLayer pre_norm_, post_norm_;
};

}  // namespace

std::unique_ptr<Encoder> make_clip(const EncoderFiles& files, Weights weights) {
  return std::make_unique<ClipEncoder>(files, std::move(weights));
}

}  // namespace euromodal
