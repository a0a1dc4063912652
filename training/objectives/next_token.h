// next_token.h — language modelling on the answers of conversations with media; the objective of
// adapters, of whole models and of a backbone from scratch.
#pragma once
#include "training/objective.h"

namespace euromodal {

/// `model` (multimodal/model.h), `label_smoothing`, `z_loss`, `loss_weight` and `kind_weights`
/// (labelled_rows.h), `distill` (distillation.h), `augment` (media_augment.h), `feature_cache_mb`
/// (features of frozen encoders), `input_cache_mb` (decoded media), `prefix_cache_mb` (frozen
/// blocks on the tokens before a sample's first medium; 0: those tokens run like all others).
std::unique_ptr<Objective> make_next_token(const Config& config, uint64_t seed, bool deterministic);

}  // namespace euromodal
