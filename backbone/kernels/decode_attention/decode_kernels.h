// decode_kernels.h — the inner loops of decode_attention() on the CPU, one file per instruction
// set. Plain C++ types only: files compiled for wider units must not share inline functions with
// the others.
#pragma once
#include <cstdint>

#include "backbone/kernels/cpu_features.h"
#include "backbone/kernels/decode_attention/kv_layout.h"

namespace euromodal {

/// The rows of one key/value head (new rows times query heads of its group) over a part of one
/// sequence. The bits of a row depend on nothing but the row, the part, keys and values.
struct DecodeTask {
  const uint8_t* q = nullptr;             // [R, W], f32 or bf16 (decode_kernel)
  const uint8_t* const* pages = nullptr;  // of the sequence, from position 0
  int64_t keys_at = 0, values_at = 0;     // offsets in a page, as KvLayout
  int64_t key_scales_at = 0, value_scales_at = 0;
  const uint8_t* next =
      nullptr;                 // keys that this thread will most likely read after these, or null
  int64_t begin = 0, end = 0;  // positions; begin: the first of a page
  int64_t rows = 0, group = 1, width = 0;
  int64_t visible = 0;      // row r sees positions below visible + r / group
  float scale = 0.0F;       // on q·k
  float* out_RW = nullptr;  // sum of exp(score - max) · value
  float* max_R = nullptr;   // -infinity: nothing seen
  float* sum_R = nullptr;   // of exp(score - max)
};

using DecodeKernel = void (*)(const DecodeTask&);

/// The best for `isa`, which this machine must have, and whether it takes q in bf16 (else f32).
struct DecodeKernelChoice {
  DecodeKernel run;
  bool bf16_q;
};
DecodeKernelChoice decode_kernel(CpuIsa isa, KvType type, bool bf16_q);

namespace decode {
DecodeKernel portable(KvType type);
#if defined(__x86_64__)
DecodeKernel avx2(KvType type);
DecodeKernel avx512(KvType type);
DecodeKernel avx512_bf16_pairs();  // vdpbf16ps: q and cache in bf16
#endif
}  // namespace decode

}  // namespace euromodal
