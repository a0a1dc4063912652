// packed_amx.cpp — bf16, int8 and int4 weights by the matrix tiles of AMX (tdpbf16ps, tdpbsud).
#if defined(__x86_64__)
#include "backbone/kernels/packed_linear/packed_amx_rows.h"
#include "backbone/kernels/packed_linear/packed_amx_tiles.h"

namespace euromodal::packed {

PackedKernels amx() { return amx_kernels<HardwareTiles>(); }

}  // namespace euromodal::packed
#endif
