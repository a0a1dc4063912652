// formulas.h — the inputs of make_goldens.py, computed exactly alike here.
#pragma once
#include <cstdint>

#include "encoders/media/media.h"

namespace euromodal::testing_support {

inline Pcm formula_sound(int64_t samples) {
  Pcm pcm;
  for (int64_t i = 0; i < samples; ++i)
    pcm.samples.push_back(
        static_cast<float>(static_cast<double>((7 * i * i + 131 * i) % 65521 - 32760) / 65521));
  return pcm;
}

inline Image formula_picture(int64_t height, int64_t width) {
  Image image{height, width, {}};
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < width; ++x)
      for (int64_t c = 0; c < 3; ++c)
        image.rgb.push_back(
            static_cast<uint8_t>((37 * y * y + 59 * x * x + 13 * x * y * (c + 1) + 101 * c) >> 4));
  return image;
}

}  // namespace euromodal::testing_support
