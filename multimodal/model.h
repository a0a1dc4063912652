// model.h — the coupled model: encoders, adapters, splice, backbone, described by one YAML; its
// folder is a Hugging Face text model (config.json, safetensors, tokenizer: any Llama program reads
// it for text) plus `multimodal.yaml`, `adapters.safetensors` and one Hugging Face folder per
// encoder.
//
//   backbone: {model: DIR, checkpointing: mlp}   # text model folder with tokenizer; what training
//   keeps of its blocks (backbone/nn/checkpointing.h; none); `weights: float8` keeps the blocks'
//   linears in one byte a number (backbone/float8_model.h)
//   image:
//     placeholder: "<image>"                     # token of the tokenizer (added beyond the
//     vocabulary when it has none) encoder: {model: DIR, features: last} adapter: {type: pool, ...}
//   audio: {placeholder: "<audio>", encoder: {...}, adapter: {type: stack_mlp, stack: 4, hidden:
//   256}} video: {placeholder: "<video>", encoder: {frames: 2, of: image}, adapter: {type: pool,
//   ...}}
//   merge_lora: true                           # save W + scale · B A instead of LoRA folders
//
// A `lora` map (backbone/lora.h) may stand in `backbone` and in each `encoder`.
#pragma once
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>

#include "adapters/adapter.h"
#include "backbone/llama.h"
#include "core/config.h"
#include "encoders/encoder.h"
#include "multimodal/batch.h"

namespace euromodal {

/// Caches frozen features by media key, bounded in bytes; lookups return an undefined tensor on a
/// miss. What is in it stays. Thread safe.
class FeatureCache {
 public:
  explicit FeatureCache(int64_t max_bytes) : max_bytes_(max_bytes) {}
  at::Tensor find(Modality kind, const std::string& key) const;
  void insert(Modality kind, const std::string& key, const at::Tensor& rows_LE);
  int64_t bytes() const;

 private:
  int64_t max_bytes_, bytes_ = 0;
  mutable std::mutex mutex_;
  std::map<std::pair<Modality, std::string>, at::Tensor> rows_;
};

class MultimodalModel {
 public:
  /// Builds from the YAML above. Adapters are drawn from `seed`. `dtype`: of the backbone and
  /// encoders (undefined: as their folders say).
  static std::unique_ptr<MultimodalModel> from_config(const Config& config, uint64_t seed);
  /// A folder that save() wrote.
  static std::unique_ptr<MultimodalModel> load(const std::filesystem::path& dir,
                                               std::optional<at::ScalarType> dtype);
  static bool is_folder(const std::filesystem::path& dir);  // has multimodal.yaml
  void save(const std::filesystem::path& dir) const;
  virtual ~MultimodalModel() = default;

  virtual const Llama& backbone() const = 0;
  virtual Llama& backbone() = 0;
  virtual const PlanContext& plan_context() const = 0;
  virtual bool takes(Modality kind) const = 0;
  virtual const Encoder& encoder(Modality kind) const = 0;
  /// EXACT tokens that `input` becomes (encoder layout, then adapter).
  virtual int64_t num_tokens(Modality kind, const EncoderInput& input) const = 0;
  /// The same for feature rows of this layout (computed before).
  virtual int64_t num_tokens(Modality kind, const RowLayout& layout) const = 0;
  /// Which features the model takes: those of its encoder as it was when first asked. Thread safe.
  virtual FeatureIdentity feature_identity(Modality kind) const = 0;
  /// Decode + preprocess one item, for workers (thread safe).
  virtual EncoderInput prepare(Modality kind, const MediaSource& source) const = 0;

  /// Encode (no graph when frozen), adapt, splice into the embeddings, backbone -> hidden rows [T,
  /// D]. Names the sample when counts disagree. With `prefixes` the rows before a sample's first
  /// medium (all rows of one without media) run as constants (Llama::forward).
  virtual at::Tensor forward(const Batch& batch, FeatureCache* cache = nullptr,
                             PrefixCache* prefixes = nullptr) const = 0;
  /// The same up to the spliced embeddings [T, D] (prefill of generation).
  virtual at::Tensor embed(const Batch& batch, FeatureCache* cache = nullptr) const = 0;

  /// All parameters: "backbone.model.layers...", "encoder.image....",
  /// "adapter.image.linear_1.weight", ...
  virtual const std::vector<NamedTensor>& parameters() const = 0;

 protected:
  virtual void save_to(const std::filesystem::path& dir) const = 0;
};

}  // namespace euromodal
