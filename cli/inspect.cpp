// inspect.cpp — `euromodal inspect PATH`: what a model folder or GGUF file, encoder, LoRA,
// safetensors file, checkpoint, run, flight record, shard, data set or config holds. Headers and
// JSON only: weights are neither read nor loaded.
#include <cstdio>
#include <filesystem>
#include <map>

#include <fmt/ranges.h>

#include "backbone/gguf_model.h"
#include "backbone/peft_folder.h"
#include "backbone/weights/safetensors.h"
#include "backbone/weights/tokenizer.h"
#include "backbone/weights/tokenizer/gguf_tokenizer.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "core/config.h"
#include "core/files.h"
#include "multimodal/model.h"
#include "training/data/dataset.h"
#include "training/data/shard_index.h"
#include "training/data/tar_scan.h"
#include "training/dist/flight_report.h"

namespace euromodal::cli {

namespace {

namespace fs = std::filesystem;

Json inspect_tensors(const std::vector<TensorInfo>& infos) {
  int64_t parameters = 0;
  uint64_t bytes = 0;
  std::map<std::string, int64_t> dtypes;
  Json rows = Json::array();
  for (const TensorInfo& info : infos) {
    int64_t count = 1;
    for (const int64_t size : info.shape) count *= size;
    parameters += count;
    bytes += info.end - info.begin;
    ++dtypes[c10::toString(info.dtype)];
    rows.push_back(
        {{"name", info.name}, {"dtype", c10::toString(info.dtype)}, {"shape", info.shape}});
  }
  return {{"tensors", infos.size()},
          {"numbers", parameters},
          {"bytes", bytes},
          {"dtypes", dtypes},
          {"list", rows}};
}

Json inspect_safetensors(const fs::path& file) {
  const SafetensorsFile stored(file);
  Json out = {{"kind", "safetensors"}};
  out.update(inspect_tensors(stored.infos()));
  if (!stored.metadata().empty()) out["metadata"] = stored.metadata();
  return out;
}

/// Tensors of a GGUF file, as the file has them.
Json inspect_gguf_tensors(const GgufHeader& header) {
  int64_t parameters = 0;
  uint64_t bytes = 0;
  std::map<std::string, int64_t> dtypes;
  Json rows = Json::array();
  for (const GgufTensor& tensor : header.tensors) {
    int64_t count = 1;
    for (const int64_t size : tensor.shape) count *= size;
    parameters += count;
    bytes += tensor.bytes;
    const char* type = ggml_block(tensor.type)->name;
    ++dtypes[type];
    rows.push_back({{"name", tensor.name}, {"dtype", type}, {"shape", tensor.shape}});
  }
  return {{"tensors", header.tensors.size()},
          {"numbers", parameters},
          {"bytes", bytes},
          {"dtypes", dtypes},
          {"list", rows}};
}

/// A PEFT folder: what it is put on, and its tensors.
Json inspect_lora(const fs::path& dir) {
  const Json config = read_json(dir / "adapter_config.json");
  Json out = {{"kind", "LoRA (PEFT)"}};
  for (const char* key : {"peft_type", "r", "lora_alpha", "use_rslora", "lora_dropout",
                          "target_modules", "rank_pattern", "alpha_pattern"}) {
    if (config.contains(key)) out[key] = config[key];
  }
  if (fs::exists(dir / "adapter_model.safetensors"))
    out["weights"] = inspect_tensors(SafetensorsFile(dir / "adapter_model.safetensors").infos());
  return out;
}

Json inspect_sizes(const LlamaConfig& c) {
  return {{"parameters", c.num_parameters()},
          {"layers", c.num_layers},
          {"hidden", c.hidden_size},
          {"feed_forward", c.intermediate_size},
          {"heads", fmt::format("{} query, {} key/value, width {}", c.num_heads, c.num_kv_heads,
                                c.head_dim)},
          {"vocabulary", c.vocab_size},
          {"context", c.max_positions},
          {"rope", fmt::format("{}, theta {:g}", c.rope.type, c.rope.theta)},
          {"tied_head", c.tie_embeddings},
          {"stop_ids", c.eos_ids},
          {"kv_cache_bytes_per_token_bf16", 4 * c.num_layers * c.num_kv_heads * c.head_dim}};
}

/// A model that can be run, a vocabulary alone, or of an architecture that is not known here.
Json inspect_gguf(const fs::path& path) {
  const GgufFile file(path);
  const GgufHeader& header = file.header();
  const std::string architecture = header.str("general.architecture", "");
  Json out = {{"kind", "GGUF"}, {"architecture", architecture}};
  if (architecture == "llama" && !header.tensors.empty())
    out.update(inspect_sizes(gguf_config(file)));
  if (gguf_has_tokenizer(header))
    out["tokenizer_entries"] = header.strings("tokenizer.ggml.tokens").size();
  out["weights"] = inspect_gguf_tensors(header);
  return out;
}

Json inspect_text_model(const fs::path& dir) {
  Json out = {{"kind", MultimodalModel::is_folder(dir) ? "coupled model" : "text model"}};
  out.update(inspect_sizes(LlamaConfig::load(dir)));
  if (fs::exists(dir / "tokenizer.json") || fs::exists(dir / "tokenizer.model"))
    out["tokenizer_entries"] = Tokenizer::load(dir)->size();
  if (MultimodalModel::is_folder(dir)) {
    out["coupling"] = read_text(dir / "multimodal.yaml");
    out["adapters"] = inspect_tensors(SafetensorsFile(dir / "adapters.safetensors").infos());
  }
  for (const char* part : {"backbone", "encoder_image", "encoder_audio", "encoder_video"}) {
    const fs::path lora = dir / (std::string("lora_") + part);
    if (is_peft_folder(lora)) out[std::string("lora_") + part] = inspect_lora(lora);
  }
  if (fs::exists(dir / "model.safetensors") || fs::exists(dir / "model.safetensors.index.json"))
    out["weights"] = inspect_tensors(list_model_tensors(dir));
  return out;
}

/// Any other Hugging Face folder: what its config says, and its tensors.
Json inspect_model(const fs::path& dir) {
  const Json config = read_json(dir / "config.json");
  check<ConfigError>(config.is_object(), "{}: expected a JSON object",
                     (dir / "config.json").string());
  if (config.value("model_type", Json()) == "llama") return inspect_text_model(dir);
  Json out = {{"kind", "model folder"}, {"config", config}};
  if (fs::exists(dir / "model.safetensors") || fs::exists(dir / "model.safetensors.index.json"))
    out["weights"] = inspect_tensors(list_model_tensors(dir));
  return out;
}

Json inspect_checkpoint(const fs::path& dir) {
  const Json state = read_json(dir / "state.json");
  Json out = {{"kind", "checkpoint"},
              {"complete", fs::exists(dir / "DONE")},
              {"step", state.value("step", Json())},
              {"identity", state.value("identity", Json())},
              {"frozen_tensors", state.value("frozen", Json::object()).size()}};
  out["trained"] = inspect_tensors(SafetensorsFile(dir / "parameters.safetensors").infos());
  return out;
}

Json inspect_run(const fs::path& dir) {
  Json checkpoints = Json::array();
  std::vector<fs::path> folders;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(dir / "checkpoints", ignored))
    folders.push_back(entry.path());
  std::sort(folders.begin(), folders.end());
  for (const fs::path& folder : folders)
    checkpoints.push_back(folder.filename().string() +
                          (fs::exists(folder / "DONE") ? "" : " (not complete)"));
  Json out = {{"kind", "run"}, {"model", fs::exists(dir / "model")}, {"checkpoints", checkpoints}};
  if (is_flight_folder(dir / "flight")) out["flight"] = flight_verdict(dir / "flight");
  if (fs::exists(dir / "environment.json"))
    out["environment"] = read_json(dir / "environment.json");
  if (fs::exists(dir / "metrics.jsonl")) {
    const std::string text = read_text(dir / "metrics.jsonl");
    const auto end = text.find_last_not_of('\n');
    if (end != std::string::npos)
      out["last_metrics"] =
          Json::parse(text.substr(text.rfind('\n', end) + 1), nullptr, /*allow_exceptions=*/false);
  }
  out["config"] = read_text(dir / "config.yaml");
  return out;
}

Json inspect_shards(const fs::path& index_file) {
  const ShardIndex index = read_shard_index(index_file);
  Json shards = Json::array();
  int64_t bytes = 0;
  for (const ShardEntry& shard : index.shards) {
    bytes += shard.bytes;
    shards.push_back(
        fmt::format("{}: {} samples, {} bytes", shard.file, shard.samples, shard.bytes));
  }
  std::map<std::string, int64_t> media;
  for (const SampleEntry& sample : index.samples) {
    for (const MemberSpan& member : sample.media)
      ++media[fs::path(member.suffix).extension().string()];
  }
  return {{"kind", "shards"},
          {"samples", index.samples.size()},
          {"bytes", bytes},
          {"media", media},
          {"shards", shards}};
}

Json inspect_tar(const fs::path& file) {
  const MappedFile tar(file);
  Json members = Json::array();
  std::map<std::string, int64_t> endings;
  for (const TarMember& member : scan_tar(tar)) {
    ++endings[fs::path(member.name).extension().string()];
    members.push_back(fmt::format("{} ({} bytes)", member.name, member.bytes));
  }
  return {{"kind", "tar shard"}, {"endings", endings}, {"members", members}};
}

Json inspect_records(const fs::path& file) {
  const auto data = Dataset::open(file);
  std::map<std::string, int64_t> languages, kinds;
  for (int64_t i = 0; i < data->size(); ++i) {
    const Record record = data->get(i).record;
    ++languages[record.lang.empty() ? "none" : record.lang];
    bool any = false;
    for (const Message& message : record.messages) {
      for (const Part& part : message.parts) {
        if (part.is_media) ++kinds[modality_name(part.media.kind)];
        any |= part.is_media;
      }
    }
    if (!any) ++kinds["text only"];
  }
  return {{"kind", "records"},
          {"samples", data->size()},
          {"languages", languages},
          {"media", kinds},
          {"fingerprint", data->fingerprint()}};
}

Json inspect_path(const fs::path& path) {
  check<UsageError>(fs::exists(path), "{}: there is no such file or folder", path.string());
  const std::string ending = path.extension().string();
  if (!fs::is_directory(path)) {
    if (ending == ".gguf") return inspect_gguf(path);
    if (ending == ".safetensors") return inspect_safetensors(path);
    if (ending == ".yaml" || ending == ".yml")
      return {{"kind", "config"}, {"config", Config::load(path).dump()}};
    if (ending == ".jsonl") return inspect_records(path);
    if (ending == ".tar") return inspect_tar(path);
    if (path.filename() == "index.json") return inspect_shards(path);
    throw UsageError("{}: is none of .safetensors, .gguf, .yaml, .jsonl, .tar, index.json",
                     path.string());
  }
  if (fs::exists(path / "config.json")) return inspect_model(path);
  if (const auto gguf = find_gguf(path)) return inspect_gguf(*gguf);
  if (is_flight_folder(path)) return flight_report(path);
  if (is_peft_folder(path)) return inspect_lora(path);
  if (fs::exists(path / "state.json")) return inspect_checkpoint(path);
  if (fs::exists(path / "config.yaml")) return inspect_run(path);
  if (fs::exists(path / "index.json")) return inspect_shards(path / "index.json");
  if (fs::exists(path / "tokenizer.json") || fs::exists(path / "tokenizer.model"))
    return {{"kind", "tokenizer"}, {"entries", Tokenizer::load(path)->size()}};
  throw UsageError(
      "{}: is no model, encoder, LoRA, tokenizer, checkpoint, run, flight or shard folder (none of "
      "config.json, adapter_config.json, tokenizer.json, state.json, config.yaml, rank-N.json, "
      "index.json is in it)",
      path.string());
}

/// Lines for people: one key each, tensors as a table, texts indented below their key.
void inspect_print(const Json& value, const std::string& indent) {
  for (const auto& [key, entry] : value.items()) {
    if (key == "list") {
      for (const Json& tensor : entry) {
        std::printf("%s%-60s %-10s %s\n", indent.c_str(), tensor["name"].get<std::string>().c_str(),
                    tensor["dtype"].get<std::string>().c_str(), tensor["shape"].dump().c_str());
      }
    } else if (entry.is_object()) {
      std::printf("%s%s:\n", indent.c_str(), key.c_str());
      inspect_print(entry, indent + "  ");
    } else if (entry.is_string()) {
      std::string text = entry.get<std::string>();
      const bool lines = text.find('\n') != std::string::npos;
      for (size_t at = text.find('\n'); at != std::string::npos; at = text.find('\n', at + 1))
        text.insert(at + 1, indent + "  ");
      std::printf("%s%s: %s%s\n", indent.c_str(), key.c_str(),
                  lines ? ("\n" + indent + "  ").c_str() : "", text.c_str());
    } else if (entry.is_array() && !entry.empty() && entry.front().is_string()) {
      std::printf("%s%s:\n", indent.c_str(), key.c_str());
      for (const Json& line : entry)
        std::printf("%s  %s\n", indent.c_str(), line.get<std::string>().c_str());
    } else {
      std::printf("%s%s: %s\n", indent.c_str(), key.c_str(), entry.dump().c_str());
    }
  }
}

}  // namespace

int run_inspect(int argc, char** argv) {
  Options parser("inspect",
                 "says what a model, encoder, checkpoint, run, shard, data set or config holds");
  std::string path;
  bool json = false;
  parser.positional("PATH", &path, "file or folder", /*required=*/true);
  parser.flag("--json", &json, "one JSON object");
  if (!parser.parse(argc, argv)) return 0;
  const Json found = inspect_path(path);
  if (json) {
    std::puts(found.dump().c_str());
  } else {
    inspect_print(found, "");
  }
  return 0;
}

}  // namespace euromodal::cli
