// packed_portable.cpp — for every CPU: GCC's vectors of 16 lanes, which the compiler cuts to what
// the machine has (SSE2, NEON).
#include <bit>
#include <cmath>

#include <c10/util/Half.h>

#include "backbone/kernels/packed_linear/packed_tile.h"

static_assert(std::endian::native == std::endian::little, "packed weights are little-endian");

namespace euromodal::packed {
namespace {

typedef float Floats16 __attribute__((vector_size(64)));
typedef uint32_t Words16 __attribute__((vector_size(64)));
typedef int32_t Ints16 __attribute__((vector_size(64)));

Words16 load_words(const uint8_t* p) {
  Words16 out;
  std::memcpy(&out, p, sizeof(out));
  return out;
}

struct Widened {
  using Sums = Floats16;
  using Weight = Words16;
  struct Input {
    float even, odd;
  };
  static Sums zero() { return Sums{}; }
  static Weight load(const uint8_t* p) { return load_words(p); }
  static Input input(const uint8_t* row, int64_t pair) {
    Input out;
    std::memcpy(&out, row + 8 * pair, 8);
    return out;
  }
  static void add(Sums& sums, const Weight& both, const Input& input) {
    sums += std::bit_cast<Floats16>(both << 16) * input.even;
    sums += std::bit_cast<Floats16>(both & 0xFFFF0000U) * input.odd;
  }
  static void put(const Sums& sums, float* to) { std::memcpy(to, &sums, sizeof(sums)); }
};

struct Integers {
  using Sums = Ints16;
  using Floats = Floats16;
  using Codes = Words16;
  using Zeros = Ints16;
  struct Input {
    int8_t x[4];
  };
  static Sums zero() { return Sums{}; }
  static Floats float_zero() { return Floats{}; }
  static Codes load8(const uint8_t* p) { return load_words(p); }
  static void load4(const uint8_t* p, Codes& low, Codes& high) {
    const Words16 both = load_words(p);
    low = both & 0x0F0F0F0FU;
    high = (both >> 4) & 0x0F0F0F0FU;
  }
  static Input input(const uint8_t* row, int64_t quad) {
    Input out;
    std::memcpy(&out, row + 4 * quad, 4);
    return out;
  }
  static void add8(Sums& sums, const Codes& codes, const Input& input) {
    for (int i = 0; i < 4; ++i)
      sums += __builtin_convertvector((codes >> (8 * i)) & 0xFFU, Ints16) * int32_t{input.x[i]};
  }
  static void add4(Sums& sums, const Codes& codes, const Input& input) { add8(sums, codes, input); }
  static Floats scale(const uint8_t* p) {
    Floats out;
    for (int o = 0; o < 16; ++o) {
      uint16_t bits;
      std::memcpy(&bits, p + 2 * o, 2);
      out[o] = c10::detail::fp16_ieee_to_fp32_value(bits);
    }
    return out;
  }
  static Zeros zeros(const uint8_t* p, bool /*four*/) {
    Zeros out;
    for (int o = 0; o < 16; ++o) out[o] = p[o];
    return out;
  }
  static Zeros same_zero(bool four) { return Zeros{} + (four ? 8 : 128); }
  static void finish(Floats& floats, const Sums& sums, const Floats& scale, float x_scale,
                     const Zeros& zeros, int32_t x_sum) {
    const Ints16 exact = sums - zeros * x_sum;
    for (int o = 0; o < 16; ++o)  // rounded once, as the vector forms do
      floats[o] = std::fma(static_cast<float>(exact[o]), scale[o] * x_scale, floats[o]);
  }
  static void put(const Floats& floats, float* to) { std::memcpy(to, &floats, sizeof(floats)); }
};

}  // namespace

PackedKernels portable() {
  return {all_tiles<Bf16Tile, Widened, 4, 1, 2>, all_tiles<Int8Tile, Integers, 4, 1, 2>,
          all_tiles<Int4Tile, Integers, 4, 1, 2>, true};
}

}  // namespace euromodal::packed
