// cpu_features.h — which instruction sets the CPU kernels may use. Files that are compiled for one
// of them are chosen at run time, so the program itself runs on any x86-64 and on aarch64.
#pragma once

namespace euromodal {

/// Each includes those before it. kAvx2: with FMA and F16C. kAvx512: F, BW, DQ, VL.
enum class CpuIsa { kPortable, kAvx2, kAvx512, kAvx512Vnni, kAvx512Bf16 };

/// The fastest that this machine has (on Intel that is not kAvx512Bf16), or what the environment
/// variable EUROMODAL_CPU_ISA says (portable, avx2, avx512, avx512_vnni, avx512_bf16), as far as
/// the machine has it. Error for another word.
CpuIsa cpu_isa();
/// The best that this machine has.
CpuIsa machine_isa();
const char* cpu_isa_name(CpuIsa isa);

}  // namespace euromodal
