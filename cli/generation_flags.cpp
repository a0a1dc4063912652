// generation_flags.cpp — options and output shared by generate, caption and chat.
#include "cli/generation_flags.h"

#include <charconv>
#include <cmath>
#include <cstdio>
#include <limits>
#include <utility>

#include "backbone/device.h"
#include "backbone/kernels/packed_linear/packed_weight.h"
#include "backbone/packed_model.h"
#include "backbone/weights/safetensors.h"
#include "core/error.h"
#include "core/json.h"
#include "core/log.h"
#include "inference/grammar/json_schema.h"
#include "inference/grammar/regex.h"
#include "inference/kept_sequences.h"
#include "inference/memory.h"

namespace euromodal::cli {

namespace {

constexpr int64_t kMaxTokens = int64_t{1} << 31;
constexpr double kMaxFactor = 1e6;

/// "ID=X".
std::pair<int64_t, double> parse_bias(const std::string& word) {
  int64_t id = -1;
  double value = 0.0;
  const size_t equals = std::min(word.find('='), word.size());
  const char* last = word.data() + word.size();
  const auto first = std::from_chars(word.data(), word.data() + equals, id);
  const auto second = std::from_chars(std::min(word.data() + equals + 1, last), last, value);
  check<UsageError>(first.ec == std::errc() && first.ptr == word.data() + equals && id >= 0 &&
                        second.ec == std::errc() && second.ptr == last && std::isfinite(value),
                    "--logit-bias: expected a token id, = and a number such as 42=-5, got '{}'",
                    word);
  return {id, value};
}

PackedForm parse_packed_word(const std::string& word) {
  try {
    return parse_packed_form(word);
  } catch (const Error& error) {
    throw UsageError("--weights: {}", error.what());
  }
}

/// What a GPU knows, which is more.
std::optional<SkinnyForm> parse_weights_word(const std::string& word) {
  if (word.empty()) return std::nullopt;
  try {
    return parse_skinny_form(word);
  } catch (const Error& error) {
    throw UsageError("--weights: {}", error.what());
  }
}

Json logprobs_json(const std::vector<TokenLogprob>& logprobs, const GenerationFlags& flags) {
  Json out = Json::array();
  for (const TokenLogprob& token : logprobs) {
    Json top = Json::array();
    for (const auto& [id, logprob] : token.top)
      top.push_back({{"id", id}, {"text", flags.text_of({id})}, {"logprob", logprob}});
    out.push_back({{"id", token.id},
                   {"text", flags.text_of({token.id})},
                   {"logprob", token.logprob},
                   {"top", std::move(top)}});
  }
  return out;
}

double rate(int64_t count, double seconds) {
  return seconds > 0.0 ? static_cast<double>(count) / seconds : 0.0;
}

}  // namespace

at::ScalarType parse_dtype_word(const std::string& word) {
  if (word == "float32") return at::kFloat;
  if (word == "bfloat16") return at::kBFloat16;
  if (word == "float16") return at::kHalf;
  throw UsageError("--dtype: unknown dtype '{}', expected float32, bfloat16 or float16", word);
}

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
  parser.f64("--min-p", &options.min_p,
             "sample among tokens at least P times as likely as the most likely", 0.0, 1.0);
  parser.f64("--typical-p", &options.typical_p,
             "sample among the tokens of most typical surprise that reach P together", 0.0, 1.0);
  parser.i64("--seed", &seed_, "sample with this seed", 0, std::numeric_limits<int64_t>::max());
  parser.i64("--beams", &options.beams, "beam search with N beams, no sampling", 1, 1024);
  parser.f64("--length-penalty", &options.length_penalty,
             "beam search: scores are divided by length to this power", -kMaxFactor, kMaxFactor);
  parser.f64("--repetition-penalty", &options.repetition_penalty,
             "above 1: tokens seen before, also in the prompt, become less likely", 1e-6,
             kMaxFactor);
  parser.i64("--no-repeat-ngram", &options.no_repeat_ngram,
             "no sequence of N tokens comes twice (0: off)", 0, kMaxTokens);
  parser.f64("--presence-penalty", &options.presence_penalty,
             "taken off the logits of new tokens that came before", -kMaxFactor, kMaxFactor);
  parser.f64("--frequency-penalty", &options.frequency_penalty,
             "the same for each time that they came", -kMaxFactor, kMaxFactor);
  parser.each("--logit-bias", "ID=X", "added to the logit of token ID; may come several times",
              [this](const std::string& word) { options.logit_bias.push_back(parse_bias(word)); });
  parser.each("--stop", "TEXT", "ends the answer where TEXT comes up; may come several times",
              [this](const std::string& word) { stop_texts_.push_back(word); });
  parser.flag("--ignore-eos", &ignore_eos_, "go on behind the model's own stop tokens");
  parser.text("--regex", &regex_, "PATTERN", "only answers that match PATTERN as a whole");
  parser.text("--json-schema", &json_schema_, "FILE",
              "only answers that are JSON by this schema (a file, or the schema itself)");
  parser.i64("--lookup", &options.lookup,
             "guess up to N tokens from earlier text and check them at once (same answer, sooner)",
             0, 64);
  parser.i64("--prefill-chunk", &options.prefill_rows, kPrefillHelp, 1, kMaxPrefillRows);
  parser.flag("--no-prefix-reuse", &no_reuse_,
              "read every prompt whole, also where an earlier one began the same");
  parser.text("--dtype", &dtype_word_, "WORD",
              "float32, bfloat16 or float16 (without it: as the model's files)");
  parser.text("--device", &device_word_, "WORD", "cpu, cuda or cuda:N");
  threads_.declare(parser);
  parser.text("--weights", &weights_word_, "WORD", kWeightsHelp);
  parser.text("--kv-cache", &cache_word_, "WORD", kCacheHelp);
}

