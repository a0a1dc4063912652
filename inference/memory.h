// memory.h — how much memory there is for keys and values, and the refusal of what cannot fit.
#pragma once
#include <cstdint>

#include "backbone/llama.h"
#include "inference/generator.h"

namespace euromodal {

/// Bytes that this process can still get: the machine's available memory, or what is left of its
/// control group's limit where that is less.
int64_t available_memory();

/// Bytes that a cache of `tokens` positions holds on the CPU: whole pages.
int64_t cache_bytes(const KvLayout& layout, int64_t tokens);

/// Bytes of all caches of one generate() on the CPU at most: beams share the prompt's pages, and
/// each has its own behind them.
int64_t generation_cache_bytes(const Llama& llama, int64_t prompt_tokens,
                               const GenerateOptions& options);

/// Error naming both amounts when these bytes do not fit into nine tenths of the memory that is
/// available. A model that is not on the CPU passes.
void check_generation_memory(const Llama& llama, int64_t prompt_tokens,
                             const GenerateOptions& options,
                             int64_t available = available_memory());

}  // namespace euromodal
