// score.cpp — `euromodal score`: how likely a model finds a text; or one vector for it.
#include <cstdio>
#include <string>
#include <vector>

#include "backbone/device.h"
#include "backbone/device_model.h"
#include "backbone/llama.h"
#include "backbone/lora.h"
#include "backbone/weights/safetensors.h"
#include "backbone/weights/tokenizer.h"
#include "cli/commands.h"
#include "cli/generation_flags.h"
#include "cli/options.h"
#include "cli/thread_flags.h"
#include "core/error.h"
#include "core/files.h"
#include "core/json.h"
#include "inference/scoring.h"

namespace euromodal::cli {

int run_score(int argc, char** argv) {
  Options parser("score", "log-probabilities and perplexity of a text, or its embedding");
  std::string dir, text, file, embedding, dtype, weights, reference, cache = "auto", device = "cpu";
  ScoreOptions options;
  bool json = false;
  ThreadFlags threads;
  parser.text("--model", &dir, "DIR", "model folder or GGUF file", /*required=*/true);
  parser.text("--text", &text, "TEXT", "the text");
  parser.text("--file", &file, "FILE", "a file with the text, taken byte for byte");
  parser.i64("--window", &options.window, "tokens of one pass (0: max_position_embeddings)", 0,
             int64_t{1} << 31);
  parser.i64("--stride", &options.stride,
             "new tokens of each further window of a long text (0: half of the window)", 0,
             int64_t{1} << 31);
  parser.flag("--json", &json, "print one JSON object, with the log-probability of each token");
  parser.text("--embedding", &embedding, "FILE",
              "instead of scores: write `embedding` [D] f32, the mean of the last hidden rows "
              "(safetensors)");
  parser.text("--dtype", &dtype, "WORD", "float32, bfloat16 or float16");
  parser.text("--weights", &weights, "WORD", kWeightsHelp);
  parser.text("--kv-cache", &cache, "WORD",
              "keys and values: auto (the model's dtype) or, on the CPU, int8");
  parser.text(
      "--reference", &reference, "DIR",
      "also say how far the model is from this one on the text: mean KL divergence, and how "
      "often both find the same token most likely");
  parser.text("--device", &device, "WORD", "cpu, cuda or cuda:N");
  threads.declare(parser);
  if (!parser.parse(argc, argv)) return 0;
  check<UsageError>(parser.given("--text") != parser.given("--file"),
                    "give either --text or --file");
  const auto where = open_device(device);
  threads.use();
  check<UsageError>(where.is_cpu() || cache == "auto", "--kv-cache {} goes with --device cpu here",
                    cache);
  options.int8_cache = parse_cpu_cache_word(cache);
  const std::optional<at::ScalarType> type =
      parser.given("--dtype") ? std::optional(parse_dtype_word(dtype)) : std::nullopt;
  if (parser.given("--file")) text = read_text(file);
  const size_t bad = find_invalid_utf8(text);
  check<DataError>(bad == std::string::npos, "{}: not valid UTF-8 at byte {}",
                   file.empty() ? "--text" : file, bad);
  const auto tokenizer = Tokenizer::load(dir);
  const std::vector<int64_t> ids = tokenizer->encode(text, EncodeMode::kFull);
  const TextModel model = load_text_model(dir, type);
  merge_lora(model.llama->linears());
  move_model(*model.llama, model.parameters, where);
  if (where.is_cpu()) {
    pack_by_word(*model.llama, weights);
  } else {
    check<UsageError>(weights.empty(), "--weights goes with --device cpu here");
  }
  if (!embedding.empty()) {
    save_safetensors(embedding, {{"embedding", embed_text(*model.llama, ids)}});
    return 0;
  }
  if (!reference.empty()) {
    const TextModel other = load_text_model(reference, type);
    merge_lora(other.llama->linears());
    move_model(*other.llama, other.parameters, where);
    const ModelDivergence d = compare_models(*other.llama, *model.llama, ids, options);
    const Json out = {{"tokens", d.tokens},
                      {"mean_kl", d.mean_kl},
                      {"top1_agreement", d.top1_agreement},
                      {"perplexity", d.perplexity},
                      {"reference_perplexity", d.reference_perplexity}};
    std::puts(json ? out.dump().c_str()
                   : fmt::format("tokens={} mean_kl={:.6f} top1_agreement={:.4f} perplexity={:.4f} "
                                 "reference_perplexity={:.4f}",
                                 d.tokens, d.mean_kl, d.top1_agreement, d.perplexity,
                                 d.reference_perplexity)
                         .c_str());
    return 0;
  }
  const TextScore score = score_text(*model.llama, ids, options);
  if (!json) {
    std::puts(fmt::format("tokens={} log_likelihood={:.4f} perplexity={:.4f}",
                          score.logprobs.size(), score.sum(), score.perplexity())
                  .c_str());
    return 0;
  }
  const Json out = {{"tokens", ids},
                    {"logprobs", score.logprobs},
                    {"log_likelihood", score.sum()},
                    {"perplexity", score.perplexity()}};
  std::puts(out.dump().c_str());
  return 0;
}

}  // namespace euromodal::cli
