// commands.cpp — the table of subcommands.
#include "cli/commands.h"

namespace euromodal::cli {

const std::vector<Command>& commands() {
  static const std::vector<Command> table = {
      {"tokenize", "text to token ids and back", &run_tokenize},
      {"generate", "text completion of a prompt", &run_generate},
      {"score", "log-probabilities, perplexity or embedding of a text", &run_score},
      {"quantize", "a text model with weights packed in 8 or 4 bits", &run_quantize},
      {"bench", "speed of a text model as llama-bench defines it, beside the machine's limits",
       &run_bench},
      {"encode", "feature rows of pictures or sound", &run_encode},
      {"caption", "text for pictures, sound and video", &run_caption},
      {"data", "makes tar shards, indexes them, finds bad samples", &run_data},
      {"chat", "interactive chat with the model's template", &run_chat},
      {"train", "trains adapters, encoders or a backbone from a YAML file", &run_train},
      {"inspect", "says what a model, checkpoint, shard or config holds", &run_inspect},
  };
  return table;
}

}  // namespace euromodal::cli
