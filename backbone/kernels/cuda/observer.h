// observer.h — what the emulation (emulation.h) tells whoever watches a kernel: launches, blocks,
// which thread runs, and all that orders its accesses to memory. The accesses themselves come from
// the compiler (race_check.h).
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include <vector_types.h>

namespace euromodal::emulation {

/// Memory of a block or of a thread.
struct Range {
  uintptr_t begin = 0;
  size_t bytes = 0;
  bool has(uintptr_t p) const { return p - begin < bytes; }
};

struct Observer {
  virtual ~Observer() = default;

  /// `dependent`: may begin before the launch before it has ended.
  virtual void launch_begins(bool dependent) = 0;
  virtual void launch_ends() = 0;
  /// The emulation ends the program.
  virtual void dies() = 0;
  /// The host has waited for the device, or memory has been made anew.
  virtual void host_waits() = 0;
  /// Blocks that run together, by rank: index and dynamic shared memory.
  virtual void cluster_begins(const std::vector<uint3>& index, const std::vector<Range>& shared,
                              size_t threads) = 0;
  virtual void thread_runs(unsigned rank, size_t thread, Range stack) = 0;
  virtual void thread_rests() = 0;

  // Barriers at which all who belong there have come. Exchanges of values (shuffles, ballots,
  // tensor cores) order no accesses to memory.
  virtual void cluster_met() = 0;
  virtual void block_met(unsigned rank) = 0;
  virtual void part_met(unsigned rank, uint32_t warps) = 0;
  virtual void warp_met(unsigned rank, unsigned warp, uint32_t lanes) = 0;

  // By the running thread. `place`: return address in the kernel.
  virtual void predecessor_waited() = 0;
  virtual void fence() = 0;
  /// Others may read these bytes while they are stored: they do not use what they get.
  virtual void read_in_vain(const void* p, size_t bytes) = 0;
  virtual void atomic(const void* p, size_t bytes, bool acq_rel, const void* place) = 0;
  /// 16 bytes that come some time between copy_begins and copy_lands.
  virtual void copy_begins(const void* shared, const void* global, const void* place) = 0;
  virtual void copy_lands(const void* shared, const void* global, const void* place) = 0;
};

inline Observer* observer = nullptr;

}  // namespace euromodal::emulation

// On functions that the compiler shall not instrument: they are the emulation's, not the kernel's.
#if defined(__SANITIZE_THREAD__)
#define EM_UNOBSERVED __attribute__((no_sanitize("thread")))
#else
#define EM_UNOBSERVED
#endif
