// batch_file.h — a JSONL file of prompts in, a JSONL file of answers out: continuous batching, goes
// on after a kill without a line lost or written twice.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backbone/llama.h"
#include "backbone/weights/chat_template.h"
#include "backbone/weights/tokenizer.h"
#include "inference/batch_engine.h"
#include "inference/generator.h"

namespace euromodal {

/// {"id": ..., and one of "prompt": text, "tokens": [ids], "messages": [{role, content}, ...]},
/// besides "max_new_tokens" and "seed" where they differ from the others. Without an id it is the
/// line's number, from 0.
struct BatchLine {
  std::string id;
  std::string prompt;
  std::vector<int64_t> tokens;
  std::vector<ChatMessage> messages;
  int64_t max_new_tokens = -1, seed = -1;  // -1: as all
};

/// Every line, checked before any work is done: DataError naming file, line and key; ids must
/// differ.
std::vector<BatchLine> read_batch_lines(const std::filesystem::path& file);

struct BatchFileJob {
  std::filesystem::path input, output;
  GenerateOptions options;
  BatchLimits limits;
  std::function<std::string(const std::vector<int64_t>&)> text_of;  // new tokens as text
  std::function<bool()> stop;  // asked between passes: true leaves what is done on disk
};

struct BatchFileResult {
  int64_t lines = 0, done_before = 0, failed = 0, new_tokens = 0, prompt_tokens = 0,
          reused_tokens = 0;
  double seconds = 0.0;
  bool complete = false;
};

/// Answers are {"id", "text", "tokens", "finish_reason", "prompt_tokens"}, or {"id", "error"} for a
/// line that the model cannot take. They are written to OUTPUT.part as they come, a whole line at a
/// time; one that is there when the job starts is gone on with. When all are there OUTPUT appears,
/// in the order of the input. `chat` may be null: then a line with messages is a DataError.
BatchFileResult run_batch_file(const Llama& llama, const Tokenizer& tokenizer,
                               const ChatTemplate* chat, const BatchFileJob& job);

}  // namespace euromodal
