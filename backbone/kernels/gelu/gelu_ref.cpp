// gelu_ref.cpp — see gelu_ref.h. Quick GELU is three rounded operators, as in transformers.
#include "backbone/kernels/gelu/gelu_ref.h"

#include <ATen/ATen.h>

namespace euromodal {

at::Tensor gelu_ref(const at::Tensor& x, GeluKind kind) {
  switch (kind) {
    case GeluKind::kGelu:
      return at::gelu(x, "none");
    case GeluKind::kGeluTanh:
      return at::gelu(x, "tanh");
    case GeluKind::kQuickGelu:
      break;
  }
  return x * at::sigmoid(x * 1.702);
}

}  // namespace euromodal
