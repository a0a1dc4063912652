// packed_model.cpp — see packed_model.h.
#include "backbone/packed_model.h"

#include <algorithm>
#include <string>
#include <unordered_set>

#include "backbone/kernels/packed_linear/packed_weight.h"
#include "backbone/lora.h"
#include "core/error.h"
#include "core/files.h"
#include "core/json.h"

namespace euromodal {

namespace {

namespace fs = std::filesystem;

/// Those of all blocks and the head, also a tied one.
std::vector<Linear> all_linears(const Llama& llama) {
  std::vector<Linear> out = llama.linears();
  if (llama.config().tie_embeddings) out.push_back(llama.head());
  return out;
}

/// Files of a model folder that say nothing about how weights are stored.
bool goes_along(const fs::path& file) {
  const std::string name = file.filename().string();
  return name != "config.json" && file.extension() != ".safetensors" &&
         name != "model.safetensors.index.json" && file.extension() != ".bin" &&
         file.extension() != ".gguf" && file.extension() != ".pth";
}

}  // namespace

std::optional<PackedForm> packed_form(const Llama& llama) {
  const PackedWeight* packed = llama.linears().at(0).packed();
  return packed == nullptr ? std::nullopt : std::optional(packed->form);
}

void pack_weights(const Llama& llama, const PackedForm& form) {
  if (const auto there = packed_form(llama)) {
    check(*there == form, "the model's weights are packed as {} already, {} was asked for",
          packed_form_name(*there), packed_form_name(form));
    return;
  }
  merge_lora(llama.linears());
  // Large ones first: what is packed and what it is packed from stand side by side for a moment,
  // and the head does so best while little else is there.
  std::vector<Linear> linears = llama.linears();
  std::stable_sort(linears.begin(), linears.end(), [](const Linear& a, const Linear& b) {
    return a.inputs() * a.outputs() > b.inputs() * b.outputs();
  });
  for (Linear linear : linears)
    linear.pack(linear.name() == llama.head().name() ? head_form(form) : form);
  if (llama.config().tie_embeddings)
    Linear(llama.head()).use(pack_weight(llama.embedding_VD(), head_form(form)));
}

int64_t linear_bytes(const Llama& llama) {
  int64_t bytes = 0;
  for (const Linear& linear : all_linears(llama))
    bytes += linear.packed() ? linear.packed()->bytes()
                             : static_cast<int64_t>(linear.weight_OI().nbytes());
  return bytes;
}

void save_packed_model(const fs::path& source, const fs::path& out, const TextModel& model) {
  const auto form = packed_form(*model.llama);
  check(form.has_value(), "save_packed_model: the model's weights are not packed");
  AtomicFolder folder(out);
  for (const auto& entry : fs::directory_iterator(source)) {
    if (entry.is_regular_file() && goes_along(entry.path()))
      fs::copy_file(entry.path(), folder.path() / entry.path().filename());
  }
  Json config = read_json(source / "config.json");
  config["quantization_config"] = {{"quant_method", kPackedMethod},
                                   {"weights", packed_form_name(*form)}};
  write_text_atomic(folder.path() / "config.json", config.dump(1) + "\n");

  std::vector<NamedTensor> tensors;
  std::unordered_set<std::string> packed;
  for (const Linear& linear : all_linears(*model.llama)) {
    packed.insert(linear.name() + ".weight");
    tensors.push_back({linear.name() + kPackedSuffix, linear.packed()->blocks});
  }
  for (const NamedTensor& parameter : model.parameters) {
    const bool plain = parameter.tensor.scalar_type() != at::kByte &&
                       (parameter.tensor.numel() > 0 || packed.count(parameter.name) == 0);
    if (plain) tensors.push_back(parameter);
  }
  save_model_tensors(folder.path(), tensors);
  folder.commit();
}

}  // namespace euromodal