void GenerationFlags::declare_output(Options& parser) {
  parser.flag("--json", &json, "print one JSON object: text, tokens, prompt_tokens, timings");
  parser.i64("--logprobs", &options.logprobs,
             "with --json: log-probabilities of the tokens and of the N best beside each", 0, 1000);
  parser.i64("--n-best", &nbest, "with --json and --beams: the N best answers with their scores", 1,
             1024);
  parser.text("--dump-logits", &dump_logits, "FILE",
              "write `logits` [T, V] f32 of the whole prompt (safetensors)");
}

void pack_by_word(const Llama& llama, const std::string& word) {
  if (word.empty()) {
    if (llama.dtype() == at::kBFloat16) pack_plain_weights(llama, PackedForm{});
    return;
  }
  const PackedForm form = parse_packed_word(word);
  const bool fits = form.form != WeightForm::kBf16 || llama.dtype() == at::kBFloat16;
  check<UsageError>(fits || packed_form(llama), "--weights bfloat16 goes with --dtype bfloat16");
  pack_weights(llama, form);
}

bool parse_cpu_cache_word(const std::string& word) {
  check<UsageError>(word != "bfloat16" && word != "float8",
                    "--kv-cache {} goes with --device cuda; on the CPU: auto or int8", word);
  check<UsageError>(word == "auto" || word == "int8",
                    "--kv-cache: unknown word '{}', expected auto or int8", word);
  return word == "int8";
}

void GenerationFlags::prepare(const Llama& llama, int64_t positions) {
  if (device.is_cpu()) {
    pack_by_word(llama, weights_word_);
    if (!no_reuse_)
      options.kept = std::make_shared<KeptSequences>(llama.cache_layout(options.int8_cache),
                                                     KeptLimits{.bytes = available_memory() / 8});
    return;
  }
  if (llama.dtype() != at::kBFloat16) {
    check<UsageError>(weights_word_.empty() && cache_word_ == "auto",
                      "--weights and --kv-cache go with a bfloat16 model on a GPU");
    return;
  }
  if (options.beams > 1 || options.lookup > 0) return check_plain_passes("--beams and --lookup");
  make_device_decoder(llama, {.max_positions = positions});
}

void GenerationFlags::prepare_batch(const Llama& llama, int64_t sequences) {
  if (device.is_cpu() || llama.dtype() != at::kBFloat16) return prepare(llama, 0);
  make_device_decoder(llama, {.sequences = sequences, .cache_share = 0.7});
}

void GenerationFlags::make_device_decoder(const Llama& llama, DecoderOptions decoder) {
  decoder.weights = parse_weights_word(weights_word_);
  decoder.fp8_cache = cache_word_ == "float8";
  options.decoder = make_decoder(llama, decoder);
  if (!no_reuse_)
    options.kept = std::make_shared<KeptSequences>(
        options.decoder->layout(), KeptLimits{.bytes = options.decoder->cache_bytes()});
}

void GenerationFlags::check_plain_passes(const char* what) const {
  const SkinnyForm form = parse_weights_word(weights_word_).value_or(SkinnyForm{});
  check<UsageError>(form == SkinnyForm{} && cache_word_ != "float8",
                    "{} on a GPU: --weights and --kv-cache may be bfloat16 alone", what);
}

void GenerationFlags::finish(const Options& parser) {
  if (parser.given("--dtype")) dtype = parse_dtype_word(dtype_word_);
  device = open_device(device_word_);
  threads_.use();
  if (device.is_cuda()) {
    parse_weights_word(weights_word_);
    check<UsageError>(cache_word_ != "int8",
                      "--kv-cache int8 goes with --device cpu; on a GPU: bfloat16 or float8");
    check<UsageError>(cache_word_ == "auto" || cache_word_ == "bfloat16" || cache_word_ == "float8",
                      "--kv-cache: unknown word '{}', expected auto, bfloat16 or float8",
                      cache_word_);
  } else {
    if (!weights_word_.empty()) parse_packed_word(weights_word_);
    options.int8_cache = parse_cpu_cache_word(cache_word_);
  }
  check<UsageError>(!parser.given("--dump-logits") || !dump_logits.empty(),
                    "--dump-logits: the file name is empty");
  options.seed = static_cast<uint64_t>(seed_);
  bool wants_sample = false;
  for (const char* word :
       {"--temperature", "--top-k", "--top-p", "--min-p", "--typical-p", "--seed"})
    wants_sample = wants_sample || parser.given(word);
  const bool fixed = greedy_ || parser.given("--beams");
  options.greedy = fixed || !wants_sample || options.temperature == 0.0;
  if (fixed && wants_sample)
    log_warn(
        "{} means no sampling: --temperature, --top-k, --top-p, --min-p, --typical-p and --seed "
        "have no effect",
        parser.given("--beams") ? "--beams" : "--greedy");
  check<UsageError>(!(parser.given("--regex") && parser.given("--json-schema")),
                    "give either --regex or --json-schema");
  check<UsageError>(nbest <= options.beams, "--n-best {}: there are only {} beams (--beams)", nbest,
                    options.beams);
  if (options.beams > 1 && (options.lookup > 0 || options.logprobs >= 0))
    log_warn("--beams: --lookup and --logprobs have no effect");
}

