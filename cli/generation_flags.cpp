// generation_flags.cpp — options and output shared by generate, caption and chat.
#include "cli/generation_flags.h"

#include <cstdio>
#include <limits>
#include <utility>

#include "backbone/device.h"
#include "backbone/weights/safetensors.h"
#include "core/error.h"
#include "core/json.h"
#include "core/log.h"

namespace euromodal::cli {

namespace {

constexpr int64_t kMaxTokens = int64_t{1} << 31;
constexpr double kMaxFactor = 1e6;

at::ScalarType dtype_of_word(const std::string& word) {
  if (word == "float32") return at::kFloat;
  if (word == "bfloat16") return at::kBFloat16;
  if (word == "float16") return at::kHalf;
  throw UsageError("--dtype: unknown dtype '{}', expected float32, bfloat16 or float16", word);
}

double rate(int64_t count, double seconds) {
  return seconds > 0.0 ? static_cast<double>(count) / seconds : 0.0;
}

}  // namespace

void GenerationFlags::declare(Options& parser) {
  parser.i64("--max-new-tokens", &options.max_new_tokens, "at most so many new tokens", 0,
             kMaxTokens);
  parser.flag("--greedy", &greedy_, "always the most likely token (the default)");
  parser.f64("--temperature", &options.temperature,
             "sample; divides the logits first (0: the most likely token)", 0.0, kMaxFactor);
  parser.i64("--top-k", &options.top_k, "sample among the K most likely tokens (0: off)", 0,
             kMaxTokens);
  parser.f64("--top-p", &options.top_p,
             "sample among the fewest tokens whose probabilities reach P together", 0.0, 1.0);
  parser.i64("--seed", &seed_, "sample with this seed", 0, std::numeric_limits<int64_t>::max());
  parser.i64("--beams", &options.beams, "beam search with N beams, no sampling", 1, 1024);
  parser.f64("--length-penalty", &options.length_penalty,
             "beam search: scores are divided by length to this power", -kMaxFactor, kMaxFactor);
  parser.f64("--repetition-penalty", &options.repetition_penalty,
             "above 1: tokens seen before, also in the prompt, become less likely", 1e-6,
             kMaxFactor);
  parser.i64("--no-repeat-ngram", &options.no_repeat_ngram,
             "no sequence of N tokens comes twice (0: off)", 0, kMaxTokens);
  parser.text("--dtype", &dtype_word_, "WORD",
              "float32, bfloat16 or float16 (without it: as the model's files)");
  parser.text("--device", &device_word_, "WORD", "cpu, cuda or cuda:N");
}

void GenerationFlags::declare_output(Options& parser) {
  parser.flag("--json", &json, "print one JSON object: text, tokens, prompt_tokens, timings");
  parser.text("--dump-logits", &dump_logits, "FILE",
              "write `logits` [T, V] f32 of the whole prompt (safetensors)");
}

void GenerationFlags::finish(const Options& parser) {
  if (parser.given("--dtype")) dtype = dtype_of_word(dtype_word_);
  device = open_device(device_word_);
  check<UsageError>(!parser.given("--dump-logits") || !dump_logits.empty(),
                    "--dump-logits: the file name is empty");
  options.seed = static_cast<uint64_t>(seed_);
  const bool wants_sample = parser.given("--temperature") || parser.given("--top-k") ||
                            parser.given("--top-p") || parser.given("--seed");
  const bool fixed = greedy_ || parser.given("--beams");
  options.greedy = fixed || !wants_sample || options.temperature == 0.0;
  if (fixed && wants_sample)
    log_warn("{} means no sampling: --temperature, --top-k, --top-p and --seed have no effect",
             parser.given("--beams") ? "--beams" : "--greedy");
}

TokenPrinter::TokenPrinter(std::shared_ptr<const Tokenizer> tokenizer)
    : tokenizer_(std::move(tokenizer)), decoder_(tokenizer_, /*skip_special=*/true) {}

void TokenPrinter::push(int64_t id) {
  if (id >= tokenizer_->size()) return;
  const std::string text = decoder_.push(id);
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

void TokenPrinter::finish() {
  const std::string text = decoder_.finish() + "\n";
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

std::string generated_text(const Tokenizer& tokenizer, const std::vector<int64_t>& tokens) {
  std::vector<int64_t> known;
  for (int64_t id : tokens)
    if (id < tokenizer.size()) known.push_back(id);
  return tokenizer.decode(known, /*skip_special=*/true);
}

std::string generated_json(const Generated& generated, const std::string& text, double load_s) {
  const GenerateTimings& t = generated.timings;
  const Json json = {{"text", text},
                     {"tokens", generated.tokens},
                     {"prompt_tokens", t.prompt_tokens},
                     {"timings",
                      {{"load_s", load_s},
                       {"prefill_s", t.prefill_s},
                       {"decode_s", t.decode_s},
                       {"prefill_tokens_per_s", rate(t.prompt_tokens, t.prefill_s)},
                       {"decode_tokens_per_s", rate(t.new_tokens, t.decode_s)}}}};
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

void write_logits(const std::string& file, const at::Tensor& logits_TV) {
  save_safetensors(file, {{"logits", logits_TV}});
}

}  // namespace euromodal::cli
