// kv_rows.cpp — see kv_rows.h.
#include "backbone/kernels/decode_attention/kv_rows.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "backbone/kernels/checks.h"
#include "backbone/kernels/simd.h"

namespace euromodal {

namespace {

/// Calls f(T{}) with the C++ type of keys and values outside a page.
template <typename F>
void for_kv_dtype(at::ScalarType dtype, const char* op, F&& f) {
  switch (dtype) {
    case at::kFloat:
      return f(float{});
    case at::kBFloat16:
      return f(c10::BFloat16{});
    case at::kHalf:
      return f(c10::Half{});
    default:
      throw Error("{}: dtype is {}, expected float32, bfloat16 or float16", op,
                  c10::toString(dtype));
  }
}

template <typename T>
void quantize_row(const T* x, int64_t N, int64_t width, int8_t* codes, float* scale) {
  float largest = 0.0F;
  bool finite = true;
  for (int64_t n = 0; n < N; ++n) {
    const float value = std::abs(static_cast<float>(x[n]));
    finite = finite && value <= std::numeric_limits<float>::max();
    largest = value > largest ? value : largest;
  }
  std::memset(codes, 0, static_cast<size_t>(width));
  *scale = finite ? largest / 127.0F : std::numeric_limits<float>::quiet_NaN();
  if (!finite || largest == 0.0F) return;
  for (int64_t n = 0; n < N; ++n)
    codes[n] = static_cast<int8_t>(std::nearbyint(static_cast<float>(x[n]) * (127.0F / largest)));
}

/// Rows of one head. `scales`: of its first position; null but for int8.
template <typename T>
void store_row(const T* x, int64_t N, const KvLayout& layout, uint8_t* row, uint8_t* scale) {
  if (layout.type == KvType::kInt8) {
    float value = 0.0F;
    quantize_row(x, N, layout.width(), reinterpret_cast<int8_t*>(row), &value);
    std::memcpy(scale, &value, sizeof(value));
    return;
  }
  const auto bytes = static_cast<size_t>(N) * sizeof(T);
  std::memcpy(row, x, bytes);
  std::memset(row + bytes, 0, static_cast<size_t>(layout.row_bytes()) - bytes);
}

template <typename T>
void load_row(const uint8_t* row, const uint8_t* scale, const KvLayout& layout, T* x) {
  const int64_t N = layout.head_dim;
  if (layout.type == KvType::kInt8) {
    float value = 0.0F;
    std::memcpy(&value, scale, sizeof(value));
    const auto* codes = reinterpret_cast<const int8_t*>(row);
    for (int64_t n = 0; n < N; ++n) x[n] = static_cast<T>(static_cast<float>(codes[n]) * value);
    return;
  }
  std::memcpy(x, row, static_cast<size_t>(N) * sizeof(T));
}

int64_t kv_grain(const KvLayout& layout, int64_t rows) {  // heads that are worth a thread
  return std::max<int64_t>(1, 65536 / std::max<int64_t>(1, 2 * rows * layout.head_dim));
}

}  // namespace

KvType kv_type_of(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat:
      return KvType::kF32;
    case at::kBFloat16:
      return KvType::kBf16;
    case at::kHalf:
      return KvType::kF16;
    default:
      throw Error("KvCache: dtype is {}, expected float32, bfloat16 or float16",
                  c10::toString(dtype));
  }
}

template <typename T>
void store_kv_row(const KvLayout& layout, int64_t layer, int64_t head, uint8_t* page, int64_t at,
                  const T* k_N, const T* v_N) {
  const int64_t N = layout.head_dim;
  store_row(k_N, N, layout, page + layout.keys_at(layer, head) + at * layout.row_bytes(),
            page + layout.key_scales_at(layer, head) + 4 * at);
  store_row(v_N, N, layout, page + layout.values_at(layer, head) + at * layout.row_bytes(),
            page + layout.value_scales_at(layer, head) + 4 * at);
}
template void store_kv_row(const KvLayout&, int64_t, int64_t, uint8_t*, int64_t, const float*,
                           const float*);
template void store_kv_row(const KvLayout&, int64_t, int64_t, uint8_t*, int64_t,
                           const c10::BFloat16*, const c10::BFloat16*);
template void store_kv_row(const KvLayout&, int64_t, int64_t, uint8_t*, int64_t, const c10::Half*,
                           const c10::Half*);

