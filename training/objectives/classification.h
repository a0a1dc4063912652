// classification.h — an encoder learns to tell classes apart: feature rows, mean over an item's
// rows (class tokens left out), linear head. Makes small encoders from scratch.
#pragma once
#include "training/objective.h"

namespace euromodal {

/// `encoder` (model or random; `lora`, `checkpointing`), `merge_lora`, `classes` (file, one label a
/// line; a record's `label` is one of them), `augment: {brightness, noise}` (pictures and clips),
/// `label_smoothing`, `input_cache_mb`.
std::unique_ptr<Objective> make_classification(const Config& config, uint64_t seed,
                                               bool deterministic);

}  // namespace euromodal
