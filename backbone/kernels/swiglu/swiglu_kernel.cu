// swiglu_kernel.cu — see swiglu_kernel.h. Reference: swiglu_ref.cpp; formulas: swiglu.cpp.
#include "backbone/kernels/cuda/elementwise.h"
#include "backbone/kernels/swiglu/swiglu_kernel.h"

namespace euromodal {
namespace {

template <typename T>
struct SwigluForward {
  EM_DEVICE void operator()(const float (&in)[2], float (&out)[1]) const {
    out[0] = rounded<T>(in[0] / (1.0F + expf(-in[0]))) * in[1];
  }
};

struct SwigluBackward {
  EM_DEVICE void operator()(const float (&in)[3], float (&out)[2]) const {
    const float dy = in[0], gate = in[1], up = in[2];
    const float sigmoid = 1.0F / (1.0F + expf(-gate));
    out[0] = dy * up * sigmoid * (1.0F + gate * (1.0F - sigmoid));
    out[1] = dy * (gate * sigmoid);
  }
};

}  // namespace

cudaError_t swiglu_forward(const SwigluForwardArgs& a, cudaStream_t stream) noexcept {
  return for_kernel_dtype(a.type, [&](auto zero) {
    using T = decltype(zero);
    return launch_elementwise<SwigluForward<T>>(
        ElementRows<T, 2, 1>{a.rows,
                             a.width,
                             {static_cast<const T*>(a.gate_TF), static_cast<const T*>(a.up_TF)},
                             {a.gate_stride, a.up_stride},
                             {static_cast<T*>(a.y_TF)},
                             {a.y_stride}},
        stream);
  });
}

cudaError_t swiglu_backward(const SwigluBackwardArgs& a, cudaStream_t stream) noexcept {
  return for_kernel_dtype(a.type, [&](auto zero) {
    using T = decltype(zero);
    return launch_elementwise<SwigluBackward>(
        ElementRows<T, 3, 2>{a.rows,
                             a.width,
                             {static_cast<const T*>(a.dy_TF), static_cast<const T*>(a.gate_TF),
                              static_cast<const T*>(a.up_TF)},
                             {a.dy_stride, a.gate_stride, a.up_stride},
                             {static_cast<T*>(a.dgate_TF), static_cast<T*>(a.dup_TF)},
                             {a.dgate_stride, a.dup_stride}},
        stream);
  });
}

}  // namespace euromodal
