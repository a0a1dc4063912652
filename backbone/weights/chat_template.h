// chat_template.h — the chat format of a model folder. EuroLLM uses ChatML:
// <|im_start|>role\ncontent<|im_end|>\n for each turn.
#pragma once
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

namespace euromodal {

struct ChatMessage {
  std::string role;
  std::string content;
};

/// A stretch of the rendered conversation. `target`: what the assistant says, its end token
/// included (what training supervises).
struct ChatPiece {
  std::string text;
  bool target = false;
};

class ChatTemplate {
 public:
  /// Reads `chat_template` of tokenizer_config.json or chat_template.jinja; ChatML in any of its
  /// usual spellings is recognised, a folder without template but with the ChatML tokens gets
  /// ChatML; any other template is a ConfigError that says so. The same of a GGUF file (find_gguf).
  static ChatTemplate load(const std::filesystem::path& dir);
  /// A template's `text` from `file`; `config`: tokenizer_config.json beside it.
  static ChatTemplate parse(std::string_view text, const nlohmann::json& config,
                            const std::filesystem::path& file);
  /// Pieces whose texts joined are the template's output. With add_generation_prompt the last piece
  /// opens the assistant's turn.
  std::vector<ChatPiece> render(const std::vector<ChatMessage>& messages,
                                bool add_generation_prompt) const;
  std::string render_text(const std::vector<ChatMessage>& messages,
                          bool add_generation_prompt) const;
  /// Does the template write bos_token itself? (Then encode with EncodeMode::kNoSpecial.)
  bool writes_bos() const { return !bos_token_.empty(); }
  /// The ChatML template as Jinja, for the folders that we write.
  static const char* chatml_jinja();

 private:
  static ChatTemplate load_gguf(const std::filesystem::path& file);

  std::string bos_token_;       // written first; empty: the tokenizer's business
  std::string default_system_;  // the turn that is put before messages without a system turn
  bool trim_ = false;           // white space around each content is dropped
  bool generation_prompt_ = true;
};

}  // namespace euromodal
