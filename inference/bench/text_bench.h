// text_bench.h — speed of a text backbone as llama-bench defines it: prompt processing (pp), token
// generation (tg), both behind a cache that is filled to some depth, one or several sequences at
// once; each beside what the machine's memory or matrix units would allow at best.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "backbone/llama.h"
#include "backbone/prefill.h"
#include "core/json.h"

namespace euromodal {

struct TextBenchCase {
  bool generate = false;  // tg: tokens one by one; else pp: all at once
  int64_t tokens = 512;   // of each sequence
  int64_t depth = 0;      // positions that the cache holds before
  int64_t batch = 1;      // sequences side by side
};

struct TextBenchResult {
  TextBenchCase what;
  std::vector<double> tokens_per_s;  // of all sequences together, one a repetition
  /// Share of the limit, one a repetition: tg: bytes of weights, keys and values that a step must
  /// read over the read bandwidth measured around it; pp: operations over the matrix rate.
  std::vector<double> share;
  double limit_tokens_per_s = 0.0;  // median
};

struct TextBenchOptions {
  std::vector<TextBenchCase> cases;
  int64_t repetitions = 5;
  int64_t prefill_rows = kPrefillRows;               // of one pass over a prompt
  bool int8_cache = false;                           // keys and values as int8 codes
  std::function<void(const TextBenchResult&)> done;  // called as each case ends
};

/// Cases are interleaved by repetition. Greedy tokens; the weights are used as they are (pack them
/// first). Error when a case needs more positions than the model has.
std::vector<TextBenchResult> bench_text(const Llama& llama, const TextBenchOptions& options);

std::string text_bench_name(const TextBenchCase& what);  // "tg64 @ d2048, batch 8"
double median(std::vector<double> values);
Json text_bench_json(const TextBenchResult& result);

/// A model of this shape with weights from N(0, 0.02), in `dtype`, drawn quickly (blocks repeat).
TextModel drawn_text_model(const LlamaConfig& config, at::ScalarType dtype);

}  // namespace euromodal
