// kv_rows.cpp — see kv_rows.h.
#include "backbone/kernels/decode_attention/kv_rows.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "backbone/kernels/checks.h"
#include "backbone/kernels/largest_size.h"
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

/// Codes of kValueColumns numbers, of which `count` are there; the others are 0.
template <typename T>
[[gnu::always_inline]] inline void round_codes(const T* x, int64_t count, float factor,
                                               int8_t* codes) {
  std::memset(codes, 0, kValueColumns);
#pragma omp simd
  for (int64_t n = 0; n < count; ++n)
    codes[n] = static_cast<int8_t>(
        static_cast<int32_t>(std::nearbyint(static_cast<float>(x[n]) * factor)));
}

#define EM_KV_CODES(T)                                                                  \
  EM_CPU_CLONES float kv_largest(const T* x, int64_t N) { return largest_size(x, N); }  \
  EM_CPU_CLONES void kv_codes(const T* x, int64_t count, float factor, int8_t* codes) { \
    round_codes(x, count, factor, codes);                                               \
  }
EM_KV_CODES(float)
EM_KV_CODES(c10::BFloat16)
EM_KV_CODES(c10::Half)
#undef EM_KV_CODES

enum class KvRows { kKeys, kValues };

constexpr int64_t code_at(KvRows which, int64_t at, int64_t n) {
  return which == KvRows::kKeys ? key_code_at(at, n) : value_code_at(at, n);
}
constexpr int32_t code_zero(KvRows which) { return which == KvRows::kKeys ? kKeyZero : 0; }

/// Row `at` of a head's keys or values.
template <typename T>
void store_row(KvRows which, const T* x, const KvLayout& layout, uint8_t* rows, float* scales,
               int64_t at) {
  const int64_t N = layout.head_dim, W = layout.width();
  if (layout.type == KvType::kInt8) {
    const float largest = kv_largest(x, N);
    const float factor = 127.0F / largest;
    scales[at] = largest / 127.0F;
    for (int64_t first = 0; first < W; first += kValueColumns) {
      std::array<int8_t, kValueColumns> codes;
      const int64_t count = largest > 0.0F ? std::clamp<int64_t>(N - first, 0, kValueColumns) : 0;
      kv_codes(x + first, count, factor, codes.data());
      for (int64_t n = 0; n < kValueColumns; ++n)
        rows[code_at(which, at, first + n)] =
            static_cast<uint8_t>(codes[static_cast<size_t>(n)] + code_zero(which));
    }
    return;
  }
  uint8_t* const row = rows + at * layout.row_bytes();
  const auto bytes = static_cast<size_t>(N) * sizeof(T);
  std::memcpy(row, x, bytes);
  std::memset(row + bytes, 0, static_cast<size_t>(layout.row_bytes()) - bytes);
}

template <typename T>
void load_row(KvRows which, const uint8_t* rows, const float* scales, int64_t at,
              const KvLayout& layout, T* x) {
  const int64_t N = layout.head_dim;
  if (layout.type == KvType::kInt8) {
    for (int64_t n = 0; n < N; ++n) {
      const uint8_t stored = rows[code_at(which, at, n)];
      const int32_t code = which == KvRows::kKeys ? stored - kKeyZero : static_cast<int8_t>(stored);
      x[n] = static_cast<T>(static_cast<float>(code) * scales[at]);
    }
    return;
  }
  std::memcpy(x, rows + at * layout.row_bytes(), static_cast<size_t>(N) * sizeof(T));
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
  const auto scales = [&](int64_t offset) { return reinterpret_cast<float*>(page + offset); };
  store_row(KvRows::kKeys, k_N, layout, page + layout.keys_at(layer, head),
            scales(layout.key_scales_at(layer, head)), at);
  store_row(KvRows::kValues, v_N, layout, page + layout.values_at(layer, head),
            scales(layout.value_scales_at(layer, head)), at);
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
          const auto scales = [&](int64_t offset) {
            return reinterpret_cast<const float*>(page + offset);
          };
          load_row(KvRows::kKeys, page + layout.keys_at(layer, head),
                   scales(layout.key_scales_at(layer, head)), at, layout, k + to);
          load_row(KvRows::kValues, page + layout.values_at(layer, head),
                   scales(layout.value_scales_at(layer, head)), at, layout, v + to);
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
      if (layout.type == KvType::kInt8) {  // (codes of a position lie apart)
        if (positions > 0) copy(layout.keys_at(layer, head), layout.head_bytes());
        continue;
      }
      copy(layout.keys_at(layer, head), positions * layout.row_bytes());
      copy(layout.values_at(layer, head), positions * layout.row_bytes());
    }
  }
}

}  // namespace euromodal
