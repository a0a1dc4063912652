// identity.cpp — the identity of an encoder. By values in the order of the parameters, not by their
// names: a tower saved alone has other names than in its whole model.
#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include "core/files.h"
#include "encoders/encoder.h"

namespace euromodal {

std::string encoder_identity(const Encoder& encoder) {
  std::string text = encoder.settings();
  for (const NamedTensor& parameter : encoder.parameters()) {
    const at::Tensor tensor = parameter.tensor.detach().cpu().contiguous();
    text += fmt::format(";{}[{}]{}", c10::toString(tensor.scalar_type()),
                        fmt::join(tensor.sizes(), ","),
                        hash_hex(tensor.const_data_ptr(), tensor.nbytes()));
  }
  return hash_hex(text);
}

}  // namespace euromodal
