// encoder.h — what every encoder is: raw media -> input (no weights needed, done by decode workers)
// -> feature rows. An encoder never knows which adapter follows it. L rows of all items, E encoder
// width.
#pragma once
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "backbone/kernels/segments.h"
#include "backbone/nn/checkpointing.h"
#include "backbone/nn/linear.h"
#include "backbone/nn/row_layout.h"
#include "backbone/weights/weights.h"
#include "core/json.h"
#include "encoders/media/media.h"
#include "encoders/preprocess/preprocess.h"

namespace euromodal {

/// Feature rows of several items, one after the other.
struct Features {
  at::Tensor rows_LE;  // [sum of rows, E]
  std::vector<RowLayout> items;
};

/// Which features: last_hidden_state, hidden_states[index] (negative counts from the end), or
/// pooler_output as one row.
struct FeatureSelect {
  enum class Kind { kLast, kHidden, kPooled } kind = Kind::kLast;
  int64_t index = -1;
  /// "last", "pooled", "-2", "3"; else UsageError naming the word.
  static FeatureSelect parse(const std::string& word);
};

class Encoder {
 public:
  virtual ~Encoder() = default;
  virtual Modality modality() const = 0;
  virtual int64_t width() const = 0;  // E
  virtual int64_t num_layers() const = 0;
  /// Decodes what this encoder takes (sound, picture, or the frames it needs of a clip).
  virtual RawMedia read(const MediaSource& source) const = 0;
  /// Raw media to input tensors; no weights, thread safe.
  virtual EncoderInput preprocess(const RawMedia& media) const = 0;
  /// The same made by the kernels of `device` where there are some (pictures: the same bits; sound:
  /// within 1e-4), else on the CPU.
  virtual EncoderInput preprocess_on(const RawMedia& media, at::Device /*device*/) const {
    return preprocess(media);
  }
  /// EXACT rows of an input from shapes alone (for `select`; ConfigError/UsageError when it asks
  /// for a layer or pooling that is not there).
  virtual RowLayout layout(const EncoderInput& input, const FeatureSelect& select) const = 0;
  /// All items of a batch together; differentiable in the parameters that require grad. Bits of an
  /// item do not depend on the others when per_item is set. `dropout`: in training, for LoRA: a key
  /// for each picture, frame or window of sound, i.e. for each x[i] of each input.
  virtual Features forward(const std::vector<EncoderInput>& inputs, const FeatureSelect& select,
                           bool per_item = false, const DropoutKeys& dropout = {}) const = 0;
  /// What shapes its features besides the weights (heads, epsilon, preprocessing), as one line; the
  /// same for every folder that this encoder is loaded from.
  virtual std::string settings() const = 0;
  /// Every parameter with its full name as on disk.
  virtual const std::vector<NamedTensor>& parameters() const = 0;
  /// The linears of its blocks in order, and of its head where it has one; an encoder without
  /// linears has none.
  virtual std::vector<Linear> linears() const { return {}; }
  /// What forward() keeps of its blocks for the backward pass from now on; at first everything. An
  /// encoder without blocks keeps nothing either way.
  virtual void set_checkpointing(Checkpointing /*checkpointing*/) {}
  /// config.json, preprocessor_config.json and model.safetensors, such that load_encoder() and
  /// transformers read it back.
  virtual void save(const std::filesystem::path& dir) const = 0;
};

/// Names an encoder by what decides its features: settings, and the values and dtype of the
/// weights and of a LoRA on them. 32 hex digits.
std::string encoder_identity(const Encoder& encoder);

/// A Hugging Face folder (config.json, preprocessor_config.json, weights), by model_type through
/// the registry; strict. dtype float32 or bfloat16.
std::unique_ptr<Encoder> load_encoder(const std::filesystem::path& dir,
                                      at::ScalarType dtype = at::kFloat);
/// Freshly drawn from the folder's (or a folder-to-be's) two JSON files: training from scratch.
std::unique_ptr<Encoder> random_encoder(const Json& config, const Json& preprocessor,
                                        uint64_t seed);
/// `frames`: a clip through an image encoder, `num_frames` of it, frame by frame; layout has frames
/// = num_frames. Shares the image encoder.
std::unique_ptr<Encoder> make_frames_encoder(std::shared_ptr<Encoder> image, int64_t num_frames);

}  // namespace euromodal
