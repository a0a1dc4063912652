// coupled_model.h — the one implementation of MultimodalModel: a Llama backbone and, for each kind
// of media that the model takes, an encoder and an adapter. Made by model.cpp. T packed rows, L
// feature rows, E encoder width, D backbone width.
#pragma once
#include <array>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "multimodal/model.h"
#include "multimodal/splice.h"

namespace euromodal {

constexpr std::array<Modality, 3> kModalities = {Modality::kImage, Modality::kAudio,
                                                 Modality::kVideo};

/// One kind of media.
struct MediaPart {
  std::string placeholder;  // token, as the YAML names it
  std::string features;     // FeatureSelect's word
  FeatureSelect select;
  int64_t frames = 0;  // above 0: a clip through the image encoder, which is shared
  std::shared_ptr<Encoder> encoder;
  std::string adapter_yaml;
  std::unique_ptr<Adapter> adapter;
};

struct ModelParts {
  TextModel text;
  PlanContext context;
  std::map<std::string, std::string> tokenizer_files;  // name -> content
  std::array<std::optional<MediaPart>, 3> media;       // by Modality
  bool merge_lora = false;                             // when saving
};

class CoupledModel final : public MultimodalModel {
 public:
  explicit CoupledModel(ModelParts parts);
  const Llama& backbone() const override { return *parts_.text.llama; }
  Llama& backbone() override { return *parts_.text.llama; }
  const PlanContext& plan_context() const override { return parts_.context; }
  bool takes(Modality kind) const override { return parts_.media[index(kind)].has_value(); }
  const Encoder& encoder(Modality kind) const override { return *part(kind).encoder; }
  int64_t num_tokens(Modality kind, const EncoderInput& input) const override;
  int64_t num_tokens(Modality kind, const RowLayout& layout) const override;
  FeatureIdentity feature_identity(Modality kind) const override;
  EncoderInput prepare(Modality kind, const MediaSource& source) const override;
  at::Tensor forward(const Batch& batch, FeatureCache* cache,
                     PrefixCache* prefixes = nullptr) const override;
  at::Tensor embed(const Batch& batch, FeatureCache* cache) const override;
  const std::vector<NamedTensor>& parameters() const override { return parameters_; }

 protected:
  void save_to(const std::filesystem::path& dir) const override;

 private:
  struct Gathered;  // all items of a kind in a batch
  static size_t index(Modality kind) { return static_cast<size_t>(kind); }
  const MediaPart& part(Modality kind) const;  // DataError when the model takes no such media
  Gathered gather(const Batch& batch, Modality kind) const;
  /// Encoder rows of the items: from the cache, or all that it lacks in one go.
  Features encode(const Gathered& items, const MediaPart& part, bool per_item,
                  FeatureCache* cache) const;

  ModelParts parts_;
  std::vector<NamedTensor> parameters_;
  mutable std::mutex identity_mutex_;
  mutable std::array<std::string, 3> identities_;  // of the encoders; computed when first asked for
};

}  // namespace euromodal
