// model_folder.cpp — the tensors of a Hugging Face model folder: one file, or shards and their
// index (https://huggingface.co/docs/transformers/big_models).
#include <set>
#include <unordered_map>
#include <unordered_set>

#include <nlohmann/json.hpp>

#include "backbone/weights/safetensors.h"
#include "backbone/weights/safetensors_header.h"
#include "core/error.h"
#include "core/files.h"

namespace euromodal {
namespace {

constexpr const char* kSingle = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";

std::map<std::string, std::string> read_weight_map(const std::filesystem::path& file) {
  const std::string what = file.string();
  const std::string text = read_text(file);
  std::unordered_set<std::string> names;
  std::string section;
  // The document would keep the last of two equal names.
  const auto callback = [&](int depth, nlohmann::json::parse_event_t event,
                            nlohmann::json& parsed) {
    check<CheckpointError>(depth <= 8, "{}: nested too deep", what);
    if (event != nlohmann::json::parse_event_t::key) return true;
    const auto& key = parsed.get_ref<const std::string&>();
    if (depth == 1) section = key;
    if (depth == 2 && section == "weight_map")
      check<CheckpointError>(names.insert(key).second, "{}: tensor {} is there twice", what,
                             shown_name(key));
    return true;
  };
  nlohmann::json index;
  try {
    index = nlohmann::json::parse(text, callback);
  } catch (const nlohmann::json::exception& e) {
    throw CheckpointError("{}: not valid JSON: {}", what, shown_name(e.what()));
  }
  const bool usable = index.is_object() && index.contains("weight_map") &&
                      index["weight_map"].is_object() && !index["weight_map"].empty();
  check<CheckpointError>(usable, "{}: weight_map is missing or not an object with entries", what);
  std::map<std::string, std::string> map;
  for (const auto& [name, shard] : index["weight_map"].items()) {
    check<CheckpointError>(shard.is_string(), "{}: tensor {}: the shard must be a file name", what,
                           shown_name(name));
    const auto& word = shard.get_ref<const std::string&>();
    check<CheckpointError>(!word.empty() && word.find_first_of("/\\") == std::string::npos &&
                               word != "." && word != "..",
                           "{}: tensor {}: shard {} is not a plain file name", what,
                           shown_name(name), shown_name(word));
    map.emplace(name, word);
  }
  return map;
}

// Calls visit(file) for every file of the folder after its tensors were checked against the index.
template <typename Visit>
void visit_files(const std::filesystem::path& dir, const Visit& visit) {
  check<CheckpointError>(std::filesystem::is_directory(dir), "{}: no such folder", dir.string());
  if (std::filesystem::exists(dir / kSingle)) {
    visit(SafetensorsFile(dir / kSingle));
    return;
  }
  check<CheckpointError>(std::filesystem::exists(dir / kIndex),
                         "{}: is not a model folder: neither {} nor {} is there", dir.string(),
                         kSingle, kIndex);
  const auto map = read_weight_map(dir / kIndex);
  std::set<std::string> shards;
  for (const auto& [name, shard] : map) {
    check<CheckpointError>(shards.count(shard) != 0 || std::filesystem::exists(dir / shard),
                           "{}: shard {} of tensor {} is missing", (dir / kIndex).string(),
                           shown_name(shard), shown_name(name));
    shards.insert(shard);
  }
  std::map<std::string, SafetensorsFile> files;
  for (const std::string& shard : shards) files.emplace(shard, SafetensorsFile(dir / shard));
  for (const auto& [name, shard] : map)
    check<CheckpointError>(files.at(shard).find(name) != nullptr,
                           "{}: tensor {} is missing, {} says that it is there",
                           (dir / shard).string(), shown_name(name), kIndex);
  for (const auto& [shard, file] : files) {
    for (const TensorInfo& info : file.infos()) {
      const auto entry = map.find(info.name);
      check<CheckpointError>(entry != map.end() && entry->second == shard, "{}: tensor {} is {}",
                             (dir / shard).string(), shown_name(info.name),
                             entry == map.end() ? std::string("not in ") + kIndex
                                                : "in the index, but in " + entry->second);
    }
  }
  for (const auto& [shard, file] : files) visit(file);
}

}  // namespace

std::vector<TensorInfo> list_model_tensors(const std::filesystem::path& dir) {
  std::vector<TensorInfo> all;
  visit_files(dir, [&](const SafetensorsFile& file) {
    all.insert(all.end(), file.infos().begin(), file.infos().end());
  });
  return all;
}

std::vector<NamedTensor> load_model_tensors(const std::filesystem::path& dir) {
  std::vector<NamedTensor> all;
  visit_files(dir, [&](const SafetensorsFile& file) {
    for (const TensorInfo& info : file.infos()) all.push_back({info.name, file.tensor(info)});
  });
  return all;
}

void save_model_tensors(const std::filesystem::path& dir, const std::vector<NamedTensor>& tensors,
                        const SafetensorsOptions& options) {
  std::vector<std::vector<NamedTensor>> shards(1);
  uint64_t total = 0, filled = 0;
  for (const NamedTensor& named : tensors) {
    const uint64_t bytes = named.tensor.defined() ? named.tensor.nbytes() : 0;
    if (filled > 0 && filled + bytes > options.shard_bytes) {
      shards.emplace_back();
      filled = 0;
    }
    shards.back().push_back(named);
    filled += bytes;
    total += bytes;
  }
  std::filesystem::create_directories(dir);
  if (shards.size() == 1) {
    save_safetensors(dir / kSingle, tensors, options);
    return;
  }
  // An older single file would win over the index when the folder is read.
  std::filesystem::remove(dir / kSingle);
  nlohmann::ordered_json index;
  index["metadata"]["total_size"] = total;
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    save_safetensors(dir / name, shards[i], options);
    for (const NamedTensor& named : shards[i]) {
      check<CheckpointError>(!index["weight_map"].contains(named.name),
                             "{}: tensor {} is given twice", dir.string(), shown_name(named.name));
      index["weight_map"][named.name] = name;
    }
  }
  write_text_atomic(dir / kIndex, index.dump(2) + "\n");
}

}  // namespace euromodal
