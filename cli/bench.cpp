// bench.cpp — `euromodal bench text`: prompt, decode, depth and batch speeds of a text model.
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include <ATen/Parallel.h>

#include "backbone/kernels/cpu_features.h"
#include "backbone/kernels/packed_linear/packed_weight.h"
#include "backbone/packed_model.h"
#include "cli/commands.h"
#include "cli/generation_flags.h"
#include "cli/options.h"
#include "cli/thread_flags.h"
#include "core/error.h"
#include "core/files.h"
#include "core/log.h"
#include "inference/bench/machine_limits.h"
#include "inference/bench/text_bench.h"

namespace euromodal::cli {

namespace {

namespace fs = std::filesystem;

/// "0,2048": whole numbers from `least` with commas between.
std::vector<int64_t> parse_numbers(const char* flag, const std::string& text, int64_t least) {
  std::vector<int64_t> out;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    int64_t value = 0;
    const auto [stop, error] = std::from_chars(text.data() + at, text.data() + end, value);
    check<UsageError>(error == std::errc() && stop == text.data() + end && value >= least &&
                          value <= (int64_t{1} << 31),
                      "{}: expected whole numbers of at least {} with commas between, got '{}'",
                      flag, least, text);
    out.push_back(value);
    at = end + 1;
  }
  return out;
}

TextModel bench_model(const std::string& model, std::optional<at::ScalarType> dtype) {
  if (fs::is_regular_file(model) &&
      fs::path(model).extension() != ".gguf") {  // a config.json: its shape, drawn weights
    const Json json = read_json(model);
    return drawn_text_model(LlamaConfig::from_json(JsonView(json, model)),
                            dtype.value_or(at::kBFloat16));
  }
  return load_text_model(model, dtype);
}

}  // namespace

int run_bench(int argc, char** argv) {
  Options parser("bench", "speed of a text model beside what the machine allows");
  std::string what, model, weights, dtype = "bfloat16", cache = "auto", prompts = "512",
                                    generated = "64", depths = "0", batches = "1", output;
  int64_t repetitions = 5;
  ThreadFlags threads;
  TextBenchOptions options;
  parser.positional("WHAT", &what, "text", /*required=*/true);
  parser.text("--model", &model, "PATH",
              "model folder or GGUF file; or a config.json: that shape with random weights",
              /*required=*/true);
  parser.text("--prompt-tokens", &prompts, "N,N", "prompt lengths (pp); 0: none");
  parser.text("--new-tokens", &generated, "N,N", "tokens to generate (tg); 0: none");
  parser.text("--depth", &depths, "N,N", "positions in the cache before");
  parser.text("--batch", &batches, "N,N", "sequences side by side, for generation");
  parser.i64("--repetitions", &repetitions, "of each case, interleaved; medians are reported", 1,
             1000);
  threads.declare(parser);
  parser.text("--weights", &weights, "WORD", kWeightsHelp);
  parser.i64("--prefill-chunk", &options.prefill_rows, kPrefillHelp, 1, kMaxPrefillRows);
  parser.text("--kv-cache", &cache, "WORD", "keys and values: auto (the model's dtype) or int8");
  parser.text("--dtype", &dtype, "WORD", "float32, bfloat16 or float16");
  parser.text("--output", &output, "FILE", "also write everything measured as JSON");
  parser.note(
      "pp and tg as llama-bench defines them. limit: bytes of weights and cache over the measured "
      "read bandwidth (tg), operations over the measured matrix rate (pp).");
  if (!parser.parse(argc, argv)) return 0;
  check<UsageError>(what == "text", "bench: unknown '{}', there is: text", what);
  options.repetitions = repetitions;
  options.int8_cache = parse_cpu_cache_word(cache);
  const std::vector<int64_t> all_depths = parse_numbers("--depth", depths, 0),
                             all_batches = parse_numbers("--batch", batches, 1);
  for (const int64_t depth : all_depths) {
    for (const int64_t tokens : parse_numbers("--prompt-tokens", prompts, 0))
      if (tokens > 0) options.cases.push_back({false, tokens, depth, 1});
    for (const int64_t tokens : parse_numbers("--new-tokens", generated, 0))
      for (const int64_t batch : all_batches)
        if (tokens > 0) options.cases.push_back({true, tokens, depth, batch});
  }
  check<UsageError>(!options.cases.empty(), "bench: nothing to measure");
  threads.use();

  const TextModel text = bench_model(model, parse_dtype_word(dtype));
  pack_by_word(*text.llama, weights);
  const auto form = packed_form(*text.llama);
  const std::string form_name =
      form ? packed_form_name(*form) : std::string(c10::toString(text.llama->dtype()));
  const double read = read_bandwidth(), matrix = matrix_rate(text.llama->dtype() == at::kBFloat16);
  std::puts(fmt::format("{} threads, {}; reads {:.1f} GB/s, matrix products {:.0f} GFLOP/s; "
                        "weights {} ({:.2f} GB), keys and values {}",
                        at::get_num_threads(), cpu_isa_name(cpu_isa()), read / 1e9, matrix / 1e9,
                        form_name, static_cast<double>(linear_bytes(*text.llama)) / 1e9,
                        options.int8_cache ? "int8" : c10::toString(text.llama->dtype()))
                .c_str());
  std::puts("| case | tokens/s | limit | share |\n|---|---:|---:|---:|");
  options.done = [](const TextBenchResult& r) {
    std::puts(fmt::format("| {} | {:.2f} | {:.2f} | {:.1f} % |", text_bench_name(r.what),
                          median(r.tokens_per_s), r.limit_tokens_per_s, 100.0 * median(r.share))
                  .c_str());
    std::fflush(stdout);
  };
  Json cases = Json::array();
  for (const TextBenchResult& result : bench_text(*text.llama, options))
    cases.push_back(text_bench_json(result));
  if (!output.empty()) {
    const Json json = {{"threads", at::get_num_threads()},
                       {"instruction_set", cpu_isa_name(cpu_isa())},
                       {"read_bytes_per_s", read},
                       {"matrix_flops_per_s", matrix},
                       {"weights", form_name},
                       {"kv_cache", cache},
                       {"weight_bytes", linear_bytes(*text.llama)},
                       {"cases", cases}};
    write_text_atomic(output, json.dump(1) + "\n");
  }
  return 0;
}

}  // namespace euromodal::cli
