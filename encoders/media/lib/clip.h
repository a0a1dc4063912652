// clip.h — frames of a video.
#pragma once
#include "encoders/media/media.h"

namespace euromodal {

/// As MediaReader::read_clip.
Clip decode_clip(const MediaSource& source, const ClipRequest& request);

}  // namespace euromodal
