// emulation.cpp — see emulation.h. The scheduler resumes every runnable thread of the block in
// order and stops with a message when none can go on.
#undef _FORTIFY_SOURCE  // its longjmp stays on one stack
#include "backbone/kernels/cuda/emulation.h"

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include <sys/mman.h>

#include "backbone/kernels/cuda/fibers.h"

namespace euromodal::emulation {
namespace {

enum class State {
  kReady,
  kAtBlockBarrier,
  kAtWarpBarrier,
  kAtPartBarrier,
  kAtClusterBarrier,
  kDone
};

// Of copy_async_16, which one thread waits for.
struct Copy {
  void* shared = nullptr;
  const void* global = nullptr;
  const void* place = nullptr;
};

struct Fiber {
  Place place;
  void* stack = nullptr;
  uint3 index{};
  State state = State::kReady;
  unsigned mask = 0;     // of the warp barrier it waits at
  unsigned part = 0;     // number of the part's barrier it waits at
  unsigned threads = 0;  // that meet there
  void* fake_stack = nullptr;
  bool orders = false;  // at a warp's barrier: __syncwarp, no exchange
  std::vector<Copy> copies;
  std::vector<size_t> groups;  // where each committed one ends in `copies`
};

struct Block {
  std::vector<Fiber> fibers;
  size_t running = 0;
  const std::function<void()>* body = nullptr;
  std::vector<unsigned char> slots;  // [warps, 32, 64]
  std::unique_ptr<unsigned char[]> shared;
  unsigned char* shared_start = nullptr;
  std::vector<int> predicates;  // of __syncthreads_count and its kin
  uint3 index{};
  size_t first_stack = 0;
};

Block* block = nullptr;
bool reversed = false;
std::vector<Block> cluster;  // the running block and its peers, by rank
Place scheduler;
std::vector<void*> stacks;  // kept from launch to launch

[[noreturn]] void die(const char* text) {
  std::fprintf(stderr, "emulated kernel: %s (block %u,%u,%u)\n", text, blockIdx.x, blockIdx.y,
               blockIdx.z);
  if (observer != nullptr) observer->dies();
  std::abort();
}

void to_scheduler() {
  const size_t me = block->running;
  leave_fiber(&block->fibers[me].fake_stack);
  jump(block->fibers[me].place, scheduler);
  enter_fiber(block->fibers[me].fake_stack);
}

void fiber_main() {
  enter_fiber(nullptr);
  (*block->body)();
  Fiber& fiber = block->fibers[block->running];
  fiber.state = State::kDone;
  leave_fiber(nullptr);  // its stack is not needed any more
  jump(fiber.place, scheduler);
}

void resume(size_t index) {
  Fiber& fiber = block->fibers[index];
  block->running = index;
  threadIdx = fiber.index;
  if (observer != nullptr)
    observer->thread_runs(cluster_rank(), index,
                          {reinterpret_cast<uintptr_t>(fiber.stack), kStack});
  leave_scheduler(fiber.stack);
  jump(scheduler, fiber.place);
  enter_scheduler();
  if (observer != nullptr) observer->thread_rests();
}

// Lets all who wait at the block's barrier go when nobody else is on the way to it.
void open_block_barrier() {
  for (const Fiber& fiber : block->fibers)
    if (fiber.state != State::kAtBlockBarrier && fiber.state != State::kDone) return;
  for (Fiber& fiber : block->fibers)
    if (fiber.state == State::kAtBlockBarrier) fiber.state = State::kReady;
  if (observer != nullptr) observer->block_met(cluster_rank());
}

void open_warp_barriers(size_t warp) {
  const size_t first = warp * 32, end = std::min(first + 32, block->fibers.size());
  for (size_t f = first; f < end; ++f) {
    const Fiber& waiting = block->fibers[f];
    if (waiting.state != State::kAtWarpBarrier) continue;
    bool all = true;
    for (size_t g = first; g < end; ++g) {
      const Fiber& other = block->fibers[g];
      if (((waiting.mask >> (g - first)) & 1U) == 0U || other.state == State::kDone) continue;
      all = all && other.state == State::kAtWarpBarrier && other.mask == waiting.mask &&
            other.orders == waiting.orders;
    }
    if (!all) continue;
    const unsigned mask = waiting.mask;
    for (size_t g = first; g < end; ++g)
      if (((mask >> (g - first)) & 1U) != 0U && block->fibers[g].state == State::kAtWarpBarrier)
        block->fibers[g].state = State::kReady;
    if (observer != nullptr && waiting.orders)
      observer->warp_met(cluster_rank(), static_cast<unsigned>(warp), mask);
  }
}

// Barriers of parts of the block at which all that belong there have come.
void open_part_barriers() {
  for (const Fiber& first : block->fibers) {
    if (first.state != State::kAtPartBarrier) continue;
    const unsigned part = first.part, threads = first.threads;
    unsigned there = 0;
    for (const Fiber& fiber : block->fibers) {
      if (fiber.state != State::kAtPartBarrier || fiber.part != part) continue;
      if (fiber.threads != threads) die("its threads do not agree on how many meet at a barrier");
      ++there;
    }
    if (there > threads) die("more threads than were told wait at a barrier of a part");
    if (there < threads) continue;
    uint32_t warps = 0;
    for (size_t f = 0; f < block->fibers.size(); ++f) {
      Fiber& fiber = block->fibers[f];
      if (fiber.state != State::kAtPartBarrier || fiber.part != part) continue;
      fiber.state = State::kReady;
      warps |= 1U << (f / 32);
    }
    if (observer != nullptr) observer->part_met(cluster_rank(), warps);
  }
}

bool waits_for_cluster() {
  for (const Fiber& fiber : block->fibers)
    if (fiber.state != State::kAtClusterBarrier && fiber.state != State::kDone) return false;
  return true;
}

// Until its threads have ended or all that have not wait for the cluster.
void run_block() {
  size_t live = block->fibers.size();
  while (live > 0) {
    bool moved = false;
    live = 0;
    for (size_t f = 0; f < block->fibers.size(); ++f) {
      if (block->fibers[f].state == State::kReady) {
        resume(f);
        moved = true;
      }
      if (block->fibers[f].state != State::kDone) ++live;
    }
    if (live == 0) return;
    for (size_t w = 0; w * 32 < block->fibers.size(); ++w) open_warp_barriers(w);
    open_part_barriers();
    bool ready = false;
    for (const Fiber& fiber : block->fibers) ready = ready || fiber.state == State::kReady;
    if (!ready && waits_for_cluster()) return;
    if (!ready) open_block_barrier();
    for (const Fiber& fiber : block->fibers) ready = ready || fiber.state == State::kReady;
    if (!moved && !ready) die("its threads wait at different barriers");
  }
}

// Block after block up to the cluster's barrier, then all go on.
void run_cluster() {
  bool live = true;
  while (live) {
    for (Block& one : cluster) {
      block = &one;
      blockIdx = one.index;
      run_block();
    }
    live = false;
    for (Block& one : cluster) {
      for (Fiber& fiber : one.fibers) {
        if (fiber.state != State::kAtClusterBarrier) continue;
        fiber.state = State::kReady;
        live = true;
      }
    }
    if (live && observer != nullptr) observer->cluster_met();
  }
}

void* stack_of(size_t index) {
  while (stacks.size() <= index) {
    void* stack = ::mmap(nullptr, kStack, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED) die("no memory for the stacks of its threads");
    stacks.push_back(stack);
  }
  return stacks[index];
}

void start_fiber(size_t index, dim3 threads) {
  Fiber& fiber = block->fibers[index];
  fiber = Fiber{};
  fiber.index = {static_cast<unsigned>(index % threads.x),
                 static_cast<unsigned>(index / threads.x % threads.y),
                 static_cast<unsigned>(index / threads.x / threads.y)};
  fiber.stack = stack_of(block->first_stack + index);
  ::getcontext(&fiber.place.context);
  fiber.place.context.uc_stack.ss_sp = fiber.stack;
  fiber.place.context.uc_stack.ss_size = kStack;
  fiber.place.context.uc_link = nullptr;
  ::makecontext(&fiber.place.context, &fiber_main, 0);
}

}  // namespace

void reverse_blocks(bool last_first) { reversed = last_first; }

void run_grid(dim3 grid, dim3 threads, size_t shared_bytes, const std::function<void()>& body,
              bool dependent) {
  run_clusters(grid, threads, 1, shared_bytes, body, dependent);
}

void run_clusters(dim3 grid, dim3 threads, unsigned size, size_t shared_bytes,
                  const std::function<void()>& body, bool dependent) {
  const size_t count = static_cast<size_t>(threads.x) * threads.y * threads.z;
  if (count == 0 || count > 1024) die("a block needs 1 to 1024 threads");
  if (shared_bytes > (size_t{227} << 10)) die("more than 227 KiB of shared memory");
  if (grid.y > 65535 || grid.z > 65535) die("a grid is at most 65535 blocks high and deep");
  if (size == 0 || size > 8 || grid.x % size != 0)
    die("a cluster has 1 to 8 blocks and divides the grid");
  cluster = std::vector<Block>(size);
  for (Block& one : cluster) {
    one.fibers.resize(count);
    one.body = &body;
    one.slots.resize((count + 31) / 32 * 32 * 64);
    one.predicates.resize(count);
  }
  gridDim = grid;
  blockDim = threads;
  if (observer != nullptr) observer->launch_begins(dependent);
  std::vector<uint3> indices(size);
  std::vector<Range> ranges(size);
  const uint64_t wide = grid.x / size, all = wide * grid.y * grid.z;
  for (uint64_t i = 0; i < all; ++i) {
    const uint64_t at = reversed ? all - 1 - i : i;
    const auto x = static_cast<unsigned>(at % wide) * size,
               y = static_cast<unsigned>(at / wide % grid.y),
               z = static_cast<unsigned>(at / wide / grid.y);
    for (unsigned rank = 0; rank < size; ++rank) {
      block = &cluster[rank];
      block->index = {x + rank, y, z};
      block->first_stack = rank * count;
      // Made anew, so that AddressSanitizer knows its end; NaN bytes, so that reads before
      // writes show.
      block->shared = std::make_unique<unsigned char[]>(shared_bytes + 128);
      std::memset(block->shared.get(), 0xff, shared_bytes + 128);
      const auto address = reinterpret_cast<uintptr_t>(block->shared.get());
      block->shared_start = block->shared.get() + (128 - address % 128) % 128;
      indices[rank] = block->index;
      ranges[rank] = {reinterpret_cast<uintptr_t>(block->shared_start), shared_bytes};
      for (size_t f = 0; f < count; ++f) start_fiber(f, threads);
    }
    if (observer != nullptr) observer->cluster_begins(indices, ranges, count);
    run_cluster();
  }
  cluster.clear();
  block = nullptr;
  if (observer != nullptr) observer->launch_ends();
}

unsigned cluster_rank() { return static_cast<unsigned>(block - cluster.data()); }
unsigned cluster_size() { return static_cast<unsigned>(cluster.size()); }

void cluster_barrier() {
  block->fibers[block->running].state = State::kAtClusterBarrier;
  to_scheduler();
}

void* shared_of(unsigned rank, const void* mine) {
  const auto* p = static_cast<const unsigned char*>(mine);
  return cluster[rank].shared_start + (p - block->shared_start);
}

void* shared_memory() { return block->shared_start; }

unsigned lane() { return static_cast<unsigned>(block->running % 32); }

void block_barrier() {
  block->fibers[block->running].state = State::kAtBlockBarrier;
  to_scheduler();
}

void part_barrier(unsigned number, unsigned threads) {
  if (number == 0 || number > 15 || threads == 0 || threads % 32 != 0)
    die("a part's barrier has a number from 1 to 15 and whole warps");
  Fiber& fiber = block->fibers[block->running];
  fiber.state = State::kAtPartBarrier;
  fiber.part = number;
  fiber.threads = threads;
  to_scheduler();
}

void prefetched(const void* global, uint32_t bytes) {
  if (bytes == 0 || bytes % 16 != 0 || reinterpret_cast<uintptr_t>(global) % 16 != 0)
    die("what is fetched ahead starts and ends at a multiple of 16 bytes");
  const volatile auto* byte = static_cast<const volatile unsigned char*>(global);
  static_cast<void>(byte[0]);
  static_cast<void>(byte[bytes - 1]);
  if (prefetches != nullptr) prefetches->emplace_back(global, bytes);
}

// Of one of both kinds: the emulation does not let them meet.
static void wait_in_warp(unsigned mask, bool orders) {
  Fiber& fiber = block->fibers[block->running];
  if (((mask >> lane()) & 1U) == 0U)
    die("a thread calls a warp function without being in its mask");
  fiber.state = State::kAtWarpBarrier;
  fiber.mask = mask;
  fiber.orders = orders;
  to_scheduler();
}

void warp_barrier(unsigned mask) { wait_in_warp(mask, /*orders=*/true); }

const unsigned char* exchange(unsigned mask, const void* mine, size_t bytes) {
  unsigned char* warp = block->slots.data() + block->running / 32 * 32 * 64;
  std::memcpy(warp + size_t{64} * lane(), mine, bytes);
  wait_in_warp(mask, /*orders=*/false);
  return warp;
}

void release(unsigned mask) { wait_in_warp(mask, /*orders=*/false); }

void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], float (*wide)(uint32_t)) {
  const uint32_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  const unsigned char* slots = exchange(0xffffffffU, mine, sizeof(mine));
  const auto element = [&](unsigned lane, unsigned reg, unsigned half) {
    uint32_t bits = 0;
    std::memcpy(&bits, slots + size_t{64} * lane + size_t{4} * reg, 4);
    return wide(half != 0U ? bits >> 16 : bits & 0xffffU);
  };
  const unsigned g = lane() / 4, c = lane() % 4;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = g + (i >= 2 ? 8U : 0U), col = 2 * c + i % 2;
    float sum = 0.0F;
    for (unsigned k = 0; k < 16; ++k) {
      const unsigned from_a = row % 8 * 4 + k % 8 / 2, from_b = col * 4 + k % 8 / 2;
      sum += element(from_a, row / 8 + 2 * (k / 8), k % 2) * element(from_b, 4 + k / 8, k % 2);
    }
    d[i] += sum;
  }
  release(0xffffffffU);
}

