// packed_tile_config.h — the shapes of AMX's tiles as ldtilecfg reads them: 64 bytes.
#pragma once
#include <cstdint>

namespace euromodal::packed {

struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};  // of tiles 0 to 7; 0 with no rows: not in use
  uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64);

}  // namespace euromodal::packed
