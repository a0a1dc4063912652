// encode.cpp — `euromodal encode`: feature rows of media through an encoder, one tensor per input.
#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "backbone/device.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/thread_flags.h"
#include "core/files.h"
#include "multimodal/encoder_folder.h"
#include "multimodal/stored_features.h"

namespace euromodal::cli {

int run_encode(int argc, char** argv) {
  std::string dir, output, features = "last", dtype = "float32", device_word = "cpu";
  std::vector<std::string> inputs;
  ThreadFlags threads;
  Options options("encode", "feature rows of pictures or sound, as safetensors");
  options.text("--encoder", &dir, "DIR", "encoder folder (config.json, safetensors)", true);
  options.many("--input", &inputs, "MEDIA...", "pictures or sound files, in this order", true);
  options.text(
      "--output", &output, "FILE",
      "safetensors file: features.0, features.1, ... [rows, width] f32; records may name them "
      "as FILE#features.0",
      true);
  options.text("--features", &features, "WHICH",
               "last, pooled, or a hidden state such as -2 (default last)");
  options.text("--dtype", &dtype, "TYPE", "float32, bfloat16 or float16 (default float32)");
  options.text("--device", &device_word, "WORD", "cpu, cuda or cuda:N");
  threads.declare(options);
  if (!options.parse(argc, argv)) return 0;

  const FeatureSelect select = FeatureSelect::parse(features);
  check<UsageError>(dtype == "float32" || dtype == "bfloat16" || dtype == "float16",
                    "--dtype: got {}, expected float32, bfloat16 or float16", dtype);
  const at::Device device = open_device(device_word);
  threads.use();
  const std::unique_ptr<Encoder> encoder = load_encoder_folder(dir, parse_dtype(dtype));
  move_parameters(encoder->parameters(), device);
  const c10::NoGradGuard no_grad;
  std::vector<StoredFeatures> rows;
  for (size_t i = 0; i < inputs.size(); ++i) {
    MediaSource source;
    source.name = inputs[i];
    const EncoderInput input = encoder->preprocess_on(encoder->read(source), device);
    const Features result = encoder->forward({input}, select);
    rows.push_back({result.rows_LE.to(at::kCPU, at::kFloat).contiguous(), result.items.front()});
  }
  // Complete or absent, and only when every input was encoded.
  const FeatureFile file = feature_file(rows, {encoder_identity(*encoder), features});
  save_safetensors(output, file.tensors, file.options);
  return 0;
}

}  // namespace euromodal::cli
