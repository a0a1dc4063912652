// checkpoint.h — a run's state between two steps, in a folder that is complete or absent:
//
//   step-00000200/parameters.safetensors   trainable parameters, fp32 master values
//   step-00000200/optimizer.safetensors    optimiser state by parameter name
//   step-00000200/average.safetensors      running average of the parameters, where there is one
//   step-00000200/state.json               step, identity of the run, hashes of the files, frozen
//                                          weights by hash, figures of the last validation
//   step-00000200/DONE
//
// Nothing in it depends on the number of ranks or on who held what (flat_buffer.h). Resumed runs go
// on bit for bit.
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
#include "training/step_guard.h"
#include "training/weight_average.h"

namespace euromodal {

/// What a checkpoint must share with the run that goes on from it.
struct RunIdentity {
  Json values;  // seed, batch, data fingerprint, ...: compared key by key
  std::map<std::string, std::string> frozen;  // name -> hash of type, shape and bytes
};

/// Hashes of the parameters that are not trained.
std::map<std::string, std::string> hash_frozen(const std::vector<NamedTensor>& parameters,
                                               const std::vector<NamedTensor>& trainable);

/// Everything of a run that changes from step to step.
struct RunParts {
  FlatBuffer& buffer;
  Optimizer& optimizer;
  StepGuard& guard;
  WeightAverage* average;  // null: none is kept
};

/// Their values after `step` steps: whole tensors on rank 0, none on the others.
struct RunState {
  int64_t step = 0, optimizer_steps = 0;
  std::vector<NamedTensor> parameters, optimizer, average;
  Json guard;
  Json figures = Json::object();  // of the validation after this step, where there was one
};
/// Every rank calls it. Tensors that rank 0 has whole are views: they change with the next step.
RunState gather_state(const RunParts& parts, int64_t step, const Json& figures, Collectives& world);
/// What its tensors take, without gathering them.
int64_t state_bytes(const RunParts& parts);
/// The same with tensors of its own.
RunState copy_of(RunState state);

std::filesystem::path checkpoint_folder(const std::filesystem::path& checkpoints, int64_t step);
/// Error naming the file that could not be written; then nothing is left of the folder.
void write_checkpoint(const std::filesystem::path& checkpoints, const RunIdentity& identity,
                      const RunState& state);
/// Every rank reads the files. Puts the state back and returns the number of steps done.
/// CheckpointError naming file, key or tensor: not complete, changed, of another run, other frozen
/// weights.
int64_t load_checkpoint(const std::filesystem::path& folder, const RunIdentity& identity,
                        const RunParts& parts);

struct CheckpointInfo {
  std::filesystem::path folder;
  int64_t step = 0;
};
/// Complete ones, oldest first.
std::vector<CheckpointInfo> complete_checkpoints(const std::filesystem::path& checkpoints);
/// The newest complete checkpoint, if there is one.
std::optional<std::filesystem::path> newest_checkpoint(const std::filesystem::path& checkpoints);

}  // namespace euromodal
