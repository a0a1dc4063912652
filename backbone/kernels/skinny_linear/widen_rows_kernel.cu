// widen_rows_kernel.cu — see widen_rows_kernel.h. A thread an octet of a row: neighbours write
// neighbouring 16 bytes (of f32 32) and read pieces of the same lines. Reference:
// skinny_weight_numbers.
#include "backbone/kernels/cuda/packs.h"
#include "backbone/kernels/skinny_linear/skinny_layout.h"
#include "backbone/kernels/skinny_linear/widen_rows_kernel.h"

namespace euromodal {
namespace {

constexpr int kThreads = 256;

struct WidenPlan {
  WidenRowsArgs a;
  int64_t octets, bytes, groups;  // of a row
};

template <DType kType>
EM_DEVICE float code_number(uint64_t piece, int e) {
  if constexpr (kType == DType::kInt4) {
    return static_cast<float>(piece >> (4 * e) & 15U);
  } else if constexpr (kType == DType::kInt8) {
    return static_cast<float>(static_cast<signed char>(piece >> (8 * e) & 0xffU));
  } else {
    __nv_fp8_e4m3 code;
    code.__x = static_cast<unsigned char>(piece >> (8 * e) & 0xffU);
    return to_float(code);
  }
}

template <DType kType, typename T>
__global__ void __launch_bounds__(kThreads) widen_kernel(const __grid_constant__ WidenPlan p) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= p.a.N * p.octets) return;
  const int64_t row = at / p.octets, k = at % p.octets * 8;
  const auto* from =
      static_cast<const unsigned char*>(p.a.codes) + row * p.bytes + skinny_byte(kType, k);
  uint64_t piece = 0;
  float scale = 0.0F, zero = 0.0F;
  if constexpr (kType == DType::kInt4) {
    piece = *reinterpret_cast<const uint32_t*>(from);
  } else {
    piece = *reinterpret_cast<const uint64_t*>(from);
  }
  if constexpr (kType == DType::kFp8E4M3) {
    scale = static_cast<const float*>(p.a.scale)[row];
  } else {
    const int64_t g = row * p.groups + k / p.a.group;
    scale = to_float(static_cast<const __half*>(p.a.scale)[g]);
    if constexpr (kType == DType::kInt4) {
      zero = p.a.zero != nullptr ? static_cast<const unsigned char*>(p.a.zero)[g] : 8.0F;
    } else {
      zero = p.a.zero != nullptr ? static_cast<const signed char*>(p.a.zero)[g] : 0.0F;
    }
  }
  Pack<T, 8> out;
#pragma unroll
  for (int e = 0; e < 8; ++e)
    out.v[e] = from_float<T>(scale * (code_number<kType>(piece, e) - zero));
  T* to = static_cast<T*>(p.a.out_NK) + row * p.a.K + k;
  if (p.a.K % 8 == 0) {
    constexpr int kWidth = kWide<T>;
#pragma unroll
    for (int v = 0; v < 8 / kWidth; ++v) {
      Pack<T, kWidth> part;
#pragma unroll
      for (int i = 0; i < kWidth; ++i) part.v[i] = out.v[v * kWidth + i];
      store_pack(to + v * kWidth, part);
    }
  } else {
    for (int e = 0; e < 8 && k + e < p.a.K; ++e) to[e] = out.v[e];
  }
}

template <DType kType>
cudaError_t widen_as(const WidenPlan& p, cudaStream_t stream) {
  const int64_t blocks = (p.a.N * p.octets + kThreads - 1) / kThreads;
  if (blocks > INT32_MAX) return cudaErrorInvalidValue;
  return for_kernel_dtype(p.a.out_type, [&](auto zero) {
    using T = decltype(zero);
    EM_LAUNCH((widen_kernel<kType, T>), static_cast<unsigned>(blocks), kThreads, 0, stream, p);
    return cudaGetLastError();
  });
}

}  // namespace

cudaError_t widen_rows(const WidenRowsArgs& a, cudaStream_t stream) noexcept {
  if (a.N == 0 || a.K == 0) return cudaSuccess;
  const bool fp8 = a.type == DType::kFp8E4M3;
  if (a.N < 0 || a.K < 0 || (!fp8 && a.group != 32 && a.group != 128)) return cudaErrorInvalidValue;
  const WidenPlan p{a, (a.K + 7) / 8, skinny_row_bytes(a.type, a.K),
                    fp8 ? 0 : skinny_groups(a.K, a.group)};
  switch (a.type) {
    case DType::kFp8E4M3:
      return widen_as<DType::kFp8E4M3>(p, stream);
    case DType::kInt8:
      return widen_as<DType::kInt8>(p, stream);
    case DType::kInt4:
      return widen_as<DType::kInt4>(p, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace euromodal
