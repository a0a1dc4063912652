// checkpoint.cpp — see checkpoint.h.
#include "training/checkpoint.h"

#include <algorithm>
#include <charconv>
#include <functional>
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
constexpr const char* kAverage = "average.safetensors";

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

/// Hands stored tensors on by name: put(slot, tensor); CheckpointError naming what is missing,
/// misshapen or too much.
void checkpoint_restore(const fs::path& file, const FlatBuffer& buffer,
                        const std::function<void(size_t, const at::Tensor&)>& put) {
  const std::string name = file.parent_path().string();
  std::map<std::string, at::Tensor> stored;
  for (NamedTensor& p : checkpoint_tensors(file)) stored.emplace(p.name, std::move(p.tensor));
  for (size_t s = 0; s < buffer.slots().size(); ++s) {
    const FlatSlot& slot = buffer.slots()[s];
    const auto it = stored.find(slot.name);
    check<CheckpointError>(it != stored.end(), "{}: the trainable tensor {} is missing", name,
                           slot.name);
    check<CheckpointError>(it->second.sizes() == at::IntArrayRef(slot.shape),
                           "{}: tensor {} has another shape", name, slot.name);
    put(s, it->second);
  }
  check<CheckpointError>(stored.size() == buffer.slots().size(),
                         "{}: {} tensors were trained then, {} are now", name, stored.size(),
                         buffer.slots().size());
}

/// Rank 0: the whole tensors; else nothing.
std::vector<NamedTensor> checkpoint_gather(const std::vector<OwnedTensor>& tensors,
                                           const FlatBuffer& buffer, Collectives& world) {
  std::vector<NamedTensor> out;
  for (const OwnedTensor& tensor : tensors) {
    const at::Tensor whole = buffer.gather(tensor, world);
    if (whole.defined()) out.push_back({tensor.name, whole});
  }
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

int64_t state_bytes(const RunParts& parts) {
  int64_t numbers = parts.buffer.size() * (parts.average != nullptr ? 2 : 1);
  for (const OwnedTensor& tensor : parts.optimizer.state())
    numbers += parts.buffer.slots()[static_cast<size_t>(tensor.slot)].count;
  return numbers * static_cast<int64_t>(sizeof(float));
}

RunState gather_state(const RunParts& parts, int64_t step, const Json& figures,
                      Collectives& world) {
  RunState out;
  out.step = step;
  out.optimizer_steps = parts.optimizer.steps();
  out.parameters = checkpoint_gather(parts.buffer.master(), parts.buffer, world);
  out.optimizer = checkpoint_gather(parts.optimizer.state(), parts.buffer, world);
  if (parts.average != nullptr)
    out.average = checkpoint_gather(parts.average->tensors(parts.buffer), parts.buffer, world);
  out.guard = parts.guard.state();
  out.figures = figures;
  return out;
}

RunState copy_of(RunState state) {
  const at::NoGradGuard no_grad;
  for (auto* tensors : {&state.parameters, &state.optimizer, &state.average}) {
    for (NamedTensor& tensor : *tensors) tensor.tensor = tensor.tensor.clone();
  }
  return state;
}

void write_checkpoint(const fs::path& checkpoints, const RunIdentity& identity,
                      const RunState& state) {
  fs::create_directories(checkpoints);
  AtomicFolder folder(checkpoint_folder(checkpoints, state.step));
  Json files = Json::object();
  const auto write = [&](const char* file, const std::vector<NamedTensor>& tensors) {
    save_safetensors(folder.path() / file, tensors);
    files[file] = checkpoint_file_hash(folder.path() / file);
  };
  write(kParameters, state.parameters);
  write(kOptimizer, state.optimizer);
  if (!state.average.empty()) write(kAverage, state.average);
  Json json;
  json["step"] = state.step;
  json["optimizer_steps"] = state.optimizer_steps;
  json["identity"] = identity.values;
  json["files"] = std::move(files);
  json["guard"] = state.guard;
  json["figures"] = state.figures;
  json["frozen"] = identity.frozen;
  write_text_atomic(folder.path() / "state.json", json.dump(1) + "\n");
  write_text_atomic(folder.path() / "DONE", "");
  folder.commit();
}

int64_t load_checkpoint(const fs::path& folder, const RunIdentity& identity,
                        const RunParts& parts) {
  const std::string name = folder.string();
  check<CheckpointError>(fs::is_directory(folder), "{}: there is no such checkpoint", name);
  check<CheckpointError>(fs::exists(folder / "DONE"),
                         "{}: is not complete (no DONE); give an older one, or --resume auto",
                         name);
  const Json state = read_json(folder / "state.json");
  const JsonView view(state, (folder / "state.json").string());
  std::vector<const char*> files = {kParameters, kOptimizer};
  if (parts.average != nullptr) files.push_back(kAverage);
  for (const char* file : files) {
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
  checkpoint_restore(folder / kParameters, parts.buffer, [&](size_t slot, const at::Tensor& whole) {
    parts.buffer.set_parameter(static_cast<int64_t>(slot), whole);
  });
  if (parts.average != nullptr) {
    const std::vector<OwnedTensor> average = parts.average->tensors(parts.buffer);
    checkpoint_restore(folder / kAverage, parts.buffer, [&](size_t slot, const at::Tensor& whole) {
      parts.buffer.put(average[slot], whole);
    });
  }
  parts.optimizer.load_state(checkpoint_tensors(folder / kOptimizer), view.i64("optimizer_steps"));
  parts.guard.load_state(view.object("guard"));
  return view.i64("step");
}

std::vector<CheckpointInfo> complete_checkpoints(const fs::path& checkpoints) {
  std::vector<CheckpointInfo> out;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(checkpoints, ignored)) {
    const std::string name = entry.path().filename().string();
    int64_t step = 0;
    const char* end = name.data() + name.size();
    if (!name.starts_with("step-") || !fs::exists(entry.path() / "DONE")) continue;
    if (std::from_chars(name.data() + 5, end, step).ptr != end) continue;  // a temporary name
    out.push_back({entry.path(), step});
  }
  std::sort(out.begin(), out.end(),
            [](const CheckpointInfo& a, const CheckpointInfo& b) { return a.step < b.step; });
  return out;
}

std::optional<fs::path> newest_checkpoint(const fs::path& checkpoints) {
  const auto all = complete_checkpoints(checkpoints);
  return all.empty() ? std::nullopt : std::optional(all.back().folder);
}

}  // namespace euromodal
