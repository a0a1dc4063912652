// clip.cpp — frames of a video, uniformly spread: frame i of n is frame floor(i · N / n) of the N
// in the file (what transformers' video processors take). Only planned frames are converted and
// kept.
#include "encoders/media/lib/clip.h"

#include <cmath>
#include <optional>
#include <vector>

#include <opencv2/core.hpp>

#include "encoders/media/frame_plan.h"
#include "encoders/media/lib/av_input.h"
#include "encoders/media/lib/limits.h"

namespace euromodal {
namespace {

constexpr int64_t kMaxClipFrames = 4096;

/// What turns a stored frame upright: quarter turns clockwise, then mirrors.
struct ClipTurn {
  int quarter_turns = 0;
  bool flip_horizontal = false, flip_vertical = false;
};

// The container's display matrix, for multiples of 90 degrees (others leave the frame as it is).
ClipTurn clip_turn(const AVStream& stream, const std::string& name) {
  size_t bytes = 0;
  const uint8_t* side = av_stream_get_side_data(&stream, AV_PKT_DATA_DISPLAYMATRIX, &bytes);
  if (side == nullptr || bytes < 9 * sizeof(int32_t)) return {};
  const auto* m = reinterpret_cast<const int32_t*>(side);
  const double degrees = av_display_rotation_get(m);  // anticlockwise
  check<DataError>(std::isfinite(degrees), "{}: its display matrix is no rotation", name);
  const int turns = static_cast<int>(std::llround(-degrees / 90.0)) & 3;
  ClipTurn turn{turns, false, false};
  switch (turns) {
    case 0:
      turn.flip_vertical = m[4] < 0;
      break;
    case 1:
      turn.flip_vertical = m[3] > 0;
      break;
    case 2:  // as two mirrors, each on its own sign
      turn = {0, m[0] < 0, m[4] < 0};
      break;
    default:
      turn.flip_vertical = m[3] < 0;
      if (turn.flip_vertical) turn.quarter_turns = 1;
      break;
  }
  return turn;
}

// Converts frames of any pixel format and size to RGB of the first frame's size.
class ClipConverter {
 public:
  explicit ClipConverter(const std::string& name) : name_(name) {}

  cv::Mat rgb(const AVFrame& frame) {
    if (height_ == 0) {
      height_ = frame.height;
      width_ = frame.width;
      check_pixels(name_, height_, width_);
    }
    const auto format = static_cast<AVPixelFormat>(frame.format);
    sws_.reset(sws_getCachedContext(
        sws_.release(), frame.width, frame.height, format, width_, height_, AV_PIX_FMT_RGB24,
        SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT, nullptr, nullptr, nullptr));
    check<DataError>(sws_ != nullptr, "{}: frames of {}x{} cannot be converted to RGB", name_,
                     frame.height, frame.width);
    const int space = frame.colorspace == AVCOL_SPC_UNSPECIFIED ? SWS_CS_DEFAULT : frame.colorspace;
    const int full = frame.color_range == AVCOL_RANGE_JPEG ? 1 : 0;
    sws_setColorspaceDetails(sws_.get(), sws_getCoefficients(space), full,
                             sws_getCoefficients(SWS_CS_DEFAULT), 1, 0, 1 << 16, 1 << 16);
    cv::Mat out(height_, width_, CV_8UC3);
    uint8_t* to[4] = {out.data, nullptr, nullptr, nullptr};
    const int stride[4] = {static_cast<int>(out.step[0]), 0, 0, 0};
    const int rows = sws_scale(sws_.get(), frame.data, frame.linesize, 0, frame.height, to, stride);
    check<DataError>(rows == height_, "{}: a frame cannot be converted to RGB", name_);
    return out;
  }

 private:
  const std::string& name_;
  UniqueSws sws_;
  int height_ = 0, width_ = 0;
};

cv::Mat clip_upright(cv::Mat frame, const ClipTurn& turn) {
  if (turn.quarter_turns == 1) cv::rotate(frame, frame, cv::ROTATE_90_CLOCKWISE);
  if (turn.quarter_turns == 2) cv::rotate(frame, frame, cv::ROTATE_180);
  if (turn.quarter_turns == 3) cv::rotate(frame, frame, cv::ROTATE_90_COUNTERCLOCKWISE);
  if (turn.flip_horizontal) cv::flip(frame, frame, 1);
  if (turn.flip_vertical) cv::flip(frame, frame, 0);
  return frame;
}

double clip_time(const AVFrame& frame, const AVStream& stream, int64_t index) {
  if (frame.best_effort_timestamp != AV_NOPTS_VALUE) {
    const int64_t start = stream.start_time == AV_NOPTS_VALUE ? 0 : stream.start_time;
    return static_cast<double>(frame.best_effort_timestamp - start) * av_q2d(stream.time_base);
  }
  const double fps = av_q2d(stream.avg_frame_rate);
  return fps > 0.0 ? static_cast<double>(index) / fps : static_cast<double>(index);
}

// Decodes the track once, keeping the frames `plan` names (ascending, repeats allowed) -> number of
// frames in the track.
int64_t clip_decode(AvInput& input, const std::vector<int64_t>& plan, Clip& clip) {
  const ClipTurn turn = clip_turn(*input.stream(), input.name());
  ClipConverter converter(input.name());
  int64_t index = 0;
  size_t next = 0;
  input.decode([&](const AVFrame& frame) {
    if (next < plan.size() && plan[next] == index) {
      const cv::Mat rgb = clip_upright(converter.rgb(frame), turn);
      clip.height = rgb.rows;
      clip.width = rgb.cols;
      const auto bytes = static_cast<int64_t>(rgb.total()) * 3;
      check<DataError>(bytes <= kMaxClipBytes / static_cast<int64_t>(plan.size()),
                       "{}: {} frames of {}x{} need more than {} bytes", input.name(), plan.size(),
                       rgb.rows, rgb.cols, kMaxClipBytes);
      for (; next < plan.size() && plan[next] == index; ++next) {
        clip.rgb.insert(clip.rgb.end(), rgb.data, rgb.data + bytes);
        clip.pts_s.push_back(clip_time(frame, *input.stream(), index));
        ++clip.frames;
      }
    }
    ++index;
    return true;
  });
  return index;
}

}  // namespace

Clip decode_clip(const MediaSource& source, const ClipRequest& request) {
  check<DataError>(request.count >= 0 && request.count <= kMaxClipFrames,
                   "{}: {} frames asked for, at most {} are possible", source.name, request.count,
                   kMaxClipFrames);
  // Nearly always one packet is one frame: count packets, decode by that plan, and decode again in
  // the rare case that the number of frames turns out to be another one.
  int64_t total = AvInput(source, AVMEDIA_TYPE_VIDEO).count_packets();
  for (int attempt = 0; attempt < 3; ++attempt) {
    check<DataError>(total > 0, "{}: no frames in its video track", source.name);
    check<DataError>(request.count > 0 || total <= kMaxClipFrames,
                     "{}: {} frames, at most {} can be kept; ask for fewer", source.name, total,
                     kMaxClipFrames);
    AvInput input(source, AVMEDIA_TYPE_VIDEO);
    Clip clip;
    const int64_t found = clip_decode(input, plan_frames(total, request.count), clip);
    if (found == total) return clip;
    total = found;
  }
  throw DataError("{}: the number of its frames changes from one decoding to the next",
                  source.name);
}

}  // namespace euromodal
