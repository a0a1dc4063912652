// gelu_kind.h — the forms of GELU, as transformers names them.
#pragma once

namespace euromodal {

enum class GeluKind {
  kGelu,       // gelu: x Φ(x), by erf
  kGeluTanh,   // gelu_pytorch_tanh, gelu_new
  kQuickGelu,  // quick_gelu: x sigmoid(1.702 x)
};

}  // namespace euromodal
