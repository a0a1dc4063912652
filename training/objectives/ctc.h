// ctc.h — a speech encoder learns to spell: feature rows, linear head over the blank and an
// alphabet, connectionist temporal classification (Graves et al. 2006). Makes small encoders from
// scratch.
#pragma once
#include "training/objective.h"

namespace euromodal {

/// `encoder` (model or random, for sound; `lora`, `checkpointing`), `merge_lora`, `alphabet` (file,
/// one character a line; the record's answer is what was said), `augment: {time_masks, time_width,
/// freq_masks, freq_width}` (SpecAugment, in frames and mel bins), `input_cache_mb`. Validation:
/// `cer` (greedy) and `exact`.
std::unique_ptr<Objective> make_ctc(const Config& config, uint64_t seed, bool deterministic);

}  // namespace euromodal
