// checkpointing.h — how much of the activations of a stack of blocks is kept for the backward pass,
// and how much is computed again there.
#pragma once
#include <cstdint>
#include <string>

#include "core/config.h"

namespace euromodal {

struct Checkpointing {
  enum class Kind {
    kNone,
    kMlp,    // a feed-forward part keeps its input only: the largest saving for its cost
    kLayers  // `every` blocks keep the input of the first only
  } kind = Kind::kNone;
  int64_t every = 1;  // kLayers

  /// The key `checkpointing` of `config`: none (also when missing), mlp, layer, or "every K" with K
  /// of at least 1 ("every 1" is layer). ConfigError otherwise.
  static Checkpointing parse(const Config& config);
};

}  // namespace euromodal
