// device_decode.h — decoding through a device decoder (backbone/decoder.h): the device draws the
// tokens where it knows the rules, and the host reads them while the next step already runs; else
// the logits come to the host for every token.
#pragma once
#include <cstdint>
#include <functional>

#include "backbone/decoder.h"
#include "inference/decoding.h"
#include "inference/generator.h"

namespace euromodal {

/// Does the device know all rules that `options` ask for? (Not bias, banned n-grams, grammars,
/// typical sampling and log-probabilities.)
bool draws_on_device(const GenerateOptions& options);

/// Prompt rows prompt_emb_TD [T, D] in, `budget` new tokens at most; options.decoder is not null.
/// Tokens, finish reason, log-probabilities and timings as generate().
Generated decode_on_device(const at::Tensor& prompt_emb_TD, Sequence sequence, int64_t budget,
                           const GenerateOptions& options,
                           const std::function<void(int64_t)>& on_token);

}  // namespace euromodal
