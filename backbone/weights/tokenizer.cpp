// tokenizer.cpp — which tokenizer a folder holds, and streaming decode.
#include "backbone/weights/tokenizer.h"

#include <nlohmann/json.hpp>

#include "backbone/weights/gguf.h"
#include "backbone/weights/safetensors_header.h"
#include "backbone/weights/tokenizer/decoder.h"
#include "backbone/weights/tokenizer/gguf_tokenizer.h"
#include "backbone/weights/tokenizer/hf_tokenizer.h"
#include "core/error.h"
#include "core/files.h"
#include "core/json.h"

namespace euromodal {

std::shared_ptr<const Tokenizer> Tokenizer::load(const std::filesystem::path& dir) {
  if (const auto file = find_gguf(dir)) return gguf_tokenizer(GgufFile(*file).header());
  check<CheckpointError>(std::filesystem::is_directory(dir), "{}: no such folder", dir.string());
  nlohmann::json config = nlohmann::json::object();
  const std::filesystem::path config_file = dir / "tokenizer_config.json";
  if (std::filesystem::exists(config_file)) {
    try {
      const std::string text = read_text(config_file);
      check_json_depth(text, config_file.string());
      config = nlohmann::json::parse(text);
    } catch (const nlohmann::json::exception& e) {
      throw CheckpointError("{}: not valid JSON: {}", config_file.string(), shown_name(e.what()));
    }
    check<CheckpointError>(config.is_object(), "{}: must be a JSON object", config_file.string());
  }
  const std::filesystem::path file = dir / "tokenizer.json";
  if (std::filesystem::exists(file)) return parse_tokenizer_json(read_text(file), config, dir);
  if (std::filesystem::exists(dir / "tokenizer.model")) return load_sentencepiece(dir, config);
  throw CheckpointError("{}: no tokenizer: neither tokenizer.json nor tokenizer.model is there",
                        dir.string());
}

StreamDecoder::StreamDecoder(std::shared_ptr<const Tokenizer> tokenizer, bool skip_special)
    : tokenizer_(std::move(tokenizer)), skip_special_(skip_special) {}

// ids_[settled_, sent_) have been given out and are decoded again with what follows, because a
// token's text may depend on what stands before it (a leading space).
std::string StreamDecoder::push(int64_t id) {
  ids_.push_back(id);
  // A run of byte tokens is text or not as a whole: wait for its end.
  for (size_t i = ids_.size(); i-- > sent_;) {
    if (skip_special_ && tokenizer_->is_special(ids_[i])) continue;
    if (byte_fallback_value(tokenizer_->token_of(ids_[i])) >= 0) return "";
    break;
  }
  const auto settled = ids_.begin() + static_cast<std::ptrdiff_t>(settled_);
  const auto sent = ids_.begin() + static_cast<std::ptrdiff_t>(sent_);
  const std::string after = tokenizer_->decode({settled, ids_.end()}, skip_special_);
  if (after.ends_with("\xEF\xBF\xBD")) return "";  // maybe the first half of a character
  const std::string before = tokenizer_->decode({settled, sent}, skip_special_);
  std::string out = after.substr(std::min(before.size(), after.size()));
  // The window moves on only when its new start gives text, which then takes whatever the decoder
  // does to the beginning of a text.
  if (!tokenizer_->decode({sent, ids_.end()}, skip_special_).empty()) settled_ = sent_;
  sent_ = ids_.size();
  return out;
}

std::string StreamDecoder::finish() {
  const auto settled = ids_.begin() + static_cast<std::ptrdiff_t>(settled_);
  const auto sent = ids_.begin() + static_cast<std::ptrdiff_t>(sent_);
  const std::string after = tokenizer_->decode({settled, ids_.end()}, skip_special_);
  const std::string before = tokenizer_->decode({settled, sent}, skip_special_);
  ids_.clear();
  settled_ = sent_ = 0;
  return after.substr(std::min(before.size(), after.size()));
}

}  // namespace euromodal
