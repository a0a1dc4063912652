// read_media.h — a medium as a record names it: decoded, and cut to the record's times.
#pragma once
#include "encoders/encoder.h"
#include "multimodal/record.h"

namespace euromodal {

/// Does the record take a part of the medium only?
inline bool is_cut(const MediaRef& ref) { return ref.t0_s > 0.0 || ref.t1_s >= 0.0; }

/// Decodes what `encoder` takes. DataError naming the source: cannot be decoded, cut outside (sound
/// only can be cut), or features that were computed before, which is no medium.
RawMedia read_media(const Encoder& encoder, const MediaRef& ref, const MediaSource& source);

}  // namespace euromodal
