// tokenizer_json.cpp — reads tokenizer.json and tokenizer_config.json as transformers 5 does.
// Format: https://huggingface.co/docs/tokenizers.
#include <algorithm>
#include <string_view>

#include <nlohmann/json.hpp>

#include "backbone/weights/safetensors_header.h"
#include "backbone/weights/tokenizer/hf_tokenizer.h"
#include "backbone/weights/tokenizer/json_number.h"
#include "core/error.h"
#include "core/json.h"

namespace euromodal {
namespace {

using nlohmann::json;

const json& part_of(const json& object, const char* key) {
  static const json null;
  const auto found = object.find(key);
  return found == object.end() ? null : *found;
}

AddedToken read_added_token(const json& entry) {
  AddedToken token;
  token.content = entry.at("content").get<std::string>();
  token.lstrip = entry.value("lstrip", false);
  token.rstrip = entry.value("rstrip", false);
  token.single_word = entry.value("single_word", false);
  token.special = entry.value("special", false);
  token.normalized = entry.value("normalized", !token.special);
  return token;
}

// A token's id is the vocabulary's, where it is there.
void place_added_token(HfTokenizerParts& parts, AddedToken token, int64_t id,
                       const std::string& what) {
  token.id = parts.model.id_of(token.content).value_or(id);
  check<CheckpointError>(token.id >= 0 && token.id < (int64_t{1} << 31),
                         "{}: added token {} has the id {}", what, shown_name(token.content),
                         token.id);
  const auto same = std::find_if(parts.added.begin(), parts.added.end(),
                                 [&](const AddedToken& a) { return a.content == token.content; });
  if (same == parts.added.end())
    parts.added.push_back(std::move(token));
  else
    *same = std::move(token);
}

int64_t next_free_id(const HfTokenizerParts& parts) {
  int64_t next = 0;
  for (const auto& [token, id] : parts.model.vocab()) next = std::max(next, id + 1);
  for (const AddedToken& token : parts.added) next = std::max(next, token.id + 1);
  return next;
}

// "bos_token": "<s>" or {"content": "<s>", ...}
std::string token_text(const json& config, const char* key) {
  const json& value = part_of(config, key);
  if (value.is_string()) return value.get<std::string>();
  if (value.is_object() && part_of(value, "content").is_string())
    return value["content"].get<std::string>();
  return "";
}

// Adds the special tokens that a post-processor puts before and behind the text.
void read_post_processor(const json& processor, HfTokenizerParts& parts, const std::string& what,
                         int depth) {
  check<CheckpointError>(depth < 16, "{}: post-processors are nested too deep", what);
  if (processor.is_null()) return;
  const auto type = processor.at("type").get<std::string>();
  if (type == "Sequence") {
    for (const auto& step : processor.at("processors"))
      read_post_processor(step, parts, what, depth + 1);
  } else if (type == "TemplateProcessing") {
    std::vector<int64_t> before, behind;
    bool seen = false;
    for (const auto& piece : processor.at("single")) {
      if (piece.contains("Sequence")) {
        check<CheckpointError>(!seen, "{}: post_processor holds the text twice", what);
        seen = true;
        continue;
      }
      const auto name = piece.at("SpecialToken").at("id").get<std::string>();
      const json& special = part_of(processor.at("special_tokens"), name.c_str());
      check<CheckpointError>(special.is_object(),
                             "{}: post_processor: token {} is not in special_tokens", what,
                             shown_name(name));
      for (const auto& id : special.at("ids"))
        (seen ? behind : before).push_back(json_number(id, what));
    }
    check<CheckpointError>(seen, "{}: post_processor leaves the text out", what);
    parts.before.insert(parts.before.begin(), before.begin(), before.end());
    parts.behind.insert(parts.behind.end(), behind.begin(), behind.end());
  } else if (type == "RobertaProcessing" || type == "BertProcessing") {
    parts.before.insert(parts.before.begin(), json_number(processor.at("cls").at(1), what));
    parts.behind.push_back(json_number(processor.at("sep").at(1), what));
  } else {
    check<CheckpointError>(type == "ByteLevel", "{}: post_processor {} is not supported", what,
                           shown_name(type));
  }
}

}  // namespace

void use_llama_pipeline(HfTokenizerParts& parts, const json& config, bool sentencepiece) {
  const json& space = part_of(config, "add_prefix_space");
  const bool prefix = space.is_boolean() ? space.get<bool>() : true;
  const json& legacy = part_of(config, "legacy");
  const char* scheme = !prefix                                     ? "never"
                       : legacy.is_boolean() && legacy.get<bool>() ? "always"
                                                                   : "first";
  const std::string what = "LlamaTokenizer";
  parts.normalizer = Normalizer();
  parts.pre_tokenizer = PreTokenizer::from_json({{"type", "Metaspace"},
                                                 {"replacement", "▁"},
                                                 {"prepend_scheme", scheme},
                                                 {"split", false},
                                                 {"prepend_again", sentencepiece}},
                                                what);
  json steps = json::array();
  steps.push_back({{"type", "Replace"}, {"pattern", {{"String", "▁"}}}, {"content", " "}});
  steps.push_back({{"type", "ByteFallback"}});
  steps.push_back({{"type", "Fuse"}});
  if (prefix) steps.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  parts.decoder = Decoder::from_json({{"type", "Sequence"}, {"decoders", steps}}, what);
}

void add_config_tokens(HfTokenizerParts& parts, const json& config, const std::string& what) {
  const auto known = [&](const std::string& content) {
    return std::any_of(parts.added.begin(), parts.added.end(),
                       [&](const AddedToken& token) { return token.content == content; });
  };
  const json& decoder = part_of(config, "added_tokens_decoder");
  if (decoder.is_object()) {
    std::vector<std::pair<int64_t, AddedToken>> listed;
    for (const auto& [id, entry] : decoder.items()) {
      const bool number =
          !id.empty() && id.size() < 10 &&
          std::all_of(id.begin(), id.end(), [](char c) { return c >= '0' && c <= '9'; });
      check<CheckpointError>(number, "{}: added_tokens_decoder: {} is not an id", what,
                             shown_name(id));
      listed.emplace_back(std::stoll(id), read_added_token(entry));
    }
    std::sort(listed.begin(), listed.end(),
              [](const auto& a, const auto& b) { return a.first < b.first; });
    for (auto& [id, token] : listed) {
      if (!known(token.content))
        place_added_token(parts, std::move(token), next_free_id(parts), what);
    }
  }
  for (const char* key : {"bos_token", "eos_token", "unk_token", "pad_token"}) {
    AddedToken token;
    token.content = token_text(config, key);
    token.special = true;
    if (!token.content.empty() && !known(token.content))
      place_added_token(parts, std::move(token), next_free_id(parts), what);
  }
}

std::shared_ptr<const Tokenizer> make_tokenizer(const json& file, const json& config,
                                                const std::string& what,
                                                const std::string& config_what) {
  try {
    check<CheckpointError>(file.is_object() && part_of(file, "model").is_object(),
                           "{}: model is missing", what);
    HfTokenizerParts parts{Bpe::from_json(file["model"], what),
                           Normalizer::from_json(part_of(file, "normalizer"), what),
                           PreTokenizer::from_json(part_of(file, "pre_tokenizer"), what),
                           Decoder::from_json(part_of(file, "decoder"), what),
                           {},
                           {},
                           {}};
    const json& added = part_of(file, "added_tokens");
    if (added.is_array()) {
      for (const auto& entry : added)
        place_added_token(parts, read_added_token(entry), json_number(entry.at("id"), what), what);
    }
    read_post_processor(part_of(file, "post_processor"), parts, what, 0);
    const auto word = part_of(config, "tokenizer_class");
    if (word.is_string() && (word == "LlamaTokenizer" || word == "LlamaTokenizerFast") &&
        !parts.pre_tokenizer.byte_level() && !parts.decoder.byte_level())
      use_llama_pipeline(parts, config, /*sentencepiece=*/false);
    add_config_tokens(parts, config, config_what);
    return std::make_shared<HfTokenizer>(std::move(parts), what);
  } catch (const json::exception& e) {
    throw CheckpointError("{}: not a tokenizer: {}", what, shown_name(e.what()));
  }
}

std::shared_ptr<const Tokenizer> parse_tokenizer_json(std::string_view text, const json& config,
                                                      const std::filesystem::path& dir) {
  const std::string what = (dir / "tokenizer.json").string();
  json file;
  try {
    check_json_depth(text, what);
    file = json::parse(text);
  } catch (const json::exception& e) {
    throw CheckpointError("{}: not a tokenizer: {}", what, shown_name(e.what()));
  }
  return make_tokenizer(file, config, what, (dir / "tokenizer_config.json").string());
}

}  // namespace euromodal
