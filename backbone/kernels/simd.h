// simd.h — what the CPU kernels share: clones of a function for wider vector units chosen at load
// time, an exponential that vectorises, and one switch over the floating dtypes.
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include <ATen/core/Tensor.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include "core/error.h"

// Compiled three times on x86-64, the best one is picked when the library is loaded; the program
// itself stays runnable on any x86-64. The resolvers run before a sanitizer is ready, hence not
// under one.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__)
#define EM_CPU_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define EM_CPU_CLONES
#endif

namespace euromodal {

/// The type sums run in: double for double, else float.
template <typename T>
using Acc = std::conditional_t<std::is_same_v<T, double>, double, float>;

/// e^x in float without a call, so that loops over it vectorise: 2^n times a polynomial on
/// [-ln2/2, ln2/2]; relative error below 2e-7. Below -87 the result is 0, above 88 it stays at
/// e^88.
[[gnu::always_inline]] inline float fast_exp(float x) {
  const float clamped = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
  constexpr float kRound = 12582912.0f;  // 1.5 · 2^23: adding it leaves the nearest integer
  const float shifted = clamped * 1.44269504088896341f + kRound;
  const float n = shifted - kRound;
  const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float y = (p * r) * r + r + 1.0f;
  const int32_t bits = (std::bit_cast<int32_t>(shifted) - 0x4B400000 + 127) << 23;
  const float result = y * std::bit_cast<float>(bits);
  return x < -87.0f ? 0.0f : result;
}
[[gnu::always_inline]] inline double fast_exp(double x) { return std::exp(x); }

/// The bits of `x` rounded to bf16 (nearest, ties to even; NaN: c10's), as c10 rounds but without
/// its branch, which keeps a loop from being vectorised.
[[gnu::always_inline]] inline uint16_t bf16_bits(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  const uint32_t nearest = (bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16;
  return static_cast<uint16_t>((bits & 0x7FFFFFFFU) > 0x7F800000U ? 0x7FC0U : nearest);
}

/// to[i] = x rounded to T, in a loop that vectorises.
template <typename T>
[[gnu::always_inline]] inline void put_rounded(T* to, int64_t i, Acc<T> x) {
  if constexpr (std::is_same_v<T, c10::BFloat16>) {
    to[i].x = bf16_bits(x);
  } else {
    to[i] = static_cast<T>(x);
  }
}

/// x as T holds it.
template <typename T>
[[gnu::always_inline]] inline Acc<T> rounded_to(Acc<T> x) {
  if constexpr (std::is_same_v<T, c10::BFloat16>) {
    return std::bit_cast<float>(static_cast<uint32_t>(bf16_bits(x)) << 16);
  } else {
    return static_cast<Acc<T>>(static_cast<T>(x));
  }
}

/// Calls f(T{}) with the C++ type of a floating dtype.
template <typename F>
void for_float_dtype(at::ScalarType dtype, const char* op, F&& f) {
  switch (dtype) {
    case at::kFloat:
      return f(float{});
    case at::kBFloat16:
      return f(c10::BFloat16{});
    case at::kHalf:
      return f(c10::Half{});
    case at::kDouble:
      return f(double{});
    default:
      throw Error("{}: dtype is {}, expected float32, bfloat16, float16 or float64", op,
                  c10::toString(dtype));
  }
}

}  // namespace euromodal
