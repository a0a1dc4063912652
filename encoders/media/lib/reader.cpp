// reader.cpp — the media reader behind the C entry points of libeuromodal_media.so.
#include <opencv2/core.hpp>
#include <opencv2/core/utils/logger.hpp>

#include "encoders/media/lib/audio.h"
#include "encoders/media/lib/clip.h"
#include "encoders/media/lib/ffmpeg.h"
#include "encoders/media/lib/image.h"
#include "encoders/media/media_abi.h"

namespace euromodal {
namespace {

class Reader final : public MediaReader {
 public:
  // The libraries speak through our errors alone, and decode in the caller's thread: callers run
  // many readers side by side.
  Reader() {
    av_log_set_level(AV_LOG_QUIET);
    cv::utils::logging::setLogLevel(cv::utils::logging::LOG_LEVEL_SILENT);
    cv::setNumThreads(1);
  }
  Pcm read_audio(const MediaSource& source, double t0_s, double t1_s) const override {
    return decode_audio(source, t0_s, t1_s);
  }
  Image read_image(const MediaSource& source) const override { return decode_image(source); }
  Clip read_clip(const MediaSource& source, const ClipRequest& request) const override {
    return decode_clip(source, request);
  }
};

}  // namespace
}  // namespace euromodal

extern "C" {
int euromodal_media_abi() { return euromodal::kMediaAbi; }
const euromodal::MediaReader* euromodal_media_reader() {
  static const euromodal::Reader reader;
  return &reader;
}
}
