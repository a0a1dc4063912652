// generate_batch.h — the part of `euromodal generate` that works on a file of prompts.
#pragma once
#include <cstdint>
#include <memory>
#include <string>

#include "backbone/llama.h"
#include "backbone/weights/tokenizer.h"
#include "cli/generation_flags.h"

namespace euromodal::cli {

struct GenerateBatchArgs {
  std::string model, input, output;
  int64_t sequences = 8;
};

/// Exit code. SIGINT and SIGTERM leave what is done on disk; the same command goes on.
int run_generate_batch(const TextModel& model, const std::shared_ptr<const Tokenizer>& tokenizer,
                       const GenerateBatchArgs& args, const GenerationFlags& flags);

}  // namespace euromodal::cli
