// generate.cpp — `euromodal generate`: text completion of a raw prompt, or of token ids.
#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include "backbone/device.h"
#include "backbone/device_model.h"
#include "backbone/llama.h"
#include "backbone/lora.h"
#include "backbone/peft_folder.h"
#include "backbone/weights/gguf.h"
#include "backbone/weights/tokenizer.h"
#include "backbone/weights/tokenizer/gguf_tokenizer.h"
#include "cli/commands.h"
#include "cli/generate_batch.h"
#include "cli/generation_flags.h"
#include "cli/options.h"
#include "core/error.h"
#include "core/files.h"
#include "inference/decoding.h"
#include "inference/generator.h"
#include "inference/memory.h"

namespace euromodal::cli {

namespace {

/// "1,2,3": whole numbers with commas between, nothing else.
std::vector<int64_t> parse_token_list(const std::string& text) {
  check<UsageError>(!text.empty(), "--tokens: the list is empty; expected ids such as 1,2,3");
  std::vector<int64_t> ids;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    const char* last = text.data() + end;
    int64_t id = 0;
    const auto [stop, error] = std::from_chars(text.data() + at, last, id);
    const std::string word = text.substr(at, end - at);
    check<UsageError>(error != std::errc::result_out_of_range, "--tokens: {} is out of range",
                      word);
    check<UsageError>(error == std::errc() && stop == last,
                      "--tokens: expected whole numbers with commas between, got '{}'", word);
    check<UsageError>(id >= 0, "--tokens: id {} is negative", word);
    ids.push_back(id);
    at = end + 1;
  }
  return ids;
}

/// A folder of weights alone still completes token ids.
bool has_tokenizer(const std::filesystem::path& dir) {
  if (const auto gguf = find_gguf(dir)) return gguf_has_tokenizer(GgufFile(*gguf).header());
  return std::filesystem::exists(dir / "tokenizer.json") ||
         std::filesystem::exists(dir / "tokenizer.model");
}

}  // namespace

int run_generate(int argc, char** argv) {
  Options parser("generate", "text completion of a prompt by a text model");
  GenerationFlags flags;
  GenerateBatchArgs batch;
  std::string& model = batch.model;
  std::string prompt, token_list, lora;
  parser.text("--model", &model, "DIR", "model folder or GGUF file", /*required=*/true);
  parser.text("--prompt", &prompt, "TEXT",
              "text to go on with; special tokens in it are recognised");
  parser.text("--tokens", &token_list, "1,2,3", "token ids to go on with");
  parser.text(
      "--batch", &batch.input, "FILE",
      "JSONL of prompts ({\"id\", \"prompt\" or \"tokens\" or \"messages\"}); goes on where it "
      "was stopped");
  parser.text("--output", &batch.output, "FILE", "with --batch: JSONL of the answers");
  parser.i64("--batch-size", &batch.sequences, "with --batch: prompts under way at once", 1, 4096);
  parser.text("--lora", &lora, "DIR", "PEFT folder of a LoRA, merged into the weights");
  flags.declare(parser);
  flags.declare_output(parser);
  if (!parser.parse(argc, argv)) return 0;
  flags.finish(parser);
  const bool many = parser.given("--batch");
  check<UsageError>(parser.given("--prompt") + parser.given("--tokens") + many == 1,
                    "give one of --prompt, --tokens and --batch");
  check<UsageError>(many == parser.given("--output"), "--batch and --output go together");
  for (const char* word : {"--json", "--dump-logits", "--logprobs", "--n-best"})
    check<UsageError>(!many || !parser.given(word), "{} does not go with --batch", word);

  // What is wrong with the words shows before any weight is read.
  std::vector<int64_t> ids;
  if (parser.given("--tokens")) ids = parse_token_list(token_list);
  const size_t bad = find_invalid_utf8(prompt);
  check<DataError>(bad == std::string::npos, "--prompt: not valid UTF-8 at byte {}", bad);
  const LlamaConfig config = LlamaConfig::load(model);
  std::shared_ptr<const Tokenizer> tokenizer;
  if (!parser.given("--tokens") || has_tokenizer(model)) tokenizer = Tokenizer::load(model);
  if (parser.given("--prompt")) ids = tokenizer->encode(prompt, EncodeMode::kFull);
  if (!many) {
    check_prompt_length(static_cast<int64_t>(ids.size()), config);
    check_token_ids(ids, config);
  }

  const auto start = std::chrono::steady_clock::now();
  const TextModel text_model = load_text_model(model, flags.dtype);
  merge_lora(text_model.llama->linears());  // one that the model's folder holds
  if (parser.given("--lora")) {
    load_peft(lora, text_model.llama->linears());
    merge_lora(text_model.llama->linears());
  }
  move_model(*text_model.llama, text_model.parameters, flags.device);
  flags.bind(tokenizer, config.eos_ids);
  if (many) {
    constexpr int64_t kMostOnDevice = 64;
    if (flags.device.is_cuda()) batch.sequences = std::min(batch.sequences, kMostOnDevice);
    flags.prepare_batch(*text_model.llama, batch.sequences);
    return run_generate_batch(text_model, tokenizer, batch, flags);
  }
  const int64_t longest = static_cast<int64_t>(ids.size()) +
                          token_budget(static_cast<int64_t>(ids.size()), config, flags.options);
  check_generation_memory(*text_model.llama, static_cast<int64_t>(ids.size()), flags.options);
  flags.prepare(*text_model.llama, std::min(longest, config.max_positions));
  const std::chrono::duration<double> load_time = std::chrono::steady_clock::now() - start;

  std::optional<TokenPrinter> printer;
  if (tokenizer && !flags.json) printer.emplace(tokenizer, flags.stops);
  const Generated out = generate(*text_model.llama, {ids, {}}, flags.options,
                                 /*want_logits=*/!flags.dump_logits.empty(), [&](int64_t id) {
                                   if (printer) printer->push(id);
                                 });
  if (printer && flags.options.beams > 1)  // beams are known only at the end
    for (int64_t id : out.tokens) printer->push(id);
  if (!flags.dump_logits.empty()) write_logits(flags.dump_logits, out.prompt_logits_TV);
  if (flags.json) {
    std::puts(generated_json(out, flags, load_time.count()).c_str());
  } else if (printer) {
    printer->finish();
  } else {
    std::puts(fmt::format("{}", fmt::join(out.tokens, ",")).c_str());
  }
  return 0;
}

}  // namespace euromodal::cli
