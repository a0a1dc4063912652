// memory.h — how much memory there is for keys and values, and the refusal of what cannot fit.
#pragma once
#include <cstdint>

#include "backbone/llama.h"

namespace euromodal {

/// Bytes that this process can still get: the machine's available memory, or what is left of its
/// control group's limit where that is less.
int64_t available_memory();

/// Bytes of keys and values of one position over all layers.
int64_t cache_bytes_per_token(const LlamaConfig& config, at::ScalarType dtype);

/// Error naming both amounts when `tokens` positions do not fit into nine tenths of what is
/// available.
void check_cache_memory(const LlamaConfig& config, at::ScalarType dtype, int64_t tokens);

}  // namespace euromodal
