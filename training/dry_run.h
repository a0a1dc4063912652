// dry_run.h — two steps of a run as one rank of many, without the others (dist/counting.h): what it
// sends and what it holds, before a cluster is asked for. Writes nothing.
#pragma once
#include <filesystem>
#include <optional>

#include "core/config.h"
#include "core/json.h"

namespace euromodal {

/// As rank 0 of `ranks`, which has the most parts of a batch:
///   ranks, steps, samples_per_step     of the run
///   samples, tokens                    of this rank in the two steps
///   parameters, trainable              numbers
///   bytes: {parameters, master, gradients, optimizer}   held by this rank; gradients: at most;
///                                      master: beside the parameters, where those are not fp32
///   shard_frozen: {shared, mapped, saved_per_rank: {"2": ..., "4": ...}}   where the run has
///                                      parallel.shard_frozen: frozen bytes that a node holds once
///                                      in memory or in mapped files; less of `parameters` on
///                                      nodes of so many ranks
///   shard_frozen: {blocks, on_each_gpu: {"2": ..., "4": ...}}   where run.device is a GPU: frozen
///                                      bytes of the backbone's blocks, and a rank's slice
///   sent: {"step 0": {operation: {calls, bytes}}, "step 1": ...}
/// Steps count alike but for the first, which also learns the order of the buckets.
/// `model`: where the model is left as it starts, for a stage that begins with it.
Json dry_run(const Config& config, int ranks,
             const std::optional<std::filesystem::path>& model = std::nullopt);

}  // namespace euromodal
