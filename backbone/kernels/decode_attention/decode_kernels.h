// decode_kernels.h — the inner loops of decode_attention() on the CPU, one file per instruction
// set. Plain C++ types only: files compiled for wider units must not share inline functions with
// the others.
#pragma once
#include <cstdint>

#include "backbone/kernels/cpu_features.h"
#include "backbone/kernels/decode_attention/kv_layout.h"

namespace euromodal {

/// How a kernel takes queries. kCodes: integers with one f32 scale a row, 256 · high + low, as int8
/// [high W, low W].
enum class QueryForm { kF32, kBf16, kCodes };

/// The rows of neighbouring key/value heads (of each: new rows times query heads of its group) over
/// a part of one sequence. The bits of a row depend on nothing but the row, the part, keys and
/// values.
struct DecodeTask {
  const uint8_t* q = nullptr;         // [heads, R, W] as the kernel takes them
  const float* q_scale = nullptr;     // [heads, R] for kCodes, else null
  const int32_t* q_offset = nullptr;  // [heads, R] the same: kKeyZero times the sum of the codes
  const uint8_t* const* pages = nullptr;  // of the sequence, from position 0
  int64_t head_at = 0, head_bytes = 0;    // in a page: the first head's keys, from head to head
  int64_t values_at = 0, key_scales_at = 0, value_scales_at = 0;  // behind a head's keys
  const uint8_t* next =
      nullptr;                 // keys that this thread will most likely read after these, or null
  int64_t begin = 0, end = 0;  // positions; begin: the first of a page
  int64_t heads = 0, rows = 0, group = 1, width = 0;
  int64_t visible = 0;   // row r sees positions below visible + r / group
  float scale = 0.0F;    // on q·k
  float* out = nullptr;  // [heads] times: sums of exp(score - max) · value [R, W], max [R]
                         // (-infinity: nothing seen), sums of exp(score - max) [R]
};

using DecodeKernel = void (*)(const DecodeTask&);

/// The best for `isa`, which this machine must have, and how it takes q.
struct DecodeKernelChoice {
  DecodeKernel run;
  QueryForm form;
};
DecodeKernelChoice decode_kernel(CpuIsa isa, KvType type, bool bf16_q);

/// Largest code of a query for kCodes: high and low fit int8, and q·k of int8 keys int32.
constexpr int64_t decode_codes_limit(int64_t width) {
  const int64_t most = INT32_MAX / (127 * width);
  return most < 127 * 256 + 127 ? most : 127 * 256 + 127;
}

namespace decode {
DecodeKernel portable(KvType type);
#if defined(__x86_64__)
DecodeKernel avx2(KvType type);
DecodeKernel avx512(KvType type);
DecodeKernel avx512_vnni_codes();  // vpdpbusd: int8 cache, q and weights in 16 bits
DecodeKernel avx512_bf16_pairs();  // vdpbf16ps: q and cache in bf16
#endif
}  // namespace decode

}  // namespace euromodal
