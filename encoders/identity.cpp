// identity.cpp — the identity of an encoder. By values in the order of the parameters and linears,
// not by their names: a tower saved alone has other names than in its whole model.
#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include "core/files.h"
#include "encoders/encoder.h"

namespace euromodal {

std::string encoder_identity(const Encoder& encoder) {
  std::string text = encoder.settings();
  const auto add = [&](const at::Tensor& parameter) {
    const at::Tensor tensor = parameter.detach().cpu().contiguous();
    text += fmt::format(";{}[{}]{}", c10::toString(tensor.scalar_type()),
                        fmt::join(tensor.sizes(), ","),
                        hash_hex(tensor.const_data_ptr(), tensor.nbytes()));
  };
  for (const NamedTensor& parameter : encoder.parameters()) add(parameter.tensor);
  const std::vector<Linear> linears = encoder.linears();
  for (size_t i = 0; i < linears.size(); ++i) {
    const Lora* lora = linears[i].lora();
    if (lora == nullptr) continue;
    text += fmt::format(";lora {} {}", i, lora->scale());
    add(lora->a_RI);
    add(lora->b_OR);
  }
  return hash_hex(text);
}

}  // namespace euromodal
