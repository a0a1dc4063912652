// tokenizer.h — text to ids and back, exactly as transformers reads the same folder: tokenizer.json
// (BPE with byte fallback, normaliser, pre-tokeniser, added tokens, post-processor) or
// tokenizer.model alone (libsentencepiece), or what a GGUF file holds (gguf_tokenizer.h).
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace euromodal {

enum class EncodeMode {
  kFull,          // adds what the tokenizer itself adds (one BOS, never two)
  kNoSpecial,     // leaves that out; special strings in the text are recognised all the same
  kContinuation,  // text that goes on after other text: no BOS and no prefix space
};

class Tokenizer {
 public:
  /// Of a folder or a GGUF file (find_gguf). CheckpointError naming the file: missing, truncated,
  /// unknown tokenizer type.
  static std::shared_ptr<const Tokenizer> load(const std::filesystem::path& dir);
  virtual ~Tokenizer() = default;

  /// Ids of `text` (valid UTF-8, else DataError with the byte position). CheckpointError when the
  /// file's steps make it more than 64 times as long.
  virtual std::vector<int64_t> encode(std::string_view text, EncodeMode mode) const = 0;
  /// Text of `ids`; an id outside the vocabulary is a DataError naming it. skip_special leaves
  /// special tokens out.
  virtual std::string decode(const std::vector<int64_t>& ids, bool skip_special) const = 0;
  virtual std::optional<int64_t> id_of(
      std::string_view token) const = 0;  // vocabulary or added token
  virtual std::string token_of(int64_t id) const = 0;
  /// What the token writes in the middle of a text, byte by byte (parts of a character too);
  /// special tokens and ids without a token write nothing.
  virtual std::string bytes_of(int64_t id) const = 0;
  virtual bool is_special(int64_t id) const = 0;
  virtual int64_t size() const = 0;  // highest id + 1, added tokens included
  virtual std::optional<int64_t> bos_id()
      const = 0;  // the id that kFull puts first, if it puts one
};

/// Streaming decode: push() returns the text that is complete; never cuts a character. The
/// concatenation of all pushes and finish() equals decode().
class StreamDecoder {
 public:
  StreamDecoder(std::shared_ptr<const Tokenizer> tokenizer, bool skip_special);
  std::string push(int64_t id);
  std::string finish();

 private:
  std::shared_ptr<const Tokenizer> tokenizer_;
  bool skip_special_;
  std::vector<int64_t> ids_;
  size_t settled_ = 0, sent_ = 0;
};

}  // namespace euromodal
