// packer.h — which positions of a global batch go to which part, and the micro-batches of a part.
// Both are pure functions: the same on every rank, with any number of workers.
#pragma once
#include <cstdint>
#include <vector>

#include "multimodal/batch.h"

namespace euromodal {

/// Deals positions 0..costs.size()-1 to `parts` parts so that their sums of rows + quadratic ·
/// rows² are even (longest first, to the part with the least so far); equal costs are dealt round
/// robin. Positions ascend inside a part. `rows`: Dataset::cost of the sample at each position.
std::vector<std::vector<int64_t>> deal(const std::vector<double>& rows, int64_t parts,
                                       double quadratic);

struct PackOptions {
  bool pack = true;         // false: every sample a batch of its own
  int64_t max_tokens = 0;   // rows of a micro-batch; 0: no limit; a longer sample stands alone
  bool per_sample = false;  // Segments::per_sample
};

/// Cuts the examples of a part, in their order, into micro-batches.
std::vector<Batch> pack_part(std::vector<Example> examples, const PackOptions& options);

}  // namespace euromodal