uint32_t transpose_8x8(uint32_t v) {
  const unsigned char* slots = exchange(0xffffffffU, &v, sizeof(v));
  const unsigned g = lane() / 4, c = lane() % 4;
  uint32_t out = 0;
  for (unsigned i = 0; i < 2; ++i) {
    uint32_t bits = 0;
    std::memcpy(&bits, slots + size_t{64} * ((2 * c + i) * 4 + g / 2), 4);
    out |= (g % 2 != 0U ? bits >> 16 : bits & 0xffffU) << (16 * i);
  }
  release(0xffffffffU);
  return out;
}

void copy_async_16(void* shared, const void* global) {
  const void* place = __builtin_return_address(0);
  if (reinterpret_cast<uintptr_t>(shared) % 16 != 0 ||
      reinterpret_cast<uintptr_t>(global) % 16 != 0)
    die("an asynchronous copy starts at a multiple of 16 bytes");
  block->fibers[block->running].copies.push_back({shared, global, place});
  if (observer != nullptr) observer->copy_begins(shared, global, place);
  std::memset(shared, 0xff, 16);
}

void copies_commit() {
  Fiber& fiber = block->fibers[block->running];
  fiber.groups.push_back(fiber.copies.size());
}

void copies_wait(size_t pending) {
  Fiber& fiber = block->fibers[block->running];
  if (fiber.groups.size() <= pending) return;
  const auto done = static_cast<std::ptrdiff_t>(fiber.groups.size() - pending);
  const size_t end = fiber.groups[static_cast<size_t>(done) - 1];
  for (size_t i = 0; i < end; ++i) {
    const Copy& copy = fiber.copies[i];
    std::memcpy(copy.shared, copy.global, 16);
    if (observer != nullptr) observer->copy_lands(copy.shared, copy.global, copy.place);
  }
  fiber.copies.erase(fiber.copies.begin(), fiber.copies.begin() + static_cast<std::ptrdiff_t>(end));
  fiber.groups.erase(fiber.groups.begin(), fiber.groups.begin() + done);
  for (size_t& group : fiber.groups) group -= end;
}

}  // namespace euromodal::emulation