void store_kv_rows(const KvLayout& layout, int64_t layer, std::span<uint8_t* const> pages,
                   int64_t begin, const at::Tensor& k_TKN, const at::Tensor& v_TKN) {
  const int64_t T = k_TKN.size(0), K = layout.kv_heads, N = layout.head_dim;
  check_shape(k_TKN, {-1, K, N}, "store_kv_rows", "k_TKN");
  check_shape(v_TKN, {T, K, N}, "store_kv_rows", "v_TKN");
  check_like(v_TKN, k_TKN, "store_kv_rows", "v_TKN");
  check(layout.type == KvType::kInt8 || layout.type == kv_type_of(k_TKN.scalar_type()),
        "store_kv_rows: the cache does not hold {}", c10::toString(k_TKN.scalar_type()));
  const at::Tensor k = k_TKN.stride(2) == 1 ? k_TKN : k_TKN.contiguous(),
                   v = v_TKN.stride(2) == 1 ? v_TKN : v_TKN.contiguous();
  for_kv_dtype(k.scalar_type(), "store_kv_rows", [&](auto zero) {
    using X = decltype(zero);
    at::parallel_for(0, K, kv_grain(layout, T), [&](int64_t first, int64_t last) {
      for (int64_t head = first; head < last; ++head) {
        const X* const k_head = k.const_data_ptr<X>() + head * k.stride(1);
        const X* const v_head = v.const_data_ptr<X>() + head * v.stride(1);
        for (int64_t t = 0; t < T; ++t) {
          const int64_t position = begin + t;
          store_kv_row(layout, layer, head, pages[static_cast<size_t>(position / kPagePositions)],
                       position % kPagePositions, k_head + t * k.stride(0),
                       v_head + t * v.stride(0));
        }
      }
    });
  });
}

std::pair<at::Tensor, at::Tensor> load_kv_rows(const KvLayout& layout, int64_t layer,
                                               std::span<const uint8_t* const> pages,
                                               int64_t length, at::ScalarType dtype) {
  const int64_t K = layout.kv_heads, N = layout.head_dim;
  at::Tensor k_LKN = at::empty({length, K, N}, dtype), v_LKN = at::empty({length, K, N}, dtype);
  if (layout.type != KvType::kInt8 && layout.type != kv_type_of(dtype)) {
    const at::ScalarType stored = layout.type == KvType::kF32    ? at::kFloat
                                  : layout.type == KvType::kBf16 ? at::kBFloat16
                                                                 : at::kHalf;
    const auto [k, v] = load_kv_rows(layout, layer, pages, length, stored);
    return {k_LKN.copy_(k), v_LKN.copy_(v)};
  }
  for_kv_dtype(dtype, "load_kv_rows", [&](auto zero) {
    using X = decltype(zero);
    X* const k = k_LKN.mutable_data_ptr<X>();
    X* const v = v_LKN.mutable_data_ptr<X>();
    at::parallel_for(0, K, kv_grain(layout, length), [&](int64_t first, int64_t last) {
      for (int64_t head = first; head < last; ++head) {
        for (int64_t l = 0; l < length; ++l) {
          const uint8_t* page = pages[static_cast<size_t>(l / kPagePositions)];
          const int64_t at = l % kPagePositions, to = (l * K + head) * N;
          load_row(page + layout.keys_at(layer, head) + at * layout.row_bytes(),
                   page + layout.key_scales_at(layer, head) + 4 * at, layout, k + to);
          load_row(page + layout.values_at(layer, head) + at * layout.row_bytes(),
                   page + layout.value_scales_at(layer, head) + 4 * at, layout, v + to);
        }
      }
    });
  });
  return {k_LKN, v_LKN};
}

void copy_kv_page(const KvLayout& layout, const uint8_t* from, uint8_t* to, int64_t positions) {
  const auto copy = [&](int64_t at, int64_t bytes) {
    std::memcpy(to + at, from + at, static_cast<size_t>(bytes));
  };
  for (int64_t layer = 0; layer < layout.layers; ++layer) {
    for (int64_t head = 0; head < layout.kv_heads; ++head) {
      copy(layout.keys_at(layer, head), positions * layout.row_bytes());
      copy(layout.values_at(layer, head), positions * layout.row_bytes());
      if (layout.type != KvType::kInt8) continue;
      copy(layout.key_scales_at(layer, head), 4 * positions);
      copy(layout.value_scales_at(layer, head), 4 * positions);
    }
  }
}

}  // namespace euromodal
