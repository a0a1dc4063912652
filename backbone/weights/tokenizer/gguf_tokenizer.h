// gguf_tokenizer.h — the tokenizer and chat template that a GGUF file holds, as the two files of a
// Hugging Face folder that say the same. Reference: gguf-py (writer), llama.cpp llama-vocab.cpp
// (reader).
#pragma once
#include <memory>

#include <nlohmann/json.hpp>

#include "backbone/weights/gguf.h"
#include "backbone/weights/tokenizer.h"

namespace euromodal {

struct GgufTokenizerFiles {
  nlohmann::json tokenizer;  // tokenizer.json
  nlohmann::json config;     // tokenizer_config.json, with the chat template
};

/// `tokenizer.ggml.model` "llama" (SentencePiece BPE with byte fallback: scores give the merges) or
/// "gpt2" (byte-level BPE; `pre` llama-bpe, gpt-2 or default). CheckpointError naming file and key:
/// another model or pre, lists of different lengths, tokens twice, ids outside.
GgufTokenizerFiles gguf_tokenizer_files(const GgufHeader& header);

std::shared_ptr<const Tokenizer> gguf_tokenizer(const GgufHeader& header);

/// Does the file hold a tokenizer?
bool gguf_has_tokenizer(const GgufHeader& header);

}  // namespace euromodal
