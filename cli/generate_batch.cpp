// generate_batch.cpp — `euromodal generate --batch`: every prompt of a JSONL file.
#include "cli/generate_batch.h"

#include <csignal>
#include <optional>

#include "backbone/weights/chat_template.h"
#include "core/error.h"
#include "core/log.h"
#include "inference/batch_file.h"
#include "inference/memory.h"

namespace euromodal::cli {

namespace {
volatile std::sig_atomic_t batch_stopped = 0;
}

int run_generate_batch(const TextModel& model, const std::shared_ptr<const Tokenizer>& tokenizer,
                       const GenerateBatchArgs& args, const GenerationFlags& flags) {
  check<UsageError>(tokenizer != nullptr, "--batch needs a model folder with a tokenizer");
  check<UsageError>(flags.options.beams == 1 && flags.options.lookup == 0,
                    "--beams and --lookup do not go with --batch");
  std::optional<ChatTemplate> chat;
  for (const BatchLine& line : read_batch_lines(args.input))
    if (!line.messages.empty() && !chat) chat = ChatTemplate::load(args.model);
  BatchFileJob job;
  job.input = args.input;
  job.output = args.output;
  job.options = flags.options;
  job.limits.sequences = args.sequences;
  job.limits.pass_rows = std::max(flags.options.prefill_rows, args.sequences);
  // Seven tenths of the memory: the rest is for beginnings that are kept and what a pass makes.
  job.limits.cache_tokens =
      std::max<int64_t>(1, available_memory() / 10 * 7 /
                               model.llama->cache_layout(flags.options.int8_cache).token_bytes());
  job.text_of = [&](const std::vector<int64_t>& tokens) { return flags.text_of(tokens); };
  struct sigaction action = {};
  action.sa_handler = [](int) { batch_stopped = 1; };
  for (const int signal : {SIGINT, SIGTERM}) sigaction(signal, &action, nullptr);
  job.stop = [] { return batch_stopped != 0; };
  const BatchFileResult out =
      run_batch_file(*model.llama, *tokenizer, chat ? &*chat : nullptr, job);
  if (!out.complete) {
    log_warn("stopped; the same command goes on from {}.part", args.output);
    return 1;
  }
  log_info("{} answers in {} ({} new tokens, {:.1f} tokens/s; {} of {} prompt tokens reused)",
           out.lines, args.output, out.new_tokens,
           out.seconds > 0.0 ? static_cast<double>(out.new_tokens) / out.seconds : 0.0,
           out.reused_tokens, out.prompt_tokens);
  if (out.failed > 0)
    log_warn("{} prompts could not be taken; their lines hold \"error\"", out.failed);
  return out.failed > 0 ? 1 : 0;
}

}  // namespace euromodal::cli
