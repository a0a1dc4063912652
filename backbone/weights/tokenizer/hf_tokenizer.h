// hf_tokenizer.h — the pipeline of the tokenizers library: added tokens, normaliser, pre-tokeniser,
// BPE, post-processor, decoder.
#pragma once
#include <filesystem>
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "backbone/weights/tokenizer.h"
#include "backbone/weights/tokenizer/added_tokens.h"
#include "backbone/weights/tokenizer/bpe.h"
#include "backbone/weights/tokenizer/decoder.h"
#include "backbone/weights/tokenizer/normalizer.h"
#include "backbone/weights/tokenizer/pre_tokenizer.h"

namespace euromodal {

struct HfTokenizerParts {
  Bpe model;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  Decoder decoder;
  std::vector<AddedToken> added;
  std::vector<int64_t> before, behind;  // what the post-processor puts around a text
};

class HfTokenizer final : public Tokenizer {
 public:
  HfTokenizer(HfTokenizerParts parts, const std::string& what);
  std::vector<int64_t> encode(std::string_view text, EncodeMode mode) const override;
  std::string decode(const std::vector<int64_t>& ids, bool skip_special) const override;
  std::optional<int64_t> id_of(std::string_view token) const override;
  std::string token_of(int64_t id) const override;
  std::string bytes_of(int64_t id) const override;
  bool is_special(int64_t id) const override;
  int64_t size() const override { return size_; }
  std::optional<int64_t> bos_id() const override;

 private:
  struct Growth {
    TextGrowth normal, words;
  };
  void encode_section(std::string_view text, bool at_start, bool prefix, Growth& growth,
                      std::vector<int64_t>& ids) const;
  HfTokenizerParts parts_;
  std::unique_ptr<AddedTokens> raw_, normalized_;
  std::string written_token(int64_t id) const;
  std::unordered_map<int64_t, std::string> tokens_;
  /// What decoding writes instead: added tokens that are looked for in the normalised text are
  /// written in its form.
  std::unordered_map<int64_t, std::string> normalized_tokens_;
  std::unordered_set<int64_t> special_;
  int64_t size_ = 0;
};

/// The tokenizer of a tokenizer.json with this `text`, which stands in `dir` (for messages);
/// `config` is tokenizer_config.json (an empty object when there is none).
std::shared_ptr<const Tokenizer> parse_tokenizer_json(std::string_view text,
                                                      const nlohmann::json& config,
                                                      const std::filesystem::path& dir);
/// The same of the parsed document; `what` and `config_what` name the two in messages.
std::shared_ptr<const Tokenizer> make_tokenizer(const nlohmann::json& file,
                                                const nlohmann::json& config,
                                                const std::string& what,
                                                const std::string& config_what);
/// The tokenizer of `dir`/tokenizer.model, converted as transformers converts it.
std::shared_ptr<const Tokenizer> load_sentencepiece(const std::filesystem::path& dir,
                                                    const nlohmann::json& config);

/// Replaces the pipeline by that of transformers' LlamaTokenizer, which takes only vocabulary,
/// merges and post-processor from the files. `sentencepiece`: the prefix space is put even before a
/// space, as the model's own library does it.
void use_llama_pipeline(HfTokenizerParts& parts, const nlohmann::json& config, bool sentencepiece);
/// Adds what tokenizer_config.json names and the vocabulary does not mark yet: added_tokens_decoder
/// and the bos, eos, unk and pad tokens.
void add_config_tokens(HfTokenizerParts& parts, const nlohmann::json& config,
                       const std::string& what);

}  // namespace euromodal
