// chat_template.cpp — recognises ChatML written in Jinja. The template is reduced to a list of
// literals, variables and statements (white space control and joined strings resolved), and that
// list must be ChatML's.
#include "backbone/weights/chat_template.h"

#include <nlohmann/json.hpp>

#include "backbone/weights/gguf.h"
#include "backbone/weights/jinja_nodes.h"
#include "backbone/weights/safetensors_header.h"
#include "backbone/weights/tokenizer/gguf_tokenizer.h"
#include "core/error.h"
#include "core/files.h"
#include "core/json.h"

namespace euromodal {
namespace {

using nlohmann::json;

constexpr const char* kStart = "<|im_start|>";
constexpr const char* kEnd = "<|im_end|>";

// Jinja's whitespace, as Python's str.strip sees ASCII.
std::string chat_trim(const std::string& text) {
  const auto begin = text.find_first_not_of(" \t\n\r\f\v");
  if (begin == std::string::npos) return "";
  return text.substr(begin, text.find_last_not_of(" \t\n\r\f\v") + 1 - begin);
}

std::string token_content(const json& config, const char* key) {
  const auto found = config.find(key);
  if (found == config.end()) return "";
  if (found->is_string()) return found->get<std::string>();
  if (!found->is_object()) return "";
  const auto content = found->find("content");
  return content != found->end() && content->is_string() ? content->get<std::string>() : "";
}

// Reads the nodes from the front.
class NodeReader {
 public:
  explicit NodeReader(const std::vector<JinjaNode>& nodes) : nodes_(nodes) {}
  bool take(JinjaNode::Kind kind, std::string_view text) {
    if (at_ >= nodes_.size() || nodes_[at_].kind != kind || nodes_[at_].text != text) return false;
    ++at_;
    return true;
  }
  bool statement(std::string_view text) { return take(JinjaNode::Kind::kStatement, text); }
  bool variable(std::string_view text) { return take(JinjaNode::Kind::kVariable, text); }
  bool literal(std::string_view text) { return take(JinjaNode::Kind::kLiteral, text); }
  /// Any literal; nullptr: something else is next.
  const std::string* any_literal() {
    if (at_ >= nodes_.size() || nodes_[at_].kind != JinjaNode::Kind::kLiteral) return nullptr;
    return &nodes_[at_++].text;
  }
  bool done() const { return at_ == nodes_.size(); }
  size_t mark() const { return at_; }
  void back(size_t mark) { at_ = mark; }

