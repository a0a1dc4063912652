// vit_encoder.h — what the image towers CLIP and SigLIP share: reading, transform, patches, blocks,
// saving. N images (pictures, or frames of clips), P patches of an image, T rows of all images.
#pragma once
#include <string>
#include <vector>

#include "encoders/preprocess/image_transform.h"
#include "encoders/registry.h"
#include "encoders/vit_block.h"

namespace euromodal {

struct VitConfig {
  int64_t width, layers, heads, ffn, image_size, patch;
  double eps;
  Activation activation;
  int64_t grid() const { return image_size / patch; }
};

/// What sets one tower apart from the other.
struct VitFamily {
  const char* name;         // "CLIP"
  const char* tower_type;   // model_type of the tower alone: "clip_vision_model"
  const char* tower_class;  // transformers' class of the tower alone
  const char* activation;   // defaults of transformers for a nested vision_config
  double eps;
  int64_t patch;
  bool patch_bias;
  int64_t prefix;  // class tokens
};

class VitEncoder : public Encoder {
 public:
  Modality modality() const override { return Modality::kImage; }
  int64_t width() const override { return config_.width; }
  int64_t num_layers() const override { return config_.layers; }
  RawMedia read(const MediaSource& source) const override;
  EncoderInput preprocess(const RawMedia& media) const override;
  EncoderInput preprocess_on(const RawMedia& media, at::Device device) const override;
  RowLayout layout(const EncoderInput& input, const FeatureSelect& select) const override;
  std::string settings() const override;
  const std::vector<NamedTensor>& parameters() const override { return parameters_; }
  std::vector<Linear> linears() const override { return linears_; }
  void set_checkpointing(Checkpointing checkpointing) override { checkpointing_ = checkpointing; }
  void save(const std::filesystem::path& dir) const override;

 protected:
  VitEncoder(const EncoderFiles& files, const VitFamily& family, const ImageTransform& defaults);
  /// Takes embeddings and blocks below the prefix the tower has in `weights`, and returns that
  /// scope for what the family adds.
  WeightScope take_tower(Weights& weights);
  /// Ignores the other half of a whole model, refuses anything left over, and lists the parameters.
  void finish(Weights& weights);
  /// Does this tower have a pooled output?
  virtual bool has_pooled() const = 0;

  /// Images of all inputs one after the other -> their patches projected, [N P, D].
  at::Tensor patch_rows(const std::vector<EncoderInput>& inputs, bool per_item) const;
  /// Images of an input, checked.
  int64_t images(const EncoderInput& input) const;
  int64_t patches() const { return config_.grid() * config_.grid(); }
  /// N segments of `length` rows.
  static Segments image_segments(int64_t count, int64_t length, bool per_item);
  /// table_PD [P, D] once for each of `count` images; summed image by image in the gradient.
  static at::Tensor repeat_rows(const at::Tensor& table_PD, int64_t count, bool per_item);

  VitConfig config_{};
  Json tower_json_;  // the tower's own config
  std::vector<EncoderBlock> blocks_;
  std::vector<Linear> linears_;  // of the blocks, and what the family adds
  Checkpointing checkpointing_;
  at::Tensor positions_PD_;

 private:
  const VitFamily& family_;
  EncoderFiles files_;
  ImageTransform transform_;
  at::Tensor patch_OCHW_, patch_bias_;
  std::vector<NamedTensor> parameters_;
};

}  // namespace euromodal
