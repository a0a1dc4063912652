// encoder_head.h — what classification and CTC share: one encoder, a linear head on its rows,
// augmentation, and the folder they leave (the encoder's own Hugging Face folder; the head serves
// training only). L rows, E encoder width, C outputs of the head.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "encoders/encoder.h"
#include "encoders/preprocess/augment.h"
#include "training/objectives/objectives.h"

namespace euromodal {

class EncoderHead : public Objective {
 public:
  /// Reads `encoder: {model: DIR}` or `{random: {config: FILE, preprocessor: FILE}}` and `augment`.
  /// The head is drawn from the seed.
  EncoderHead(const Config& config, const ObjectiveOptions& options, int64_t outputs);

  const std::vector<NamedTensor>& parameters() const override {
    return parameters_;
  }  // "encoder.*" and "head.*"
  void save_model(const std::filesystem::path& dir) const override;

 protected:
  /// Decodes the record's one medium (DataError otherwise), augments it when training.
  Example prepare_medium(const Sample& sample, const Rng& rng, bool training) const;
  /// Rows of all samples and where each begins.
  struct Rows {
    at::Tensor rows_LE;
    Segments samples;
  };
  Rows encode(const Batch& batch) const;
  at::Tensor head(const at::Tensor& rows_LE, const Segments& rows) const;  // [L, C]
  /// What the assistant says: the record's target text.
  static std::string answer(const Record& record);

 private:
  std::unique_ptr<Encoder> encoder_;
  at::Tensor head_weight_CE_, head_bias_C_;
  std::vector<NamedTensor> parameters_;
  ImageAugment image_augment_;
  SpecAugment spec_augment_;
};

/// Lines of a file, without empty ones at the end; ConfigError when there is none.
std::vector<std::string> read_lines(const std::filesystem::path& file);

}  // namespace euromodal
