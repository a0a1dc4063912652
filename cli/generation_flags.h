// generation_flags.h — the options that every generating subcommand takes (generate, caption,
// chat), their checks, and what such a command prints: text as it comes, or one JSON object.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "backbone/weights/tokenizer.h"
#include "cli/options.h"
#include "inference/generator.h"

namespace euromodal::cli {

/// declare() before Options::parse(), finish() after it. Which way tokens are chosen: --beams: beam
/// search; else --greedy, or a temperature of 0: the best token; else any of --temperature,
/// --top-k,
/// --top-p, --seed: sampling; else the best token.
class GenerationFlags {
 public:
  explicit GenerationFlags(int64_t max_new_tokens = 128) {
    options.max_new_tokens = max_new_tokens;
  }
  /// --max-new-tokens ... --no-repeat-ngram, --dtype, --device. Ranges are checked by Options.
  void declare(Options& parser);
  /// --json and --dump-logits (one-shot commands).
  void declare_output(Options& parser);
  /// UsageError: unknown dtype or device; Error: no such device here. Before any tensor work.
  void finish(const Options& parser);

  GenerateOptions options;              // stop_ids are the model's: set them after loading
  std::optional<at::ScalarType> dtype;  // nothing: as the folder says
  at::Device device{at::kCPU};          // opened by finish()
  bool json = false;
  std::string dump_logits;  // file, or empty

 private:
  bool greedy_ = false;
  std::string dtype_word_, device_word_ = "cpu";
  int64_t seed_ = 0;
};

/// Prints tokens to stdout as they are chosen, whole characters only, without special tokens.
class TokenPrinter {
 public:
  explicit TokenPrinter(std::shared_ptr<const Tokenizer> tokenizer);
  void push(int64_t id);
  /// What was held back, and the end of the line.
  void finish();

 private:
  std::shared_ptr<const Tokenizer> tokenizer_;
  StreamDecoder decoder_;
};

/// New tokens as text, without special tokens; ids beyond the tokenizer (a padded vocabulary) stand
/// for nothing.
std::string generated_text(const Tokenizer& tokenizer, const std::vector<int64_t>& tokens);

/// The object of --json: text, tokens, prompt_tokens, timings {prefill_s, decode_s,
/// prefill_tokens_per_s, decode_tokens_per_s} and what `load_s` says.
std::string generated_json(const Generated& generated, const std::string& text, double load_s);

/// Writes `logits` [T, V] f32, atomically.
void write_logits(const std::string& file, const at::Tensor& logits_TV);

}  // namespace euromodal::cli
