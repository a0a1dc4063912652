// gelu_kernel.cu — see gelu_kernel.h. Reference: gelu_ref.cpp; formulas and constants as ATen's.
#include "backbone/kernels/cuda/elementwise.h"
#include "backbone/kernels/gelu/gelu_kernel.h"

namespace euromodal {
namespace {

constexpr float kRootHalf = 0.70710678118654752F;       // 1 / sqrt(2)
constexpr float kRootTwoOverPi = 0.79788456080286536F;  // sqrt(2 / pi)
constexpr float kDensity = 0.39894228040143268F;        // 1 / sqrt(2 pi)
constexpr float kCubic = 0.044715F, kQuick = 1.702F;

EM_DEVICE float sigmoid(float x) { return 1.0F / (1.0F + expf(-x)); }
EM_DEVICE float normal_below(float x) { return 0.5F * (1.0F + erff(x * kRootHalf)); }

template <typename T, GeluKind kKind>
struct Forward {
  EM_DEVICE void operator()(const float (&in)[1], float (&out)[1]) const {
    const float x = in[0];
    if constexpr (kKind == GeluKind::kGelu) {
      out[0] = x * normal_below(x);
    } else if constexpr (kKind == GeluKind::kGeluTanh) {
      out[0] = 0.5F * x * (1.0F + tanhf(kRootTwoOverPi * (x + kCubic * x * x * x)));
    } else {
      out[0] = x * rounded<T>(sigmoid(rounded<T>(x * kQuick)));
    }
  }
};

template <GeluKind kKind>
struct Backward {
  EM_DEVICE void operator()(const float (&in)[2], float (&out)[1]) const {
    const float x = in[0], dy = in[1];
    if constexpr (kKind == GeluKind::kGelu) {
      out[0] = dy * (normal_below(x) + x * kDensity * expf(-0.5F * x * x));
    } else if constexpr (kKind == GeluKind::kGeluTanh) {
      const float t = tanhf(kRootTwoOverPi * (x + kCubic * x * x * x));
      const float slope = kRootTwoOverPi * (1.0F + 3.0F * kCubic * x * x);
      out[0] = dy * (0.5F * (1.0F + t) + 0.5F * x * (1.0F - t * t) * slope);
    } else {
      const float s = sigmoid(kQuick * x);
      out[0] = dy * s * (1.0F + kQuick * x * (1.0F - s));
    }
  }
};

template <GeluKind kKind>
cudaError_t forward_as(const GeluArgs& a, cudaStream_t stream) {
  return for_kernel_dtype(a.type, [&](auto zero) {
    using T = decltype(zero);
    return launch_elementwise<Forward<T, kKind>>(
        ElementRows<T, 1, 1>{
            1, a.count, {static_cast<const T*>(a.x)}, {a.count}, {static_cast<T*>(a.y)}, {a.count}},
        stream);
  });
}

template <GeluKind kKind>
cudaError_t backward_as(const GeluArgs& a, cudaStream_t stream) {
  return for_kernel_dtype(a.type, [&](auto zero) {
    using T = decltype(zero);
    return launch_elementwise<Backward<kKind>>(
        ElementRows<T, 2, 1>{1,
                             a.count,
                             {static_cast<const T*>(a.x), static_cast<const T*>(a.dy)},
                             {a.count, a.count},
                             {static_cast<T*>(a.y)},
                             {a.count}},
        stream);
  });
}

}  // namespace

cudaError_t gelu_forward(const GeluArgs& args, cudaStream_t stream) noexcept {
  switch (args.kind) {
    case GeluKind::kGelu:
      return forward_as<GeluKind::kGelu>(args, stream);
    case GeluKind::kGeluTanh:
      return forward_as<GeluKind::kGeluTanh>(args, stream);
    case GeluKind::kQuickGelu:
      return forward_as<GeluKind::kQuickGelu>(args, stream);
  }
  return cudaErrorInvalidValue;
}

cudaError_t gelu_backward(const GeluArgs& args, cudaStream_t stream) noexcept {
  switch (args.kind) {
    case GeluKind::kGelu:
      return backward_as<GeluKind::kGelu>(args, stream);
    case GeluKind::kGeluTanh:
      return backward_as<GeluKind::kGeluTanh>(args, stream);
    case GeluKind::kQuickGelu:
      return backward_as<GeluKind::kQuickGelu>(args, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace euromodal
