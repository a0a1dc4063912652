// checkpoint.cpp — see checkpoint.h.
#include "training/checkpoint.h"

#include <algorithm>
#include <set>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "core/files.h"
#include "core/log.h"

namespace euromodal {
namespace {

namespace fs = std::filesystem;

constexpr const char* kParameters = "parameters.safetensors";
constexpr const char* kOptimizer = "optimizer.safetensors";

std::string checkpoint_file_hash(const fs::path& file) {
  const MappedFile mapped(file);
  return hash_hex(mapped.text());
}

std::vector<NamedTensor> checkpoint_tensors(const fs::path& file) {
  const SafetensorsFile stored(file);
  std::vector<NamedTensor> out;
  for (const TensorInfo& info : stored.infos()) out.push_back({info.name, stored.tensor(info)});
  return out;
}

/// Complete folders, oldest first.
std::vector<fs::path> checkpoint_complete(const fs::path& checkpoints) {
  std::vector<fs::path> out;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(checkpoints, ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("step-") && name.find(".tmp-") == std::string::npos &&
        fs::exists(entry.path() / "DONE"))
      out.push_back(entry.path());
  }
  std::sort(out.begin(), out.end());
  return out;
}

}  // namespace

std::map<std::string, std::string> hash_frozen(const std::vector<NamedTensor>& parameters,
                                               const std::vector<NamedTensor>& trainable) {
  std::set<const void*> trained;
  for (const NamedTensor& p : trainable) trained.insert(p.tensor.unsafeGetTensorImpl());
  std::map<std::string, std::string> out;
  for (const NamedTensor& p : parameters) {
    if (trained.contains(p.tensor.unsafeGetTensorImpl())) continue;
    const at::Tensor host = p.tensor.detach().cpu().contiguous();
    out[p.name] = hash_hex(fmt::format("{} {} {}", c10::toString(host.scalar_type()),
                                       fmt::join(host.sizes().vec(), "x"),
                                       hash_hex(host.const_data_ptr(), host.nbytes())));
  }
  return out;
}

fs::path checkpoint_folder(const fs::path& checkpoints, int64_t step) {
  return checkpoints / fmt::format("step-{:08}", step);
}

void save_checkpoint(const fs::path& checkpoints, int64_t step, const RunIdentity& identity,
                     const FlatBuffer& buffer, const Optimizer& optimizer) {
  fs::create_directories(checkpoints);
  AtomicFolder folder(checkpoint_folder(checkpoints, step));
  std::vector<NamedTensor> parameters;
  for (const FlatSlot& slot : buffer.slots())
    parameters.push_back({slot.name, buffer.master_of(slot)});
  save_safetensors(folder.path() / kParameters, parameters);
  save_safetensors(folder.path() / kOptimizer, optimizer.state());
  Json state;
  state["step"] = step;
  state["optimizer_steps"] = optimizer.steps();
  state["identity"] = identity.values;
  state["files"] = {{kParameters, checkpoint_file_hash(folder.path() / kParameters)},
                    {kOptimizer, checkpoint_file_hash(folder.path() / kOptimizer)}};
  state["frozen"] = identity.frozen;
  write_text_atomic(folder.path() / "state.json", state.dump(1) + "\n");
  write_text_atomic(folder.path() / "DONE", "");
  folder.commit();
}

int64_t load_checkpoint(const fs::path& folder, const RunIdentity& identity, FlatBuffer& buffer,
                        Optimizer& optimizer) {
  const std::string name = folder.string();
  check<CheckpointError>(fs::is_directory(folder), "{}: there is no such checkpoint", name);
  check<CheckpointError>(fs::exists(folder / "DONE"),
                         "{}: is not complete (no DONE); give an older one, or --resume auto",
                         name);
  const Json state = read_json(folder / "state.json");
  const JsonView view(state, (folder / "state.json").string());
  for (const char* file : {kParameters, kOptimizer}) {
    check<CheckpointError>(fs::exists(folder / file), "{}: {} is missing", name, file);
    check<CheckpointError>(checkpoint_file_hash(folder / file) == view.object("files").str(file),
                           "{}: {} was changed or cut since it was written (hash differs)", name,
                           file);
  }
  const JsonView stored = view.object("identity");
  for (const auto& [key, value] : identity.values.items()) {
    check<CheckpointError>(stored.has(key) && stored.raw().at(key) == value,
                           "{}: comes from another run: {} was {} and is now {}", name, key,
                           stored.has(key) ? stored.raw().at(key).dump() : "nothing", value.dump());
  }
  const JsonView frozen = view.object("frozen");
  for (const auto& [tensor, hash] : identity.frozen) {
    check<CheckpointError>(frozen.has(tensor),
                           "{}: does not know the frozen tensor {}; was it trained then?", name,
                           tensor);
    check<CheckpointError>(frozen.str(tensor) == hash,
                           "{}: the frozen tensor {} has other values now than when the run began",
                           name, tensor);
  }
  check<CheckpointError>(frozen.raw().size() == identity.frozen.size(),
                         "{}: {} tensors were frozen then, {} are now", name, frozen.raw().size(),
                         identity.frozen.size());

  const at::NoGradGuard no_grad;
  std::map<std::string, at::Tensor> parameters;
  for (NamedTensor& p : checkpoint_tensors(folder / kParameters))
    parameters.emplace(p.name, std::move(p.tensor));
  for (const FlatSlot& slot : buffer.slots()) {
    const auto it = parameters.find(slot.name);
    check<CheckpointError>(it != parameters.end(), "{}: the trainable tensor {} is missing", name,
                           slot.name);
    check<CheckpointError>(it->second.sizes() == at::IntArrayRef(slot.shape),
                           "{}: tensor {} has another shape", name, slot.name);
    buffer.master_of(slot).copy_(it->second);
  }
  check<CheckpointError>(parameters.size() == buffer.slots().size(),
                         "{}: {} tensors were trained then, {} are now", name, parameters.size(),
                         buffer.slots().size());
  buffer.publish();
  optimizer.load_state(checkpoint_tensors(folder / kOptimizer), view.i64("optimizer_steps"));
  return view.i64("step");
}

std::optional<fs::path> newest_checkpoint(const fs::path& checkpoints) {
  const auto all = checkpoint_complete(checkpoints);
  return all.empty() ? std::nullopt : std::optional(all.back());
}

void prune_checkpoints(const fs::path& checkpoints, int64_t keep) {
  std::error_code ignored;
  const auto complete = checkpoint_complete(checkpoints);
  std::vector<fs::path> doomed(
      complete.begin(),
      complete.end() - std::min<int64_t>(keep, static_cast<int64_t>(complete.size())));
  for (const auto& entry : fs::directory_iterator(checkpoints, ignored)) {
    if (std::find(complete.begin(), complete.end(), entry.path()) == complete.end())
      doomed.push_back(entry.path());
  }
  for (const fs::path& folder : doomed) fs::remove_all(folder, ignored);
}

}  // namespace euromodal
