// audio.cpp — decode, mean of the channels, resample to 16 kHz (libswresample, a long
// Kaiser-windowed sinc). S samples of input at rate r become exactly ceil(S · 16000 / r).
#include "encoders/media/lib/audio.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "encoders/media/lib/av_input.h"

namespace euromodal {
namespace {

constexpr int kSampleRateHz = 16000;
constexpr int64_t kMaxSamples = int64_t{1} << 31;  // 37 hours

// Sample i of channel c as a number in [-1, 1].
double audio_sample(const AVFrame& frame, int channel, int64_t i) {
  const auto format = static_cast<AVSampleFormat>(frame.format);
  const bool planar = av_sample_fmt_is_planar(format) != 0;
  const uint8_t* data = frame.extended_data[planar ? channel : 0];
  const int64_t at = planar ? i : i * frame.ch_layout.nb_channels + channel;
  switch (av_get_packed_sample_fmt(format)) {
    case AV_SAMPLE_FMT_U8:
      return (data[at] - 128) / 128.0;
    case AV_SAMPLE_FMT_S16:
      return reinterpret_cast<const int16_t*>(data)[at] / 32768.0;
    case AV_SAMPLE_FMT_S32:
      return reinterpret_cast<const int32_t*>(data)[at] / 2147483648.0;
    case AV_SAMPLE_FMT_S64:
      return static_cast<double>(reinterpret_cast<const int64_t*>(data)[at]) /
             9223372036854775808.0;
    case AV_SAMPLE_FMT_FLT:
      return reinterpret_cast<const float*>(data)[at];
    default:
      return reinterpret_cast<const double*>(data)[at];
  }
}

// Appends a frame as mono; false when a sample is not a finite number.
bool audio_append_mono(const AVFrame& frame, std::vector<float>& mono) {
  const int channels = frame.ch_layout.nb_channels;
  for (int64_t i = 0; i < frame.nb_samples; ++i) {
    double sum = 0.0;
    for (int c = 0; c < channels; ++c) sum += audio_sample(frame, c, i);
    const auto mean = static_cast<float>(sum / channels);
    if (!std::isfinite(mean)) return false;
    mono.push_back(mean);
  }
  return true;
}

std::vector<float> audio_resample(const std::vector<float>& in, int rate, const std::string& name) {
  const auto count = static_cast<int64_t>(in.size());
  const int64_t want = (count * kSampleRateHz + rate - 1) / rate;
  AVChannelLayout mono = AV_CHANNEL_LAYOUT_MONO;
  SwrContext* raw = nullptr;
  int rc = swr_alloc_set_opts2(&raw, &mono, AV_SAMPLE_FMT_FLT, kSampleRateHz, &mono,
                               AV_SAMPLE_FMT_FLT, rate, 0, nullptr);
  const UniqueSwr swr(raw);
  if (rc >= 0) {
    av_opt_set_int(raw, "filter_size", 64, 0);
    av_opt_set_int(raw, "phase_shift", 10, 0);
    av_opt_set_double(raw, "cutoff", 0.95, 0);
    av_opt_set(raw, "filter_type", "kaiser", 0);
    av_opt_set_int(raw, "kaiser_beta", 12, 0);
    rc = swr_init(raw);
  }
  check<DataError>(rc >= 0, "{}: sound of {} Hz cannot be resampled: {}", name, rate,
                   av_error_text(rc));
  std::vector<float> out(static_cast<size_t>(want));
  constexpr int kBlock = 1 << 15;
  int64_t at = 0, done = 0;
  while (done < want) {
    const auto feed = static_cast<int>(std::min<int64_t>(kBlock, count - at));
    const auto* from = reinterpret_cast<const uint8_t*>(in.data() + at);
    auto* to = reinterpret_cast<uint8_t*>(out.data() + done);
    const auto room = static_cast<int>(std::min<int64_t>(want - done, INT32_MAX));
    rc = swr_convert(raw, &to, room, feed > 0 ? &from : nullptr, feed);
    check<DataError>(rc >= 0, "{}: sound of {} Hz cannot be resampled: {}", name, rate,
                     av_error_text(rc));
    at += feed;
    done += rc;
    if (feed == 0 && rc == 0) break;  // flushed; at most a few samples are missing: zeros
  }
  return out;
}

// Number of 16 kHz samples before time t.
int64_t audio_position(double t_s) {
  return static_cast<int64_t>(std::llround(std::min(t_s * kSampleRateHz, 1e15)));
}

}  // namespace

Pcm decode_audio(const MediaSource& source, double t0_s, double t1_s) {
  const std::string& name = source.name;
  check<DataError>(std::isfinite(t0_s) && t0_s >= 0.0, "{}: start {} s is not a time", name, t0_s);
  check<DataError>(std::isfinite(t1_s) && (t1_s < 0.0 || t1_s > t0_s),
                   "{}: the cut from {} s to {} s is empty", name, t0_s, t1_s);
  AvInput input(source, AVMEDIA_TYPE_AUDIO);
  std::vector<float> mono, samples;
  int rate = 0;
  int64_t decoded = 0;
  // A rate that changes in the middle starts a new stretch, resampled by itself.
  const auto flush = [&] {
    if (rate != 0 && rate != kSampleRateHz) mono = audio_resample(mono, rate, name);
    samples.insert(samples.end(), mono.begin(), mono.end());
    mono.clear();
  };
  bool whole = true;
  input.decode([&](const AVFrame& frame) {
    check<DataError>(frame.sample_rate > 0 && frame.ch_layout.nb_channels > 0,
                     "{}: a sound frame without rate or channels", name);
    if (frame.sample_rate != rate) {
      flush();
      rate = frame.sample_rate;
    }
    decoded += frame.nb_samples;
    check<DataError>(audio_append_mono(frame, mono),
                     "{}: sample {} or one soon after it is not a finite number", name,
                     decoded - frame.nb_samples);
    check<DataError>(static_cast<int64_t>(mono.size() + samples.size()) < kMaxSamples,
                     "{}: longer than {} samples", name, kMaxSamples);
    // Half a second beyond the cut is enough for the resampler's filter.
    const double have_s = static_cast<double>(samples.size()) / kSampleRateHz +
                          static_cast<double>(mono.size()) / rate;
    whole = t1_s < 0.0 || have_s < t1_s + 0.5;
    return whole;
  });
  flush();
  // FLAC says how many samples there are: fewer means that the file was cut between two packets.
  if (const AVStream& track = *input.stream();
      whole && track.codecpar->codec_id == AV_CODEC_ID_FLAC && track.duration > 0 && rate > 0 &&
      std::string_view(input.format()->iformat->name) == "flac") {
    const int64_t promised = av_rescale_q(track.duration, track.time_base, AVRational{1, rate});
    check<DataError>(decoded >= promised, "{}: truncated: {} of {} samples are there", name,
                     decoded, promised);
  }
  check<DataError>(!samples.empty(), "{}: no samples in its sound track", name);
  const auto total = static_cast<int64_t>(samples.size());
  const int64_t begin = audio_position(t0_s);
  const int64_t end = t1_s < 0.0 ? total : std::min(total, audio_position(t1_s));
  check<DataError>(begin < end, "{}: no samples from {} s on: it lasts {:.3f} s", name, t0_s,
                   static_cast<double>(total) / kSampleRateHz);
  samples.resize(static_cast<size_t>(end));
  samples.erase(samples.begin(), samples.begin() + begin);
  return {std::move(samples), kSampleRateHz};
}

}  // namespace euromodal
