// media.h — raw sound, pictures and clips, and the reader that decodes them. The reader is a
// library of its own (FFmpeg, OpenCV), loaded on first use. Never CUDA, never a model, no torch.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/error.h"

namespace euromodal {

enum class Modality { kImage, kAudio, kVideo };
const char* modality_name(Modality kind);  // "image", "audio", "video"

struct Pcm {
  std::vector<float> samples;
  int64_t sample_rate_hz = 16000;
};  // [S] mono, in [-1, 1]
struct Image {
  int64_t height = 0, width = 0;
  std::vector<uint8_t> rgb;
};  // [H, W, 3]
struct Clip {
  int64_t frames = 0, height = 0, width = 0;
  std::vector<uint8_t> rgb;
  std::vector<double> pts_s;
};  // [F, H, W, 3], [F]

/// What is decoded: a file, or bytes held in memory (a member of a shard) with a name for messages.
struct MediaSource {
  std::string name;        // path, or "SHARD:MEMBER"; its ending may hint at the format
  std::string_view bytes;  // empty: read the file `name`
  bool in_memory = false;
};

/// Which frames of a clip to keep: `count` spread uniformly over the whole (all of them when there
/// are exactly as many); 0 keeps all (at most 4096, else an error).
struct ClipRequest {
  int64_t count = 0;
};

class MediaReader {
 public:
  virtual ~MediaReader() = default;
  /// Mono (mean of the channels), resampled to 16 kHz; of a file with pictures and sound the first
  /// sound track. [t0_s, t1_s) cuts; t1_s < 0: to the end. DataError naming the source: missing,
  /// empty, broken, no sound track, no samples.
  virtual Pcm read_audio(const MediaSource& source, double t0_s = 0.0,
                         double t1_s = -1.0) const = 0;
  /// EXIF orientation applied, transparency laid on white, 16 bits to 8 by value / 257, grey to
  /// three equal channels. At most 100 million pixels.
  virtual Image read_image(const MediaSource& source) const = 0;
  /// Frames with the container's rotation applied; only the requested frames are kept in memory.
  virtual Clip read_clip(const MediaSource& source, const ClipRequest& request) const = 0;
};

/// The one reader; loads libeuromodal_media.so (beside libeuromodal.so, or EUROMODAL_MEDIA_LIBRARY)
/// when first called. Error naming the paths tried.
const MediaReader& media_reader();

using RawMedia = std::variant<Pcm, Image, Clip>;

}  // namespace euromodal
