// cpu_features.h — which instruction sets the CPU kernels may use. Files that are compiled for one
// of them are chosen at run time, so the program itself runs on any x86-64 and on aarch64.
#pragma once
#include <cstdint>

namespace euromodal {

/// Each includes those before it. kAvx2: with FMA and F16C. kAvx512: F, BW, DQ, VL. kAmx: tiles,
/// bf16 and int8.
enum class CpuIsa { kPortable, kAvx2, kAvx512, kAvx512Vnni, kAvx512Bf16, kAmx };

/// The fastest that this machine has (on Intel that is not kAvx512Bf16), or what the environment
/// variable EUROMODAL_CPU_ISA says (portable, avx2, avx512, avx512_vnni, avx512_bf16, amx), as far
/// as the machine has it. Error for another word.
CpuIsa cpu_isa();
/// The best that this machine has. The first call asks the system for the state of AMX's tiles,
/// for all threads of the process.
CpuIsa machine_isa();

/// What the processor and the system say about AMX.
struct AmxReport {
  unsigned leaf7_edx = 0;      // CPUID 7.0: bits 22 bf16, 24 tiles, 25 int8
  unsigned palette_bytes = 0;  // CPUID 1D.1: a tile's bytes, a row's bytes, tiles, rows
  unsigned row_bytes = 0, tiles = 0, rows = 0;
  uint64_t xcr0 = 0;     // bits 17 and 18: the system saves configuration and tiles
  bool granted = false;  // the system gives this process its tiles
};
/// Whether the kernels can run: bf16, int8 and tiles of 16 rows of 64 bytes, eight of them.
bool amx_usable(const AmxReport& report);
const char* cpu_isa_name(CpuIsa isa);

}  // namespace euromodal
