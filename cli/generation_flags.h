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
#include "cli/thread_flags.h"
#include "inference/generator.h"
#include "inference/stop_strings.h"

namespace euromodal::cli {

/// float32, bfloat16 or float16; UsageError naming any other word.
at::ScalarType parse_dtype_word(const std::string& word);

/// The help of --weights where a model runs on the CPU.
inline constexpr const char* kWeightsHelp =
    "linear weights as bfloat16, int8 or int4; the integers also with -g32 (groups of 32 instead "
    "of 128) and -asym (zero points), on a GPU also float8";
/// The help of --kv-cache.
inline constexpr const char* kCacheHelp =
    "keys and values: auto (the model's dtype); on the CPU also int8, on a GPU bfloat16 or float8";
/// The help of --prefill-chunk, and its largest value.
inline constexpr const char* kPrefillHelp = "prompt tokens of one pass through the model";
inline constexpr int64_t kMaxPrefillRows = int64_t{1} << 20;
/// Does `word` of --kv-cache ask for int8 on the CPU? UsageError naming a word that is not known
/// there.
bool parse_cpu_cache_word(const std::string& word);
/// Packs the weights of a model on the CPU: `word` of --weights, or "" for what its dtype asks for
/// (bfloat16 models are packed, others stay). UsageError naming the word.
void pack_by_word(const Llama& llama, const std::string& word);

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
  /// Options that speak of text or of the model: stop ids, stop strings, the constraint. After
  /// finish(); `tokenizer` may be null (UsageError for what needs one).
  void bind(std::shared_ptr<const Tokenizer> tokenizer, std::vector<int64_t> model_stop_ids);
  /// Makes a loaded model ready to decode sequences of up to `positions` (0: the model's limit). On
  /// the CPU: packs its weights as --weights says (a bfloat16 model always), and options.kept but
  /// for --no-prefix-reuse. On a CUDA device, for a bfloat16 model: options.decoder, and
  /// options.kept in its pages. UsageError when --weights or --kv-cache do not go with it.
  void prepare(const Llama& llama, int64_t positions);
  /// The same for a file of prompts, `sequences` of which are under way at once.
  void prepare_batch(const Llama& llama, int64_t sequences);
  /// New tokens as text, up to the first stop string.
  std::string text_of(const std::vector<int64_t>& tokens) const;

  GenerateOptions options;              // as after finish() and bind()
  std::optional<at::ScalarType> dtype;  // nothing: as the folder says
  at::Device device{at::kCPU};          // opened by finish()
  bool json = false;
  std::string dump_logits;                   // file, or empty
  int64_t nbest = 1;                         // answers of beam search
  std::shared_ptr<const StopStrings> stops;  // after bind(); null: no tokenizer

 private:
  /// UsageError unless weights and cache are what the model's own passes on a GPU take.
  void check_plain_passes(const char* what) const;
  /// options.decoder, and options.kept but for --no-prefix-reuse.
  void make_device_decoder(const Llama& llama, DecoderOptions decoder);
  bool greedy_ = false, ignore_eos_ = false, no_reuse_ = false;
  std::vector<std::string> stop_texts_;
  std::string regex_, json_schema_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::string dtype_word_, device_word_ = "cpu";
  ThreadFlags threads_;
  std::string weights_word_, cache_word_ = "auto";
  int64_t seed_ = 0;
};

/// Prints tokens to stdout as they are chosen, whole characters only, without special tokens, up to
/// the first stop string.
class TokenPrinter {
 public:
  TokenPrinter(std::shared_ptr<const Tokenizer> tokenizer,
               std::shared_ptr<const StopStrings> stops);
  void push(int64_t id);
  /// What was held back, and the end of the line.
  void finish();

 private:
  void write(std::string text, bool last);
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::shared_ptr<const StopStrings> stops_;
  StreamDecoder decoder_;
  std::string held_;  // may be the beginning of a stop string
  bool ended_ = false;
};

/// The object of --json: text, tokens, prompt_tokens, reused_tokens, finish_reason, timings
/// {prefill_s, decode_s, prefill_tokens_per_s, decode_tokens_per_s} and what `load_s` says;
/// logprobs and beams when asked for. `tokenizer` may be null: then texts are empty.
std::string generated_json(const Generated& generated, const GenerationFlags& flags, double load_s);

/// Writes `logits` [T, V] f32, atomically.
void write_logits(const std::string& file, const at::Tensor& logits_TV);

}  // namespace euromodal::cli