namespace em = euromodal::emulation;

unsigned __ballot_sync(unsigned mask, int predicate) {
  const unsigned char* slots = em::exchange(mask, &predicate, sizeof(predicate));
  unsigned out = 0;
  for (unsigned l = 0; l < 32; ++l) {
    int value = 0;
    std::memcpy(&value, slots + size_t{64} * l, sizeof(value));
    if (((mask >> l) & 1U) != 0U && value != 0) out |= 1U << l;
  }
  em::release(mask);
  return out;
}

int __all_sync(unsigned mask, int predicate) {
  return static_cast<int>(__ballot_sync(mask, static_cast<int>(predicate == 0)) == 0U);
}

int __syncthreads_count(int predicate) {
  em::block->predicates[em::block->running] = static_cast<int>(predicate != 0);
  em::block_barrier();
  int out = 0;
  for (size_t f = 0; f < em::block->fibers.size(); ++f) out += em::block->predicates[f];
  em::block_barrier();
  return out;
}

int __syncthreads_or(int predicate) { return static_cast<int>(__syncthreads_count(predicate) > 0); }

int __syncthreads_and(int predicate) {
  return static_cast<int>(__syncthreads_count(static_cast<int>(predicate == 0)) == 0);
}

unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const uint64_t bytes = (static_cast<uint64_t>(y) << 32) | x;
  unsigned out = 0;
  for (unsigned b = 0; b < 4; ++b) {
    const unsigned pick = (selector >> (4 * b)) & 0xfU;
    unsigned byte = static_cast<unsigned>(bytes >> (8 * (pick & 7U))) & 0xffU;
    if ((pick & 8U) != 0U) byte = (byte & 0x80U) != 0U ? 0xffU : 0U;
    out |= byte << (8 * b);
  }
  return out;
}
