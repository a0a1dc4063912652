// float8_model.cpp — see float8_model.h.
#include "backbone/float8_model.h"

#include <map>
#include <set>

#include "backbone/kernels/linear/float8_weight.h"
#include "core/error.h"

namespace euromodal {

void round_blocks_to_float8(TextModel& model) {
  std::map<const void*, at::Tensor> scales;  // by weight
  for (const LlamaBlock& block : model.llama->blocks()) {
    for (const Linear* linear : block.linears()) {
      Linear handle = *linear;
      handle.round_to_float8();
      scales[linear->weight_OI().unsafeGetTensorImpl()] = linear->scale_O();
    }
  }
  std::vector<NamedTensor> parameters;
  for (const NamedTensor& p : model.parameters) {
    parameters.push_back(p);
    const auto scale = scales.find(p.tensor.unsafeGetTensorImpl());
    if (scale != scales.end()) parameters.push_back({p.name + kFloat8ScaleSuffix, scale->second});
  }
  model.parameters = std::move(parameters);
}

std::vector<NamedTensor> plain_parameters(const TextModel& model) {
  std::set<const void*> scales;
  for (const Linear& linear : model.llama->linears())
    if (linear.scale_O().defined()) scales.insert(linear.scale_O().unsafeGetTensorImpl());
  std::vector<NamedTensor> out;
  for (const NamedTensor& p : model.parameters) {
    if (!scales.contains(p.tensor.unsafeGetTensorImpl())) {
      out.push_back(p);
    } else if (is_float8(out.back().tensor)) {  // not while a LoRA is merged into it
      // on the host, where all of them have room at once
      out.back().tensor =
          widen_float8(out.back().tensor.cpu(), p.tensor.cpu(), model.llama->dtype());
    }
  }
  return out;
}

}  // namespace euromodal
