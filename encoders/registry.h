// registry.h — the encoders by model_type of config.json: one line each in registry.cpp.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "encoders/encoder.h"

namespace euromodal {

struct EncoderFiles {
  Json config;
  Json preprocessor;
  std::string what;
};  // `what`: folder, for messages
using EncoderFactory = std::unique_ptr<Encoder> (*)(const EncoderFiles& files, Weights weights);
struct EncoderEntry {
  const char* model_type;
  Modality modality;
  EncoderFactory make;
};

const std::vector<EncoderEntry>& encoder_registry();

}  // namespace euromodal
