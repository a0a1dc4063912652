// targets.h — the readers of files that come from outside, each as a function of bytes. An input
// may be refused with one of our errors; anything else that leaves the function (another exception,
// a sanitizer's report, a crash) is a fault. libFuzzer (fuzz_main.cpp) and the replay of the kept
// corpus (corpus_test.cpp) call the same functions.
#pragma once
#include <array>
#include <string_view>

namespace euromodal::fuzz {

/// A whole safetensors file.
void safetensors_header(std::string_view bytes);
/// A whole GGUF file: its header, the config and the tokenizer that it holds.
void gguf_header(std::string_view bytes);
/// tokenizer.json, a zero byte, tokenizer_config.json, a zero byte, text: encoded in every mode,
/// the ids decoded at once and streamed. The later parts may be missing.
void tokenizer(std::string_view bytes);
/// chat_template.jinja, a zero byte, tokenizer_config.json; a conversation is rendered.
void chat_template(std::string_view bytes);
/// config.json of a text model: read, written, read again.
void model_config(std::string_view bytes);
/// A YAML file: every key asked for in every type, dumped.
void yaml_config(std::string_view bytes);

struct Target {
  const char* name;
  void (*run)(std::string_view bytes);
};
inline constexpr std::array<Target, 6> kTargets = {{{"safetensors_header", safetensors_header},
                                                    {"gguf_header", gguf_header},
                                                    {"tokenizer", tokenizer},
                                                    {"chat_template", chat_template},
                                                    {"model_config", model_config},
                                                    {"yaml_config", yaml_config}}};

}  // namespace euromodal::fuzz
