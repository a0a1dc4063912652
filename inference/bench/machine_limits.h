// machine_limits.h — what this machine can do at best, measured: the limits that benchmarks are
// given in shares of. A virtual machine changes its mind within seconds, so measure before and
// after what is compared.
#pragma once

namespace euromodal {

/// Bytes per second that all threads together read from memory (a buffer of 512 MiB in huge pages,
/// the best of a few passes, some as the processor fetches by itself, some fetched ahead).
double read_bandwidth();

/// Floating-point operations per second of a matrix product of 2048 x 2048 by 2048 x 5632: the best
/// of LibTorch's and our own kernels, in bf16 or f32.
double matrix_rate(bool bf16);

}  // namespace euromodal
