// ffmpeg.h — the one place that includes FFmpeg (5.1): owners of its objects and its error texts.
#pragma once
#include <memory>
#include <string>

extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/display.h>
#include <libavutil/opt.h>
#include <libswresample/swresample.h>
#include <libswscale/swscale.h>
}

namespace euromodal {

struct AvFormatDeleter {
  void operator()(AVFormatContext* p) const { avformat_close_input(&p); }
};
struct AvCodecDeleter {
  void operator()(AVCodecContext* p) const { avcodec_free_context(&p); }
};
struct AvFrameDeleter {
  void operator()(AVFrame* p) const { av_frame_free(&p); }
};
struct AvPacketDeleter {
  void operator()(AVPacket* p) const { av_packet_free(&p); }
};
struct AvIoDeleter {
  void operator()(AVIOContext* p) const {
    av_freep(&p->buffer);  // FFmpeg may have replaced the buffer it was given
    avio_context_free(&p);
  }
};
struct SwrDeleter {
  void operator()(SwrContext* p) const { swr_free(&p); }
};
struct SwsDeleter {
  void operator()(SwsContext* p) const { sws_freeContext(p); }
};

using UniqueAvFormat = std::unique_ptr<AVFormatContext, AvFormatDeleter>;
using UniqueAvCodec = std::unique_ptr<AVCodecContext, AvCodecDeleter>;
using UniqueAvFrame = std::unique_ptr<AVFrame, AvFrameDeleter>;
using UniqueAvPacket = std::unique_ptr<AVPacket, AvPacketDeleter>;
using UniqueAvIo = std::unique_ptr<AVIOContext, AvIoDeleter>;
using UniqueSwr = std::unique_ptr<SwrContext, SwrDeleter>;
using UniqueSws = std::unique_ptr<SwsContext, SwsDeleter>;

inline std::string av_error_text(int code) {
  char text[AV_ERROR_MAX_STRING_SIZE] = {};
  av_strerror(code, text, sizeof text);
  return text;
}

}  // namespace euromodal
