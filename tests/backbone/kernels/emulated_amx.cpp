// emulated_amx.cpp — see emulated_amx.h. Compiled for AVX-512 as packed_amx.cpp is.
#include "tests/backbone/kernels/emulated_amx.h"

#include "backbone/kernels/packed_linear/packed_amx_rows.h"
#include "tests/support/emulated_tiles.h"

namespace euromodal::testing_support {
namespace {

thread_local int64_t configurations = 0;

struct CountedTiles : EmulatedTiles {
  static void configure(const packed::TileConfig& config) {
    ++configurations;
    EmulatedTiles::configure(config);
  }
};

}  // namespace

PackedKernels emulated_amx() { return packed::amx_kernels<CountedTiles>(); }

bool emulated_tiles_held() { return tile_file.configured; }

int64_t emulated_configurations() { return configurations; }

}  // namespace euromodal::testing_support
