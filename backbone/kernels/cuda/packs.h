// packs.h — N neighbouring elements as one access: 16 bytes where pointers and rows allow it, else
// single elements, by the same kernel body.
#pragma once
#include "backbone/kernels/cuda/device.h"
#include "backbone/kernels/cuda/dtype.h"

namespace euromodal {

template <typename T, int N>
struct alignas(N * sizeof(T)) Pack {
  T v[N];
};

template <int N, typename T>
EM_DEVICE Pack<T, N> load_pack(const T* p) {
  return *reinterpret_cast<const Pack<T, N>*>(p);
}
template <typename T, int N>
EM_DEVICE void store_pack(T* p, const Pack<T, N>& pack) {
  *reinterpret_cast<Pack<T, N>*>(p) = pack;
}

/// v rounded to T, as a float again: where the CPU's tensors are rounded in between.
template <typename T>
EM_DEVICE float rounded(float v) {
  return to_float(from_float<T>(v));
}

/// Elements of T in 16 bytes.
template <typename T>
constexpr int kWide = 16 / static_cast<int>(sizeof(T));

/// May `p`, and p + any multiple of `stride` elements, be accessed 16 bytes at a time?
template <typename T>
inline bool allows_wide(const T* p, int64_t stride = 0) {
  return reinterpret_cast<uintptr_t>(p) % 16 == 0 && stride % kWide<T> == 0;
}

/// Calls f with a value of the element type; cudaErrorInvalidValue for one that is not f32, bf16 or
/// f16.
template <typename F>
cudaError_t for_kernel_dtype(DType type, F&& f) {
  switch (type) {
    case DType::kF32:
      return f(float{});
    case DType::kBf16:
      return f(Bf16{});
    case DType::kF16:
      return f(__half{});
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace euromodal
