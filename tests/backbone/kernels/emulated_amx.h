// emulated_amx.h — the kernels of packed_amx.cpp on emulated tiles, for machines without AMX. They
// need AVX-512 with VNNI, as those do.
#pragma once
#include "backbone/kernels/packed_linear/packed_kernels.h"

namespace euromodal::testing_support {

PackedKernels emulated_amx();
/// Whether this thread still has a configuration.
bool emulated_tiles_held();
/// How many configurations this thread has loaded.
int64_t emulated_configurations();

}  // namespace euromodal::testing_support
