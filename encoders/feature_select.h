// feature_select.h — from `--features` to the number of blocks to run.
#pragma once
#include "encoders/encoder.h"

namespace euromodal {

/// Which of the hidden states 0 .. layers is asked for (negative indices from the end); `last` and
/// `pooled` need all blocks. UsageError naming --features and the value when there is no such
/// layer.
int64_t select_blocks(const FeatureSelect& select, int64_t layers);

/// UsageError: this encoder has no pooled output.
[[noreturn]] void refuse_pooled(const std::string& encoder);

}  // namespace euromodal
