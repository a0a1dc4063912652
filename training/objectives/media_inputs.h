// media_inputs.h — what the objectives share: from the media of a sample to encoder inputs, with a
// bounded memory of decoded items; and an encoder from a run's YAML.
#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/config.h"
#include "encoders/encoder.h"
#include "multimodal/batch.h"
#include "multimodal/record.h"
#include "training/data/dataset.h"

namespace euromodal {

/// Names the bytes of a media item: its source and, where the record cuts it, the times.
std::string media_key(const MediaRef& ref, const MediaSource& source);

/// Decodes and preprocesses; keeps results up to `max_bytes` (what comes first stays). Thread safe.
class MediaInputs {
 public:
  explicit MediaInputs(int64_t max_bytes) : max_bytes_(max_bytes) {}
  /// Where pictures and sound are transformed, and stay (at first the CPU). Before the first get().
  void transform_on(at::Device device) { device_ = device; }
  /// DataError as read_media().
  EncoderInput get(const Encoder& encoder, const MediaRef& ref, const MediaSource& source);
  /// The same from the medium itself; nothing is kept.
  EncoderInput preprocess(const Encoder& encoder, const RawMedia& media) const {
    return encoder.preprocess_on(media, device_);
  }

 private:
  const int64_t max_bytes_;
  at::Device device_{at::kCPU};
  int64_t bytes_ = 0;
  std::mutex mutex_;
  std::map<std::string, EncoderInput> kept_;
};

/// `encoder: {model: DIR}` or `encoder: {random: {config: FILE, preprocessor: FILE}}`; beside it
/// `checkpointing` and `lora` (backbone/lora.h).
std::unique_ptr<Encoder> make_objective_encoder(const Config& config, uint64_t seed);
/// Its parameters, those of a LoRA on it at the end, each with "encoder." in front.
std::vector<NamedTensor> encoder_parameters(const Encoder& encoder);
/// The rows of a batch whose samples have one medium each.
Features encode_batch(const Encoder& encoder, const Batch& batch, bool per_item);

/// The one media item of `sample` that `encoder` takes (position in sample.media); DataError unless
/// there is exactly one.
size_t only_media(const Sample& sample, const Encoder& encoder);

/// Lines of a text file without their ends; DataError naming file and line: none, empty, or twice.
std::vector<std::string> read_labels(const std::filesystem::path& file);

}  // namespace euromodal
