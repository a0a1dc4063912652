// targets.cpp — see targets.h.
#include "tests/fuzz/targets.h"

#include <stdexcept>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "backbone/gguf_model.h"
#include "backbone/llama_config.h"
#include "backbone/weights/chat_template.h"
#include "backbone/weights/safetensors_header.h"
#include "backbone/weights/tokenizer/gguf_tokenizer.h"
#include "backbone/weights/tokenizer/hf_tokenizer.h"
#include "core/config.h"
#include "core/config_tree.h"
#include "core/error.h"
#include "core/files.h"
#include "core/json.h"

namespace euromodal::fuzz {
namespace {

/// Cuts what stands before the next zero byte off the front.
std::string_view next_part(std::string_view& bytes) {
  const std::string_view part = bytes.substr(0, bytes.find('\0'));
  bytes.remove_prefix(std::min(bytes.size(), part.size() + 1));
  return part;
}

/// Not one of our errors: nobody catches it.
void require(bool ok, const char* what) {
  if (!ok) throw std::logic_error(what);
}

nlohmann::json small_config(std::string_view text) {
  const nlohmann::json config = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  return config.is_object() ? config : nlohmann::json::object();
}

void use_tokenizer(const std::shared_ptr<const Tokenizer>& tokenizer, std::string_view text) {
  (void)tokenizer->bos_id();
  std::vector<int64_t> ids;
  for (const EncodeMode mode :
       {EncodeMode::kFull, EncodeMode::kNoSpecial, EncodeMode::kContinuation})
    ids = tokenizer->encode(text, mode);
  for (const int64_t id : ids) {
    require(id >= 0 && id < tokenizer->size(), "an id outside the vocabulary");
    (void)tokenizer->bytes_of(id);
    (void)tokenizer->id_of(tokenizer->token_of(id));
  }
  ids.resize(std::min<size_t>(ids.size(), 64));
  for (const bool skip : {false, true}) {
    (void)tokenizer->decode(ids, skip);
    StreamDecoder stream(tokenizer, skip);
    for (const int64_t id : ids) (void)stream.push(id);
    (void)stream.finish();
  }
}

}  // namespace

void safetensors_header(std::string_view bytes) try {
  const SafetensorsHeader header = parse_safetensors_header(bytes, "fuzz.safetensors");
  uint64_t at = 0;
  for (const TensorInfo& info : header.infos) {
    require(info.begin == at && info.end >= info.begin, "tensors do not tile the data");
    at = info.end;
  }
  require(header.data_begin + at == bytes.size(), "the tensors end elsewhere");
} catch (const Error&) {
}

void gguf_header(std::string_view bytes) try {
  const GgufHeader header = parse_gguf_header(bytes, "fuzz.gguf");
  uint64_t end = header.data_begin;
  for (const GgufTensor& tensor : header.tensors) {
    require(header.data_begin + tensor.begin >= end, "tensors overlap");
    end = header.data_begin + tensor.begin + tensor.bytes;
    require(end <= bytes.size(), "a tensor ends outside");
  }
  const auto read = [](const auto& get) {
    try {
      get();
    } catch (const Error&) {
    }
  };
  read([&] {
    const GgufFile file(std::string(bytes), "fuzz.gguf");
    (void)gguf_config(file).to_json();
    for (const GgufTensor& tensor : header.tensors)
      read([&] { (void)file.tensor(tensor, at::kBFloat16); });
  });
  use_tokenizer(gguf_tokenizer(header), "The cat's 1234 \xC3\xA9 <s>");
} catch (const Error&) {
}

void tokenizer(std::string_view bytes) try {
  const std::string_view file = next_part(bytes), config = next_part(bytes);
  use_tokenizer(parse_tokenizer_json(file, small_config(config), "fuzz"), bytes);
} catch (const Error&) {
}

void chat_template(std::string_view bytes) try {
  const std::string_view text = next_part(bytes);
  const ChatTemplate chat = ChatTemplate::parse(text, small_config(bytes), "chat_template.jinja");
  const std::vector<ChatMessage> messages = {
      {"system", "Be kind."}, {"user", " Tere \n"}, {"assistant", "{{ x }}"}, {"user", ""}};
  for (const bool prompt : {false, true}) {
    std::string joined;
    for (const ChatPiece& piece : chat.render(messages, prompt)) joined += piece.text;
    require(joined == chat.render_text(messages, prompt), "pieces and text differ");
  }
} catch (const Error&) {
}

void model_config(std::string_view bytes) try {
  const Json json = parse_json(bytes, "config.json");
  const LlamaConfig config = LlamaConfig::from_json(JsonView(json, "config.json"));
  (void)config.num_parameters();
  const Json written = config.to_json();
  const LlamaConfig again = LlamaConfig::from_json(JsonView(written, "config.json"));
  require(again.to_json() == written, "what was written reads otherwise");
} catch (const Error&) {
}

void yaml_config(std::string_view bytes) try {
  const Config config = Config::parse(std::string(bytes), "fuzz.yaml");
  for (const std::string& key : config.keys()) {
    const auto read = [](const auto& get) {
      try {
        get();
      } catch (const Error&) {
      }
    };
    read([&] { (void)config.f64s(key); });
    read([&] { (void)config.strs(key); });
    read([&] { (void)config.boolean(key); });
    read([&] { (void)config.items(key); });
    read([&] { (void)config.list(key); });
  }
  const std::string dump = config.dump();
  ConfigNode again;
  try {
    again = config_read(dump, "dump.yaml");
  } catch (const Error&) {
  }
  require(again != nullptr, "what was dumped does not read back");
  require(config_same(*config_read(std::string(bytes), "fuzz.yaml"), *again),
          "what was dumped reads otherwise");
  require(config_yaml(*again) == dump, "a dump of a dump differs");
} catch (const Error&) {
}

}  // namespace euromodal::fuzz
