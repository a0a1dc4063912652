// limits.h — what the device reaches, measured by plain programs: the ceilings of every share.
#pragma once
#include "experiments/bench/cuda/gpu_bench.h"

namespace euromodal::bench {

/// Under two seconds, 8 GB of device memory.
Limits measure_limits(const c10::Stream& stream);

}  // namespace euromodal::bench
