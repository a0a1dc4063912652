// checkpoint.h — a run's state between two steps, in a folder that is complete or absent:
//
//   step-00000200/parameters.safetensors   trainable parameters, fp32 master values
//   step-00000200/optimizer.safetensors    optimiser state by parameter name
//   step-00000200/state.json               step, identity of the run, hashes of both files, frozen
//   weights by hash step-00000200/DONE
//
// Nothing in it depends on the number of ranks. Resumed runs go on bit for bit.
#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/json.h"
#include "training/flat_buffer.h"
#include "training/optimizer.h"

namespace euromodal {

/// What a checkpoint must share with the run that goes on from it.
struct RunIdentity {
  Json values;  // seed, batch, data fingerprint, ...: compared key by key
  std::map<std::string, std::string> frozen;  // name -> hash of type, shape and bytes
};

/// Hashes of the parameters that are not trained.
std::map<std::string, std::string> hash_frozen(const std::vector<NamedTensor>& parameters,
                                               const std::vector<NamedTensor>& trainable);

std::filesystem::path checkpoint_folder(const std::filesystem::path& checkpoints, int64_t step);
void save_checkpoint(const std::filesystem::path& checkpoints, int64_t step,
                     const RunIdentity& identity, const FlatBuffer& buffer,
                     const Optimizer& optimizer);
/// Puts the state back and returns the number of steps done. CheckpointError naming file, key or
/// tensor: not complete, changed, of another run, other frozen weights.
int64_t load_checkpoint(const std::filesystem::path& folder, const RunIdentity& identity,
                        FlatBuffer& buffer, Optimizer& optimizer);

/// The newest complete checkpoint, if there is one.
std::optional<std::filesystem::path> newest_checkpoint(const std::filesystem::path& checkpoints);
/// Removes unfinished folders, and the oldest complete ones beyond `keep`.
void prune_checkpoints(const std::filesystem::path& checkpoints, int64_t keep);

}  // namespace euromodal
