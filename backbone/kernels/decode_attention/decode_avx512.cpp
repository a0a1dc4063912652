// decode_avx512.cpp — keys and values widened to f32 on the way.
#if defined(__x86_64__)
#include "backbone/kernels/decode_attention/decode_simd512.h"

namespace euromodal::decode {

DecodeKernel avx512(KvType type) { return widened<Avx512>(type); }

}  // namespace euromodal::decode
#endif
