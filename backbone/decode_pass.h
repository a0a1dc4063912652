// decode_pass.h — the newest few rows of sequences through all blocks of a packed model on the CPU:
// one parallel region and one piece of memory for the whole pass, since between the products of a
// single row there is as little work as making a tensor takes. T rows, D width.
#pragma once
#include <span>

#include <ATen/core/Tensor.h>

#include "backbone/kv_cache.h"
#include "backbone/llama_block.h"

namespace euromodal {

/// Whether decode_pass() can: every linear packed (those of the same inputs alike), paged caches of
/// one form, at most kDecodeRows rows a sequence, x_TD in f32, bf16 or f16.
bool decode_pass_fits(const LlamaPassShared& shared, std::span<KvCache* const> caches,
                      const at::Tensor& x_TD);

/// x_TD [T, D], one segment and one cache for each sequence -> [T, D] before the final norm;
/// appends to the caches. The bits of LlamaCachedPass.
at::Tensor decode_pass(const LlamaPassShared& shared, std::span<KvCache* const> caches,
                       const at::Tensor& x_TD);

}  // namespace euromodal
