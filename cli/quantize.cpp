// quantize.cpp — `euromodal quantize`: a text model folder whose linears are packed ahead of time.
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <string>

#include "backbone/llama.h"
#include "backbone/packed_model.h"
#include "cli/commands.h"
#include "cli/generation_flags.h"
#include "cli/options.h"
#include "cli/thread_flags.h"
#include "core/error.h"
#include "core/log.h"

namespace euromodal::cli {

int run_quantize(int argc, char** argv) {
  Options parser("quantize",
                 "writes a text model with packed weights: smaller, and mapped as it is by "
                 "generate, chat and score on the CPU");
  std::string dir, output, weights, dtype;
  ThreadFlags threads;
  parser.text("--model", &dir, "DIR", "model folder or GGUF file", /*required=*/true);
  parser.text("--output", &output, "DIR", "folder to write; complete or absent",
              /*required=*/true);
  parser.text("--weights", &weights, "WORD",
              "int8, int4, or these with -g32 (groups of 32 instead of 128) and -asym (zero "
              "points); bfloat16 packs without rounding",
              /*required=*/true);
  parser.text("--dtype", &dtype, "WORD",
              "of norms and embedding: float32, bfloat16 or float16 (without it: as the files)");
  threads.declare(parser);
  parser.note(
      "How much quality it costs: euromodal score --model OUT --reference DIR --file TEXT.");
  if (!parser.parse(argc, argv)) return 0;
  const std::optional<at::ScalarType> type =
      parser.given("--dtype") ? std::optional(parse_dtype_word(dtype)) : std::nullopt;
  check<UsageError>(!std::filesystem::exists(output), "--output {}: is there already", output);
  check<UsageError>(!weights.empty(), "--weights: the word is empty");
  threads.use();
  const auto start = std::chrono::steady_clock::now();
  const TextModel model = load_text_model(dir, type);
  check<UsageError>(!model.config.packed, "--model {}: its weights are packed already", dir);
  const int64_t before = linear_bytes(*model.llama);
  pack_by_word(*model.llama, weights);
  save_packed_model(dir, output, model);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  constexpr double kMega = 1e6;
  log_info("{}: linear weights {:.1f} MB, were {:.1f} MB; {:.1f} s", output,
           static_cast<double>(linear_bytes(*model.llama)) / kMega,
           static_cast<double>(before) / kMega, seconds.count());
  return 0;
}

}  // namespace euromodal::cli
