// read_media.cpp — see read_media.h.
#include "training/data/read_media.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace euromodal {
namespace {

void media_cut(Pcm& pcm, const MediaRef& ref, const std::string& name) {
  const auto total = static_cast<double>(pcm.samples.size());
  const double rate = static_cast<double>(pcm.sample_rate_hz);
  const double begin = std::floor(ref.t0_s * rate);
  const double end = ref.t1_s < 0.0 ? total : std::min(total, std::floor(ref.t1_s * rate));
  check<DataError>(begin >= 0.0 && begin < end,
                   "{}: cut from {} s to {} s leaves nothing of {:.3f} s of sound", name, ref.t0_s,
                   ref.t1_s, total / rate);
  pcm.samples = std::vector<float>(pcm.samples.begin() + static_cast<int64_t>(begin),
                                   pcm.samples.begin() + static_cast<int64_t>(end));
}

}  // namespace

RawMedia read_media(const Encoder& encoder, const MediaRef& ref, const MediaSource& source) {
  check<DataError>(ref.tensor.empty(), "{}#{}: features of a medium, but the medium is needed here",
                   source.name, ref.tensor);
  RawMedia raw = encoder.read(source);
  if (!is_cut(ref)) return raw;
  Pcm* pcm = std::get_if<Pcm>(&raw);
  check<DataError>(pcm != nullptr, "{}: t0_s and t1_s cut sound only, not {}", source.name,
                   modality_name(ref.kind));
  media_cut(*pcm, ref, source.name);
  return raw;
}

}  // namespace euromodal
