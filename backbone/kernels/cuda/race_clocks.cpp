// race_clocks.cpp — see race_clocks.h.
#include "backbone/kernels/cuda/race_clocks.h"

#include <algorithm>

namespace euromodal::emulation {

// `lanes` are those of the thread's own warp.
bool RaceClocks::View::has(const Access& a) const {
  if (a.block != block) return false;
  if (a.thread == thread) return a.time <= time;
  return a.time <= all || a.time <= warps[a.thread / 32] ||
         (a.thread / 32 == thread / 32 && a.time <= lanes[a.thread % 32]);
}

void RaceClocks::launch_begins(bool dependent) {
  dependent_ = dependent;
  launch_start_ = ++now_;
  if (!dependent) chain_start_ = now_;
  // After the host has waited there is nothing left to wait for.
  waited_ = !dependent || chain_start_ + 1 == launch_start_;
  released_.clear();
}

uint32_t RaceClocks::cluster_begins(size_t blocks, size_t threads) {
  cluster_start_ = ++now_;
  cluster_known_ = 0;
  const uint32_t first = blocks_;
  cluster_.resize(blocks);
  for (Block& block : cluster_) {
    block.number = blocks_++;
    block.all = 0;
    block.acquired.clear();
    block.warps.assign((threads + 31) / 32, {});
    block.threads.resize(threads);
    for (size_t t = 0; t < threads; ++t) {
      Thread& thread = block.threads[t];
      thread.time = now_;
      thread.index = static_cast<uint16_t>(t);
      thread.waited = !dependent_;
      thread.fenced.set = false;
      thread.unfenced.clear();
      thread.lanes.fill(0);
    }
  }
  return first;
}

void RaceClocks::run(unsigned rank, size_t thread) {
  block_ = &cluster_[rank];
  running_ = &block_->threads[thread];
}

// A new time for threads that have met, and who has waited for the predecessor has for all.
void RaceClocks::join(Block& block, size_t begin, size_t end, uint32_t lanes) {
  end = std::min(end, block.threads.size());
  bool waited = false;
  for (size_t t = begin; t < end; ++t)
    if (((lanes >> (t % 32)) & 1U) != 0U) waited = waited || block.threads[t].waited;
  for (size_t t = begin; t < end; ++t) {
    if (((lanes >> (t % 32)) & 1U) == 0U) continue;
    block.threads[t].time = now_;
    block.threads[t].waited = waited;
  }
}

void RaceClocks::cluster_met() {
  cluster_known_ = now_++;
  bool waited = false;
  for (Block& block : cluster_) {
    block.all = cluster_known_;
    join(block, 0, block.threads.size());
    waited = waited || block.threads[0].waited;
  }
  for (Block& block : cluster_)
    for (Thread& thread : block.threads) thread.waited = waited;
}

void RaceClocks::block_met(unsigned rank) {
  Block& block = cluster_[rank];
  block.all = now_++;
  join(block, 0, block.threads.size());
}

void RaceClocks::part_met(unsigned rank, uint32_t warps) {
  Block& block = cluster_[rank];
  std::array<uint32_t, 32> known{};
  const auto meets = [&](size_t w) { return ((warps >> w) & 1U) != 0U; };
  for (size_t w = 0; w < block.warps.size(); ++w) {
    if (!meets(w)) continue;
    for (size_t v = 0; v < 32; ++v) known[v] = std::max(known[v], block.warps[w][v]);
  }
  for (size_t w = 0; w < block.warps.size(); ++w)
    if (meets(w)) known[w] = now_;
  ++now_;
  bool waited = false;
  for (size_t t = 0; t < block.threads.size(); ++t)
    waited = waited || (meets(t / 32) && block.threads[t].waited);
  for (size_t w = 0; w < block.warps.size(); ++w) {
    if (!meets(w)) continue;
    block.warps[w] = known;
    join(block, w * 32, w * 32 + 32);
  }
  for (size_t t = 0; t < block.threads.size(); ++t)
    if (meets(t / 32)) block.threads[t].waited = waited;
}

void RaceClocks::warp_met(unsigned rank, unsigned warp, uint32_t lanes) {
  Block& block = cluster_[rank];
  const size_t first = size_t{warp} * 32, end = std::min(first + 32, block.threads.size());
  if (lanes == ~0U) {
    block.warps[warp][warp] = now_;
  } else {
    std::array<uint32_t, 32> known{};
    for (size_t t = first; t < end; ++t) {
      if (((lanes >> (t - first)) & 1U) == 0U) continue;
      for (size_t l = 0; l < 32; ++l) known[l] = std::max(known[l], block.threads[t].lanes[l]);
    }
    for (size_t l = 0; l < 32; ++l)
      if (((lanes >> l) & 1U) != 0U) known[l] = now_;
    for (size_t t = first; t < end; ++t)
      if (((lanes >> (t - first)) & 1U) != 0U) block.threads[t].lanes = known;
  }
  ++now_;
  join(block, first, end, lanes);
}

RaceClocks::View RaceClocks::view() const {
  View out;
  out.block = block_->number;
  out.time = running_->time;
  out.all = block_->all;
  out.thread = running_->index;
  out.warps = block_->warps[running_->index / 32];
  out.lanes = running_->lanes;
  return out;
}

void RaceClocks::fence() {
  Fence& fenced = running_->fenced;
  fenced.set = true;
  fenced.view = view();
  fenced.acquired.clear();
  for (const Acquired& a : block_->acquired)
    if (ordered_in_block(a.time, a.thread)) fenced.acquired.push_back(a);
  running_->time = ++now_;
  for (Acquired& a : running_->unfenced) {
    a.time = now_;
    block_->acquired.push_back(a);
  }
  running_->unfenced.clear();
}

void RaceClocks::atomic(uintptr_t p, bool acq_rel) {
  Released& here = released_[p];
  const Fence before = running_->fenced;
  if (acq_rel) fence();
  if (!here.views.empty())
    running_->unfenced.push_back({&here, here.views.size(), 0, running_->index});
  if (running_->fenced.set) {
    here.views.push_back(running_->fenced.view);
    for (const Acquired& a : running_->fenced.acquired)
      if (a.from != &here)  // else it is there
        here.views.insert(here.views.end(), a.from->views.begin(),
                          a.from->views.begin() + static_cast<std::ptrdiff_t>(a.views));
  }
  if (!acq_rel) return;
  fence();
  running_->fenced = before;  // (it is no fence for other atomics)
}

bool RaceClocks::ordered_in_block(uint32_t time, uint16_t thread) const {
  const uint16_t mine = running_->index;
  return thread == mine || time <= block_->all || time <= block_->warps[mine / 32][thread / 32] ||
         (thread / 32 == mine / 32 && time <= running_->lanes[thread % 32]);
}

bool RaceClocks::acquired(const Access& before) const {
  for (const Acquired& a : block_->acquired) {
    if (!ordered_in_block(a.time, a.thread)) continue;
    for (size_t i = a.views; i-- > 0;)
      if (a.from->views[i].has(before)) return true;
  }
  return false;
}

bool RaceClocks::ordered(const Access& before) const {
  if ((before.kind & kIsShared) != 0U) {  // another block's has no more than the address in common
    if (before.time < cluster_start_) return true;
  } else if (before.time < (running_->waited ? launch_start_ : chain_start_)) {
    return true;
  }
  if (before.block == block_->number) return ordered_in_block(before.time, before.thread);
  if (before.time >= cluster_start_ && before.time <= cluster_known_) return true;
  return acquired(before);
}

}  // namespace euromodal::emulation
