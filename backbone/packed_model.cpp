// packed_model.cpp — see packed_model.h.
#include "backbone/packed_model.h"

#include <algorithm>
#include <map>
#include <string>
#include <unordered_set>

#include "backbone/kernels/packed_linear/packed_weight.h"
#include "backbone/lora.h"
#include "backbone/weights/gguf.h"
#include "backbone/weights/tokenizer/gguf_tokenizer.h"
#include "core/error.h"
#include "core/files.h"
#include "core/json.h"

namespace euromodal {

namespace {

namespace fs = std::filesystem;

/// Files of a model folder that say nothing about how weights are stored.
bool goes_along(const fs::path& file) {
  const std::string name = file.filename().string();
  return name != "config.json" && file.extension() != ".safetensors" &&
         name != "model.safetensors.index.json" && file.extension() != ".bin" &&
         file.extension() != ".gguf" && file.extension() != ".pth";
}

/// Its tokenizer and template, where it holds them, as a model folder has them.
void write_gguf_files(const fs::path& gguf, const fs::path& to) {
  const GgufFile file(gguf);
  if (!gguf_has_tokenizer(file.header())) return;
  const GgufTokenizerFiles files = gguf_tokenizer_files(file.header());
  write_text_atomic(to / "tokenizer.json", files.tokenizer.dump() + "\n");
  write_text_atomic(to / "tokenizer_config.json", files.config.dump(1) + "\n");
}

}  // namespace

std::vector<Linear> all_linears(const Llama& llama) {
  std::vector<Linear> out = llama.linears();
  if (llama.config().tie_embeddings) out.push_back(llama.head());
  return out;
}

std::optional<PackedForm> packed_form(const Llama& llama) {
  for (const Linear& linear : all_linears(llama)) {
    if (linear.packed()) return linear.packed()->form;
  }
  return std::nullopt;
}

void pack_weights(const Llama& llama, const PackedForm& form) {
  const auto there = packed_form(llama);
  check(!there || *there == form, "the model's weights are packed as {} already, {} was asked for",
        packed_form_name(there.value_or(form)), packed_form_name(form));
  pack_plain_weights(llama, form);
}

void pack_plain_weights(const Llama& llama, const PackedForm& form) {
  merge_lora(llama.linears());
  // Large ones first: what is packed and what it is packed from stand side by side for a moment,
  // and the head does so best while little else is there.
  std::vector<Linear> linears = llama.linears();
  std::stable_sort(linears.begin(), linears.end(), [](const Linear& a, const Linear& b) {
    return a.inputs() * a.outputs() > b.inputs() * b.outputs();
  });
  for (Linear linear : linears) {
    if (!linear.packed()) linear.pack(linear.name() == kHeadName ? head_form(form) : form);
  }
  if (llama.config().tie_embeddings && !llama.head().packed())
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
  std::map<std::string, PackedForm> others;
  for (const Linear& linear : all_linears(*model.llama)) {
    check(linear.packed() != nullptr, "save_packed_model: {} is not packed", linear.name());
    const PackedForm own = linear.packed()->form;
    if (own != (linear.name() == kHeadName ? head_form(*form) : *form)) others[linear.name()] = own;
  }
  AtomicFolder folder(out);
  const auto gguf = find_gguf(source);
  if (gguf) {
    write_gguf_files(*gguf, folder.path());
  } else {
    for (const auto& entry : fs::directory_iterator(source)) {
      if (entry.is_regular_file() && goes_along(entry.path()))
        fs::copy_file(entry.path(), folder.path() / entry.path().filename());
    }
  }
  Json config = gguf ? model.config.to_json() : read_json(source / "config.json");
  config["quantization_config"] = packed_config(*form, others);
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
