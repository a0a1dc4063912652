// fake_gpu.h — a GPU for tests on machines that have none. Tensors of `cuda:0` lie in the host's
// memory, LibTorch's operators on them are carried out by those of the CPU, and our own kernels by
// their emulation (backbone/kernels/cuda/emulation.h) under the glue of backbone/cuda. What a real
// device makes an error is one here too: operands on two devices. What would make the host wait for
// a real device is counted by name:
//   - reading a number (item(), equal(), `if (tensor)`), and operators whose result's shape depends
//     on values (nonzero, masked_select, a mask as index, unique)
//   - copies in either direction that are blocking, or whose host side is not pinned
//   - synchronising a stream or the device
// Copies to pinned memory arrive when their event is waited for, no sooner: till then there is NaN.
// Memory is full of NaN when it is new. Not there: speed, and races between streams.
//
// A process that has it cannot use a real GPU.
#pragma once
#include <cstdint>
#include <map>
#include <string>

#include <c10/core/Device.h>

namespace euromodal::testing_support {

/// cuda:0; fills the table of cuda_ops.h.
c10::Device fake_gpu();

/// How often the host had to wait since the last call, by what made it.
std::map<std::string, int64_t> take_host_waits();
/// Waits for events (of copies that were queued before) since the last call: these let what was
/// queued after the event run on.
int64_t take_event_waits();

}  // namespace euromodal::testing_support
