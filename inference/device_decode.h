// device_decode.h — decoding through a device decoder (backbone/decoder.h): the device draws the
// tokens where it knows the rules, and the host reads them while the next step already runs; else
// the logits come to the host for every token. D width.
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

/// Tells the decoder how a slot's tokens are drawn, as far as it knows the rules. `prompt`: ids
/// that count as seen.
void set_device_rules(Decoder& decoder, int64_t slot, const GenerateOptions& options,
                      const std::vector<int64_t>& prompt);

/// Takes pages for a sequence of up to `longest` positions; where too few are free, kept sequences
/// are given up for them, the one used least recently first. Error when they do not suffice.
void reserve_pages(Decoder& decoder, KeptSequences* kept, KvCache& cache, int64_t longest);

/// Goes on from a prompt in `cache` (of options.decoder, which is not null), whose last hidden row
/// is hidden_1D [1, D], for `budget` new tokens at most. Tokens, finish reason, log-probabilities
/// and the time of decoding go into `out`, the time until the first token to that of the prompt.
/// -> the sequence, as far as the model has read it.
KvCache decode_on_device(KvCache cache, const at::Tensor& hidden_1D, Sequence sequence,
                         int64_t budget, const GenerateOptions& options,
                         const std::function<void(int64_t)>& on_token, Generated& out);

}  // namespace euromodal
