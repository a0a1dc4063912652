// av_input.h — one sound or video track of a media source, packet by packet and frame by frame.
// Everything is read from memory (a file is mapped), so FFmpeg opens nothing by itself: a playlist
// inside a media file cannot reach other files or the network.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "core/files.h"
#include "encoders/media/lib/ffmpeg.h"
#include "encoders/media/media.h"

namespace euromodal {

/// The bytes of a source: those it holds, or its file mapped. DataError naming the source: missing,
/// a folder, empty.
class SourceBytes {
 public:
  explicit SourceBytes(const MediaSource& source);
  std::string_view bytes() const { return bytes_; }

 private:
  std::optional<MappedFile> file_;
  std::string_view bytes_;
};

/// Not thread safe; one object per thread. Decoding uses one thread.
class AvInput {
 public:
  /// Opens the first track of `kind` (pictures attached to sound files are no video).
  AvInput(const MediaSource& source, AVMediaType kind);

  const std::string& name() const { return name_; }
  AVStream* stream() const { return stream_; }
  AVFormatContext* format() const { return format_.get(); }
  AVCodecContext* codec() const { return codec_.get(); }

  /// Decodes the whole track; `take` gets every frame in presentation order and returns false to
  /// stop early. DataError: a packet cut short by the end of the file, more than one packet in ten
  /// that does not decode (sound codecs without loss: any).
  void decode(const std::function<bool(const AVFrame&)>& take);
  /// Packets of the track that yield a frame, without decoding; the object is spent afterwards.
  int64_t count_packets();

 private:
  bool next_packet(AVPacket& packet);
  bool cut_short(const AVPacket& packet) const;

  std::string name_;
  SourceBytes source_;
  struct Cursor {
    std::string_view bytes;
    int64_t at = 0;
  };
  static int read_cursor(void* opaque, uint8_t* to, int size);
  static int64_t seek_cursor(void* opaque, int64_t offset, int whence);
  std::unique_ptr<Cursor> cursor_;
  UniqueAvIo io_;  // outlives format_
  UniqueAvFormat format_;
  UniqueAvCodec codec_;
  AVStream* stream_ = nullptr;
};

}  // namespace euromodal
