// cpu_features.cpp — see cpu_features.h.
#include "backbone/kernels/cpu_features.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string_view>

#include "core/error.h"

namespace euromodal {

namespace {

constexpr std::array<const char*, 5> kIsaNames = {"portable", "avx2", "avx512", "avx512_vnni",
                                                  "avx512_bf16"};

/// Intel's vdpbf16ps runs at half the rate of AMD's, below that of f32 products of widened weights.
CpuIsa fastest_isa() {
#if defined(__x86_64__)
  if (!__builtin_cpu_is("amd")) return std::min(machine_isa(), CpuIsa::kAvx512Vnni);
#endif
  return machine_isa();
}

CpuIsa allowed_isa() {
  const char* word = std::getenv("EUROMODAL_CPU_ISA");
  if (word == nullptr || *word == '\0') return fastest_isa();
  const auto found = std::find(kIsaNames.begin(), kIsaNames.end(), std::string_view(word));
  check(found != kIsaNames.end(),
        "EUROMODAL_CPU_ISA is '{}', expected portable, avx2, avx512, avx512_vnni or avx512_bf16",
        word);
  return std::min(machine_isa(), static_cast<CpuIsa>(found - kIsaNames.begin()));
}

}  // namespace

CpuIsa machine_isa() {
#if defined(__x86_64__)
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") ||
      !__builtin_cpu_supports("f16c"))
    return CpuIsa::kPortable;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
    return CpuIsa::kAvx2;
  if (!__builtin_cpu_supports("avx512vnni")) return CpuIsa::kAvx512;
  return __builtin_cpu_supports("avx512bf16") ? CpuIsa::kAvx512Bf16 : CpuIsa::kAvx512Vnni;
#else
  return CpuIsa::kPortable;
#endif
}

CpuIsa cpu_isa() {
  static const CpuIsa isa = allowed_isa();
  return isa;
}

const char* cpu_isa_name(CpuIsa isa) { return kIsaNames.at(static_cast<size_t>(isa)); }

}  // namespace euromodal
