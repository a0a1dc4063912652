// load.cpp — an encoder from a Hugging Face folder, freshly drawn, and back to a folder.
#include <ATen/ATen.h>

#include "core/files.h"
#include "encoders/registry.h"
#include "encoders/write_folder.h"

namespace euromodal {
namespace {

const EncoderEntry& load_find_entry(const JsonView& config) {
  const std::string type = config.str("model_type");
  std::string known;
  for (const EncoderEntry& entry : encoder_registry()) {
    if (type == entry.model_type) return entry;
    known += (known.empty() ? "" : ", ") + std::string(entry.model_type);
  }
  throw ConfigError("{}: model_type: got {}, expected an encoder: {}", config.what(), type, known);
}

// The processor's JSON: a file of its own, or a part of processor_config.json.
Json load_preprocessor(const std::filesystem::path& dir, Modality modality) {
  const std::filesystem::path own = dir / "preprocessor_config.json";
  if (std::filesystem::exists(own)) return read_json(own);
  const std::filesystem::path whole = dir / "processor_config.json";
  const char* key = modality == Modality::kAudio ? "feature_extractor" : "image_processor";
  check<ConfigError>(std::filesystem::exists(whole),
                     "{}: neither preprocessor_config.json nor processor_config.json is there",
                     dir.string());
  const Json json = read_json(whole);
  return JsonView(json, whole.string()).object(key).raw();
}

}  // namespace

std::unique_ptr<Encoder> load_encoder(const std::filesystem::path& dir, at::ScalarType dtype) {
  check<ConfigError>(std::filesystem::is_directory(dir), "{}: no such model folder", dir.string());
  const std::filesystem::path file = dir / "config.json";
  check<ConfigError>(std::filesystem::exists(file), "{}: not a model folder: no config.json in it",
                     dir.string());
  EncoderFiles files{read_json(file), {}, dir.string()};
  const EncoderEntry& entry = load_find_entry(JsonView(files.config, file.string()));
  files.preprocessor = load_preprocessor(dir, entry.modality);
  return entry.make(files, Weights::from_folder(dir, dtype));
}

std::unique_ptr<Encoder> random_encoder(const Json& config, const Json& preprocessor,
                                        uint64_t seed) {
  const EncoderFiles files{config, preprocessor, "random encoder"};
  const std::string where = files.what + ": config.json";
  const EncoderEntry& entry = load_find_entry(JsonView(files.config, where));
  return entry.make(files, Weights::random(seed, at::kFloat));
}

void write_encoder_folder(const std::filesystem::path& dir, Json config, const Json& preprocessor,
                          const std::vector<NamedTensor>& tensors) {
  std::filesystem::create_directories(dir);
  const at::ScalarType dtype = tensors.at(0).tensor.scalar_type();
  config.erase("dtype");
  config["torch_dtype"] = dtype == at::kBFloat16 ? "bfloat16"
                          : dtype == at::kHalf   ? "float16"
                                                 : "float32";
  std::vector<NamedTensor> plain;
  for (const NamedTensor& tensor : tensors)
    plain.push_back({tensor.name, tensor.tensor.detach().cpu().contiguous()});
  write_text_atomic(dir / "config.json", config.dump(1) + "\n");
  write_text_atomic(dir / "preprocessor_config.json", preprocessor.dump(1) + "\n");
  save_model_tensors(dir, plain);
}

}  // namespace euromodal
