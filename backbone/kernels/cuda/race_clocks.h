// race_clocks.h — which accesses to memory are ordered before what a thread of an emulated kernel
// does now (happens-before, by the rules of PTX's memory model that this project's kernels rely
// on). Time is one count that goes on at each barrier and fence; an access bears its thread's time.
//
//   order comes from            between
//   __syncthreads               all threads of the block
//   part_barrier                all threads of the warps that meet there
//   __syncwarp                  the lanes of its mask
//   cluster_sync                all threads of the cluster
//   fence + atomic, acq_rel     what precedes fence and atomic in one block, and what follows
//                               atomic and fence in another that comes later at the same address
//   wait_for_predecessor        what earlier launches did, and the thread and those behind a
//                               barrier with it; in a plain launch from the start
//
// Exchanges of values in a warp and plain atomics order nothing.
#pragma once
#include <array>
#include <cstdint>
#include <unordered_map>
#include <vector>

namespace euromodal::emulation {

enum AccessKind : uint8_t { kIsWrite = 1, kIsAtomic = 2, kIsPending = 4, kIsShared = 8 };

struct Access {
  uint32_t time = 0;   // 0: none
  uint32_t block = 0;  // counted over all launches
  uint32_t place = 0;  // of the instruction, from the program's start
  uint16_t thread = 0;
  uint8_t kind = 0;  // AccessKinds

  bool same_thread(const Access& o) const { return block == o.block && thread == o.thread; }
};

class RaceClocks {
 public:
  void launch_begins(bool dependent);
  void host_waits() { chain_start_ = ++now_; }
  /// Returns the number of the first of the cluster's blocks.
  uint32_t cluster_begins(size_t blocks, size_t threads);
  /// The thread that `me`, `ordered` and what follows speak of.
  void run(unsigned rank, size_t thread);

  void cluster_met();
  void block_met(unsigned rank);
  void part_met(unsigned rank, uint32_t warps);
  void warp_met(unsigned rank, unsigned warp, uint32_t lanes);
  void predecessor_waited() { running_->waited = waited_ = true; }
  void fence();
  void atomic(uintptr_t p, bool acq_rel);

  Access me() const { return {running_->time, block_->number, 0, running_->index, 0}; }
  bool ordered(const Access& before) const;
  /// Has any thread of this launch waited for its predecessor, or had it no need to?
  bool waited() const { return waited_; }

 private:
  // What a thread knows of its block: everything up to a time, by whom.
  struct View {
    uint32_t block = 0, time = 0, all = 0;
    uint16_t thread = 0;
    std::array<uint32_t, 32> warps{}, lanes{};
    bool has(const Access& a) const;
  };
  // Address of atomics: what has been released there, in order.
  struct Released {
    std::vector<View> views;
  };
  struct Acquired {
    const Released* from;
    size_t views;
    uint32_t time;
    uint16_t thread;
  };
  struct Fence {
    View view;
    std::vector<Acquired> acquired;  // from other blocks, which goes on with it
    bool set = false;
  };
  struct Thread {
    uint32_t time = 0;
    uint16_t index = 0;
    bool waited = false;
    Fence fenced;                    // what its next plain atomics release
    std::vector<Acquired> unfenced;  // of plain atomics since the last fence
    std::array<uint32_t, 32> lanes{};
  };
  struct Block {
    uint32_t number = 0, all = 0;
    std::vector<Thread> threads;
    std::vector<std::array<uint32_t, 32>> warps;  // [w][v]: what warp w knows of warp v
    std::vector<Acquired> acquired;
  };

  View view() const;
  bool ordered_in_block(uint32_t time, uint16_t thread) const;
  bool acquired(const Access& before) const;
  void join(Block& block, size_t begin, size_t end, uint32_t lanes = ~0U);

  uint32_t now_ = 1, chain_start_ = 1, launch_start_ = 1, cluster_start_ = 1, cluster_known_ = 0;
  uint32_t blocks_ = 0;
  bool dependent_ = false, waited_ = true;
  std::vector<Block> cluster_;
  Block* block_ = nullptr;
  Thread* running_ = nullptr;
  std::unordered_map<uintptr_t, Released> released_;
};

}  // namespace euromodal::emulation
