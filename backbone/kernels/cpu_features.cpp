// cpu_features.cpp — see cpu_features.h.
#include "backbone/kernels/cpu_features.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string_view>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "core/error.h"

namespace euromodal {

namespace {

constexpr std::array<const char*, 6> kIsaNames = {"portable",    "avx2",        "avx512",
                                                  "avx512_vnni", "avx512_bf16", "amx"};

/// Intel's vdpbf16ps runs at half the rate of AMD's, below that of f32 products of widened weights.
CpuIsa fastest_isa() {
#if defined(__x86_64__)
  if (!__builtin_cpu_is("amd") && machine_isa() == CpuIsa::kAvx512Bf16) return CpuIsa::kAvx512Vnni;
#endif
  return machine_isa();
}

CpuIsa allowed_isa() {
  const char* word = std::getenv("EUROMODAL_CPU_ISA");
  if (word == nullptr || *word == '\0') return fastest_isa();
  const auto found = std::find(kIsaNames.begin(), kIsaNames.end(), std::string_view(word));
  check(found != kIsaNames.end(),
        "EUROMODAL_CPU_ISA is '{}', expected portable, avx2, avx512, avx512_vnni, avx512_bf16 or "
        "amx",
        word);
  return std::min(machine_isa(), static_cast<CpuIsa>(found - kIsaNames.begin()));
}

#if defined(__x86_64__)
AmxReport amx_report() {
  AmxReport out;
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0 || (ecx >> 27 & 1) == 0) return out;  // OSXSAVE
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &out.leaf7_edx) == 0) return out;
  uint32_t low = 0, high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  out.xcr0 = static_cast<uint64_t>(high) << 32 | low;
  if ((out.leaf7_edx >> 24 & 1) == 0) return out;
  if (__get_cpuid_count(0x1D, 1, &eax, &ebx, &ecx, &edx) == 0) return out;
  out.palette_bytes = eax >> 16;
  out.row_bytes = ebx & 0xFFFF;
  out.tiles = ebx >> 16;
  out.rows = ecx & 0xFFFF;
#if defined(__linux__)
  // Linux keeps 8 kB of tiles for a process that asks (since 5.16); its threads share the answer.
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
  out.granted = ::syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#endif
  return out;
}
#endif

CpuIsa find_machine_isa() {
#if defined(__x86_64__)
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") ||
      !__builtin_cpu_supports("f16c"))
    return CpuIsa::kPortable;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
    return CpuIsa::kAvx2;
  if (!__builtin_cpu_supports("avx512vnni")) return CpuIsa::kAvx512;
  if (!__builtin_cpu_supports("avx512bf16")) return CpuIsa::kAvx512Vnni;
  return amx_usable(amx_report()) ? CpuIsa::kAmx : CpuIsa::kAvx512Bf16;
#else
  return CpuIsa::kPortable;
#endif
}

}  // namespace

bool amx_usable(const AmxReport& report) {
  constexpr unsigned kFeatures = 1U << 22 | 1U << 24 | 1U << 25;
  constexpr uint64_t kStates = uint64_t{3} << 17;
  return (report.leaf7_edx & kFeatures) == kFeatures && (report.xcr0 & kStates) == kStates &&
         report.palette_bytes >= 1024 && report.row_bytes >= 64 && report.tiles >= 8 &&
         report.rows >= 16 && report.granted;
}

CpuIsa machine_isa() {
  static const CpuIsa isa = find_machine_isa();
  return isa;
}

CpuIsa cpu_isa() {
  static const CpuIsa isa = allowed_isa();
  return isa;
}

const char* cpu_isa_name(CpuIsa isa) { return kIsaNames.at(static_cast<size_t>(isa)); }

}  // namespace euromodal