 private:
  const std::vector<JinjaNode>& nodes_;
  size_t at_ = 0;
};

struct ChatmlTraits {
  bool bos = false, trim = false, generation_prompt = false;
  std::string default_system;
};

bool read_default_system(NodeReader& in, ChatmlTraits& traits) {
  for (const char* test : {"if loop.first and messages[0].role!='system'",
                           "if loop.first and message.role!='system'"}) {
    if (!in.statement(test)) continue;
    const std::string* turn = in.any_literal();
    if (turn == nullptr || !turn->starts_with(std::string(kStart) + "system\n") ||
        !turn->ends_with(std::string(kEnd) + "\n"))
      return false;
    traits.default_system = *turn;
    return in.statement("endif");
  }
  return true;
}

bool read_chatml(const std::vector<JinjaNode>& nodes, ChatmlTraits& traits) {
  NodeReader in(nodes);
  for (const char* test :
       {"if not add_generation_prompt is defined", "if add_generation_prompt is not defined"}) {
    if (in.statement(test) &&
        !(in.statement("set add_generation_prompt=false") && in.statement("endif")))
      return false;
  }
  traits.bos = in.variable("bos_token");
  if (!in.statement("for message in messages")) return false;
  if (const size_t mark = in.mark(); !traits.bos && in.statement("if loop.first")) {
    traits.bos = in.variable("bos_token") && in.statement("endif");
    if (!traits.bos) in.back(mark);
  }
  if (!read_default_system(in, traits)) return false;
  if (!in.literal(kStart) || !in.variable("message.role") || !in.literal("\n")) return false;
  traits.trim = in.variable("message.content|trim");
  if (!traits.trim && !in.variable("message.content")) return false;
  if (!in.literal(std::string(kEnd) + "\n") || !in.statement("endfor")) return false;
  if (in.statement("if add_generation_prompt")) {
    if (!in.literal(std::string(kStart) + "assistant\n") || !in.statement("endif")) return false;
    traits.generation_prompt = true;
  }
  return in.done();
}

// The template of tokenizer_config.json: a string, or a list of {name, template} of which "default"
// counts.
std::string template_of_config(const json& config, const std::string& what) {
  const auto found = config.find("chat_template");
  if (found == config.end() || found->is_null()) return "";
  if (found->is_string()) return found->get<std::string>();
  if (found->is_array()) {
    for (const json& entry : *found) {
      if (entry.is_object() && entry.value("name", "") == "default")
        return entry.value("template", "");
    }
  }
  throw ConfigError("{}: chat_template is neither a string nor a list with a \"default\"", what);
}

bool names_chatml_tokens(const std::filesystem::path& dir) {
  for (const char* name : {"tokenizer.json", "tokenizer.model", "tokenizer_config.json"}) {
    if (!std::filesystem::exists(dir / name)) continue;
    const std::string text = read_text(dir / name);
    if (text.find(kStart) != std::string::npos && text.find(kEnd) != std::string::npos) return true;
  }
  return false;
}

}  // namespace

ChatTemplate ChatTemplate::load(const std::filesystem::path& dir) {
  if (const auto file = find_gguf(dir)) return load_gguf(*file);
  std::filesystem::path file = dir / "tokenizer_config.json";
  std::string text;
  json config = json::object();
  try {
    if (std::filesystem::exists(file)) {
      text = read_text(file);
      check_json_depth(text, file.string());
      config = json::parse(text);
    }
    check<ConfigError>(config.is_object(), "{}: must be a JSON object", file.string());
    text = template_of_config(config, file.string());
  } catch (const json::exception& e) {
    throw ConfigError("{}: not valid: {}", file.string(), shown_name(e.what()));
  }
  if (std::filesystem::exists(dir / "chat_template.jinja")) {  // wins, as in transformers
    file = dir / "chat_template.jinja";
    text = read_text(file);
  }
  if (!text.empty()) return parse(text, config, file);
  check<ConfigError>(names_chatml_tokens(dir),
                     "{}: no chat template: neither tokenizer_config.json (chat_template) nor "
                     "chat_template.jinja has one, and the tokenizer lacks the ChatML tokens",
                     dir.string());
  return {};
}

ChatTemplate ChatTemplate::load_gguf(const std::filesystem::path& file) {
  const GgufTokenizerFiles files = gguf_tokenizer_files(GgufFile(file).header());
  if (files.config.contains("chat_template"))
    return parse(files.config["chat_template"].get<std::string>(), files.config, file);
  const json& vocab = files.tokenizer["model"]["vocab"];
  check<ConfigError>(vocab.contains(kStart) && vocab.contains(kEnd),
                     "{}: no chat template: key tokenizer.chat_template is missing, and the "
                     "tokenizer lacks the ChatML tokens",
                     file.string());
  return {};
}

ChatTemplate ChatTemplate::parse(std::string_view text, const json& config,
                                 const std::filesystem::path& file) {
  ChatTemplate out;
  std::vector<JinjaNode> nodes;
  ChatmlTraits traits;
  const std::string eos = token_content(config, "eos_token");
  check<ConfigError>(parse_jinja(text, {{"eos_token", eos}}, nodes) && read_chatml(nodes, traits),
                     "{}: the chat template is not ChatML, the only one that is supported "
                     "(<|im_start|>role, newline, content, <|im_end|>, newline for each message)",
                     file.string());
  if (traits.bos) {
    out.bos_token_ = token_content(config, "bos_token");
    check<ConfigError>(!out.bos_token_.empty(),
                       "{}: the chat template writes bos_token, but {} names none", file.string(),
                       (file.parent_path() / "tokenizer_config.json").string());
  }
  out.trim_ = traits.trim;
  out.generation_prompt_ = traits.generation_prompt;
  out.default_system_ = traits.default_system;
  return out;
}

std::vector<ChatPiece> ChatTemplate::render(const std::vector<ChatMessage>& messages,
                                            bool add_generation_prompt) const {
  std::vector<ChatPiece> pieces;
  const auto add = [&pieces](const std::string& text, bool target) {
    if (text.empty()) return;
    if (!pieces.empty() && pieces.back().target == target && !target)
      pieces.back().text += text;
    else
      pieces.push_back({text, target});
  };
  add(bos_token_, false);
  if (!messages.empty() && messages.front().role != "system") add(default_system_, false);
  for (const ChatMessage& message : messages) {
    const std::string content = trim_ ? chat_trim(message.content) : message.content;
    add(kStart + message.role + "\n", false);
    add(content + kEnd, message.role == "assistant");
    add("\n", false);
  }
  if (add_generation_prompt && generation_prompt_) {
    // A piece of its own: the caller may want to know where the assistant's turn opens.
    pieces.push_back({std::string(kStart) + "assistant\n", false});
  }
  return pieces;
}

std::string ChatTemplate::render_text(const std::vector<ChatMessage>& messages,
                                      bool add_generation_prompt) const {
  std::string text;
  for (const ChatPiece& piece : render(messages, add_generation_prompt)) text += piece.text;
  return text;
}

const char* ChatTemplate::chatml_jinja() {
  return "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + "
         "message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}"
         "{{ '<|im_start|>assistant\\n' }}{% endif %}";
}

}  // namespace euromodal