void GenerationFlags::bind(std::shared_ptr<const Tokenizer> tokenizer,
                           std::vector<int64_t> model_stop_ids) {
  tokenizer_ = std::move(tokenizer);
  if (!ignore_eos_) options.stop_ids = std::move(model_stop_ids);
  const bool needs_text = !stop_texts_.empty() || !regex_.empty() || !json_schema_.empty();
  check<UsageError>(tokenizer_ || !needs_text,
                    "--stop, --regex and --json-schema need a model folder with a tokenizer");
  if (!tokenizer_) return;
  stops = std::make_shared<StopStrings>(tokenizer_, stop_texts_);
  if (!stops->empty())
    options.ends_text = [stops = stops](std::span<const int64_t> ids) { return stops->ends(ids); };
  if (!regex_.empty()) {
    Grammar grammar;
    grammar.start = add_regex(grammar, regex_);
    options.grammar = std::make_shared<TokenGrammar>(std::move(grammar), tokenizer_);
  } else if (!json_schema_.empty()) {
    const bool inline_text = json_schema_.front() == '{';
    const Json schema =
        inline_text ? parse_json(json_schema_, "--json-schema") : read_json(json_schema_);
    options.grammar = std::make_shared<TokenGrammar>(
        json_schema_grammar(schema, inline_text ? "--json-schema" : json_schema_), tokenizer_);
  }
}

std::string GenerationFlags::text_of(const std::vector<int64_t>& tokens) const {
  if (!tokenizer_) return "";
  std::vector<int64_t> known;  // ids beyond the tokenizer (a padded vocabulary) stand for nothing
  for (int64_t id : tokens)
    if (id < tokenizer_->size()) known.push_back(id);
  std::string text = tokenizer_->decode(known, /*skip_special=*/true);
  return text.substr(0, stops->find(text));
}

TokenPrinter::TokenPrinter(std::shared_ptr<const Tokenizer> tokenizer,
                           std::shared_ptr<const StopStrings> stops)
    : tokenizer_(std::move(tokenizer)),
      stops_(std::move(stops)),
      decoder_(tokenizer_, /*skip_special=*/true) {}

void TokenPrinter::push(int64_t id) {
  if (id < tokenizer_->size()) write(decoder_.push(id), /*last=*/false);
}

void TokenPrinter::finish() { write(decoder_.finish(), /*last=*/true); }

void TokenPrinter::write(std::string text, bool last) {
  std::string out;
  if (!ended_) {
    out = held_ + text;
    const size_t stop = stops_->find(out);
    ended_ = stop != std::string::npos;
    const size_t held = ended_ || last ? 0 : stops_->held(out);
    held_ = out.substr(out.size() - held);
    out.resize(ended_ ? stop : out.size() - held);
  }
  if (last) out += "\n";
  std::fwrite(out.data(), 1, out.size(), stdout);
  std::fflush(stdout);
}

std::string generated_json(const Generated& generated, const GenerationFlags& flags,
                           double load_s) {
  const GenerateTimings& t = generated.timings;
  Json json = {{"text", flags.text_of(generated.tokens)},
               {"tokens", generated.tokens},
               {"prompt_tokens", t.prompt_tokens},
               {"reused_tokens", t.reused_tokens},
               {"finish_reason", finish_reason_name(generated.finish)},
               {"timings",
                {{"load_s", load_s},
                 {"prefill_s", t.prefill_s},
                 {"decode_s", t.decode_s},
                 {"prefill_tokens_per_s", rate(t.prompt_tokens - t.reused_tokens, t.prefill_s)},
                 {"decode_tokens_per_s", rate(t.new_tokens, t.decode_s)},
                 {"steps", t.steps}}}};
  if (!generated.logprobs.empty()) json["logprobs"] = logprobs_json(generated.logprobs, flags);
  if (!generated.beams.empty()) {
    for (const ScoredTokens& beam : generated.beams) {
      if (static_cast<int64_t>(json["beams"].size()) == flags.nbest) break;
      json["beams"].push_back(
          {{"text", flags.text_of(beam.tokens)}, {"tokens", beam.tokens}, {"score", beam.score}});
    }
  }
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

void write_logits(const std::string& file, const at::Tensor& logits_TV) {
  save_safetensors(file, {{"logits", logits_TV}});
}

}  // namespace euromodal::cli
