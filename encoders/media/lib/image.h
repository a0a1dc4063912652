// image.h — pictures to 8-bit RGB.
#pragma once
#include "encoders/media/media.h"

namespace euromodal {

/// As MediaReader::read_image.
Image decode_image(const MediaSource& source);

}  // namespace euromodal
