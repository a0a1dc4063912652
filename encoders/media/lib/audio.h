// audio.h — sound to mono float samples at 16 kHz.
#pragma once
#include "encoders/media/media.h"

namespace euromodal {

/// As MediaReader::read_audio.
Pcm decode_audio(const MediaSource& source, double t0_s, double t1_s);

}  // namespace euromodal
