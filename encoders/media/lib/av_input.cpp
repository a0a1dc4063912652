// av_input.cpp — FFmpeg demuxing and decoding from memory.
#include "encoders/media/lib/av_input.h"

#include <algorithm>
#include <cstring>
#include <filesystem>

namespace euromodal {
namespace {

constexpr int kIoBufferBytes = 1 << 16;

const char* av_kind_name(AVMediaType kind) {
  return kind == AVMEDIA_TYPE_AUDIO ? "sound" : "video";
}

// Nested opens (playlists, references to other files) are refused.
int av_refuse_open(AVFormatContext*, AVIOContext**, const char*, int, AVDictionary**) {
  return AVERROR(EPERM);
}

}  // namespace

SourceBytes::SourceBytes(const MediaSource& source) {
  if (source.in_memory || !source.bytes.empty()) {
    bytes_ = source.bytes;
  } else {
    std::error_code code;
    const auto status = std::filesystem::status(source.name, code);
    check<DataError>(std::filesystem::exists(status), "{}: no such file", source.name);
    check<DataError>(std::filesystem::is_regular_file(status), "{}: not a regular file",
                     source.name);
    try {
      file_.emplace(source.name);
    } catch (const Error& e) {
      throw DataError("{}", e.what());
    }
    bytes_ = file_->text();
  }
  check<DataError>(!bytes_.empty(), "{}: the file is empty", source.name);
}

int AvInput::read_cursor(void* opaque, uint8_t* to, int size) {
  auto& cursor = *static_cast<Cursor*>(opaque);
  const int64_t left = static_cast<int64_t>(cursor.bytes.size()) - cursor.at;
  if (left <= 0) return AVERROR_EOF;
  const auto count = static_cast<int>(std::min<int64_t>(left, size));
  std::memcpy(to, cursor.bytes.data() + cursor.at, static_cast<size_t>(count));
  cursor.at += count;
  return count;
}

int64_t AvInput::seek_cursor(void* opaque, int64_t offset, int whence) {
  auto& cursor = *static_cast<Cursor*>(opaque);
  const auto size = static_cast<int64_t>(cursor.bytes.size());
  if ((whence & AVSEEK_SIZE) != 0) return size;
  const int from = whence & ~AVSEEK_FORCE;
  const int64_t base = from == SEEK_SET ? 0 : from == SEEK_CUR ? cursor.at : size;
  if (offset < -base) return AVERROR(EINVAL);
  cursor.at = base + std::min(offset, INT64_MAX - base);
  return cursor.at;
}

AvInput::AvInput(const MediaSource& source, AVMediaType kind)
    : name_(source.name),
      source_(source),
      cursor_(std::make_unique<Cursor>(Cursor{source_.bytes(), 0})) {
  auto* buffer = static_cast<unsigned char*>(av_malloc(kIoBufferBytes));
  check(buffer != nullptr, "{}: out of memory", name_);
  io_.reset(avio_alloc_context(buffer, kIoBufferBytes, /*write_flag=*/0, cursor_.get(),
                               &AvInput::read_cursor, nullptr, &AvInput::seek_cursor));
  check(io_ != nullptr, "{}: out of memory", name_);
  AVFormatContext* raw = avformat_alloc_context();
  check(raw != nullptr, "{}: out of memory", name_);
  raw->pb = io_.get();
  raw->io_open = &av_refuse_open;
  // Only the ending is told: it helps to recognise formats without a signature.
  const std::string hint = "media" + std::filesystem::path(name_).extension().string();
  int rc = avformat_open_input(&raw, hint.c_str(), nullptr, nullptr);  // frees raw on failure
  check<DataError>(rc >= 0, "{}: cannot be read as {}: {}", name_, av_kind_name(kind),
                   av_error_text(rc));
  format_.reset(raw);
  rc = avformat_find_stream_info(raw, nullptr);
  check<DataError>(rc >= 0, "{}: its tracks cannot be read: {}", name_, av_error_text(rc));

  for (unsigned i = 0; i < raw->nb_streams; ++i) {
    AVStream* candidate = raw->streams[i];
    const bool wanted = stream_ == nullptr && candidate->codecpar->codec_type == kind &&
                        (candidate->disposition & AV_DISPOSITION_ATTACHED_PIC) == 0;
    if (wanted) stream_ = candidate;
    candidate->discard = wanted ? AVDISCARD_DEFAULT : AVDISCARD_ALL;
  }
  check<DataError>(stream_ != nullptr, "{}: no {} track in it", name_, av_kind_name(kind));

  const AVCodec* decoder = avcodec_find_decoder(stream_->codecpar->codec_id);
  check<DataError>(decoder != nullptr, "{}: no decoder for its {} track ({})", name_,
                   av_kind_name(kind), avcodec_get_name(stream_->codecpar->codec_id));
  codec_.reset(avcodec_alloc_context3(decoder));
  check(codec_ != nullptr, "{}: out of memory", name_);
  rc = avcodec_parameters_to_context(codec_.get(), stream_->codecpar);
  codec_->pkt_timebase = stream_->time_base;
  codec_->thread_count = 1;  // the callers run many readers side by side
  if (rc >= 0) rc = avcodec_open2(codec_.get(), decoder, nullptr);
  check<DataError>(rc >= 0, "{}: the decoder of its {} track does not start: {}", name_,
                   av_kind_name(kind), av_error_text(rc));
}

// A packet that ends with the file although its header promised more. WAV writers that do not know
// the length beforehand write a size near 2^31 or 2^32: there the end of the file is the end.
bool AvInput::cut_short(const AVPacket& packet) const {
  if ((packet.flags & AV_PKT_FLAG_CORRUPT) == 0) return false;
  if (std::strcmp(format_->iformat->name, "wav") != 0) return true;
  if (format_->duration_estimation_method == AVFMT_DURATION_FROM_BITRATE) return false;  // no size
  const int64_t align = std::max(1, stream_->codecpar->block_align);
  return stream_->duration > 0 && stream_->duration < 0x7f000000 / align;
}

bool AvInput::next_packet(AVPacket& packet) {
  while (true) {
    av_packet_unref(&packet);
    const int rc = av_read_frame(format_.get(), &packet);
    if (rc == AVERROR_EOF) return false;
    check<DataError>(rc >= 0, "{}: broken or truncated: {}", name_, av_error_text(rc));
    if (packet.stream_index != stream_->index) continue;
    check<DataError>(!cut_short(packet), "{}: truncated: the file ends inside a packet", name_);
    return true;
  }
}

int64_t AvInput::count_packets() {
  const UniqueAvPacket packet(av_packet_alloc());
  check(packet != nullptr, "{}: out of memory", name_);
  int64_t count = 0;
  while (next_packet(*packet)) {
    if ((packet->flags & AV_PKT_FLAG_DISCARD) == 0) ++count;
  }
  return count;
}

void AvInput::decode(const std::function<bool(const AVFrame&)>& take) {
  const UniqueAvPacket packet(av_packet_alloc());
  const UniqueAvFrame frame(av_frame_alloc());
  check(packet != nullptr && frame != nullptr, "{}: out of memory", name_);
  const AVCodecDescriptor* codec = avcodec_descriptor_get(codec_->codec_id);
  const bool lossless = codec_->codec_type == AVMEDIA_TYPE_AUDIO && codec != nullptr &&
                        (codec->props & AV_CODEC_PROP_LOSSLESS) != 0 &&
                        (codec->props & AV_CODEC_PROP_LOSSY) == 0;
  int64_t packets = 0, broken = 0;
  int last_fault = 0;
  bool more = true, wanted = true;
  while (more && wanted) {
    more = next_packet(*packet);
    int rc = avcodec_send_packet(codec_.get(), more ? packet.get() : nullptr);
    ++packets;
    while (wanted) {
      if (rc >= 0) rc = avcodec_receive_frame(codec_.get(), frame.get());
      if (rc == AVERROR(EAGAIN) || rc == AVERROR_EOF) break;
      check(rc != AVERROR(ENOMEM), "{}: out of memory", name_);
      if (rc < 0) {  // one bad packet; what follows may be good
        ++broken;
        last_fault = rc;
        break;
      }
      wanted = take(*frame);
      av_frame_unref(frame.get());
    }
  }
  check<DataError>(broken == 0 || (!lossless && broken * 10 <= packets),
                   "{}: broken: {} of {} packets do not decode: {}", name_, broken, packets,
                   av_error_text(last_fault));
}

}  // namespace euromodal
