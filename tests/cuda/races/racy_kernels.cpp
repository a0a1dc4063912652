// racy_kernels.cpp — see racy_kernels.h. Compiled as the kernels that are watched: every access is
// told.
#include "tests/cuda/races/racy_kernels.h"

namespace euromodal {

namespace {
constexpr unsigned kAll = 0xffffffffU;

void meet(Meet how) {
  const unsigned lane = threadIdx.x % 32, team = threadIdx.x / 64;
  if (how == Meet::kBlock) __syncthreads();
  if (how == Meet::kWarp) __syncwarp();
  if (how == Meet::kHalfWarp) __syncwarp(lane < 16 ? 0xffffU : 0xffff0000U);
  if (how == Meet::kPart) part_barrier(1 + team, 64);
  if (how == Meet::kShuffle) static_cast<void>(__shfl_sync(kAll, 1, 0));
}

}  // namespace

// y[t] = t's neighbour's number, by way of shared memory; dynamic or static.
__global__ void neighbour_kernel(int* y, unsigned distance, Meet how, bool fixed) {
  __shared__ int fixed_memory[256];
  EM_DYNAMIC_SHARED(int, dynamic_memory);
  int* memory = fixed ? fixed_memory : dynamic_memory;
  const unsigned t = threadIdx.x;
  memory[t] = static_cast<int>(t);
  meet(how);
  y[blockIdx.x * blockDim.x + t] = memory[t ^ distance];
}

// What is read in one round is overwritten in the next.
__global__ void rounds_kernel(int* y, bool second_barrier) {
  EM_DYNAMIC_SHARED(int, memory);
  for (int round = 0; round < 3; ++round) {
    memory[threadIdx.x] = round;
    __syncthreads();
    y[threadIdx.x] += memory[(threadIdx.x + 100) % 128];
    if (second_barrier) __syncthreads();
  }
}

// All read, one of the teams meets, one of its threads writes.
__global__ void middle_kernel(int* y, unsigned threads) {
  EM_DYNAMIC_SHARED(int, memory);
  if (threadIdx.x < threads) y[threadIdx.x] = memory[0];
  if (threadIdx.x / 64 == 1) part_barrier(3, 64);
  if (threadIdx.x == 70) memory[0] = 1;
}

__global__ void bytes_kernel(unsigned char* y, unsigned step) { y[threadIdx.x / step] = 1; }

// Thread 3 stores what the others read, and do not use.
__global__ void vain_kernel(int* x, int* y, bool said) {
  const int v = *x;
  if (threadIdx.x == 3) {
    if (said) read_in_vain(x, sizeof(*x));
    *x = 5;
  }
  y[threadIdx.x] = v == 7 ? 1 : 0;
}

// ---- between blocks ----
__global__ void add_kernel(int* sum, bool atomic, bool read) {
  if (threadIdx.x == 0) {
    if (atomic) {
      atomicAdd(sum, 1);
    } else {
      *sum += 1;
    }
  }
  __syncthreads();
  if (read && threadIdx.x == 1) sum[1 + blockIdx.x] = *sum;
}

// The last block adds up what the others have stored.
__global__ void last_block_kernel(int* parts, int* sum, unsigned* counter, Count how) {
  __shared__ bool last;
  parts[blockIdx.x * blockDim.x + threadIdx.x] = 1;
  if (how != Count::kNoBarrier) __syncthreads();
  if (threadIdx.x == 0) {
    const unsigned others = gridDim.x - 1;
    if (how == Count::kAcqRel || how == Count::kNoBarrier) {
      last = increment_acq_rel(counter, others) == others;
    } else {
      if (how == Count::kFences || how == Count::kReleaseOnly) __threadfence();
      last = atomicInc(counter, others) == others;
      if (how == Count::kFences || how == Count::kAcquireOnly) __threadfence();
    }
  }
  __syncthreads();
  if (!last) return;
  for (unsigned b = 0; b < gridDim.x; ++b)
    sum[threadIdx.x] += parts[b * blockDim.x + blockDim.x - 1 - threadIdx.x];
}

__global__ void peers_kernel(int* y, bool before, bool after) {
  EM_DYNAMIC_SHARED(int, memory);
  memory[threadIdx.x] = static_cast<int>(cluster_rank());
  if (before) cluster_sync();
  y[blockIdx.x * blockDim.x + threadIdx.x] =
      cluster_peer(memory, cluster_rank() ^ 1U)[31 - threadIdx.x];
  if (after) cluster_sync();
  memory[threadIdx.x] = 7;
}

// Two groups; each thread reads its own or a neighbour's number of both.
__global__ void copy_kernel(const int* x, int* y, unsigned distance, Wait how) {
  EM_DYNAMIC_SHARED(int, memory);
  const unsigned t = threadIdx.x;
  for (unsigned group = 0; group < 2; ++group) {
    copy_async_16(memory + group * 256 + 4 * t, x + group * 256 + 4 * t);
    if (how != Wait::kUncommitted) copies_commit();
  }
  if (how == Wait::kOneLeft) {
    copies_wait<1>();
  } else if (how != Wait::kNot) {
    copies_wait<0>();
  }
  if (how != Wait::kNoBarrier) __syncthreads();
  y[t] = memory[4 * (t ^ distance)] + memory[256 + 4 * (t ^ distance)];
}

// A buffer that is filled again while others may read it.
__global__ void refill_kernel(const int* x, int* y, bool barrier) {
  EM_DYNAMIC_SHARED(int, memory);
  for (int round = 0; round < 2; ++round) {
    copy_async_16(memory + 4 * threadIdx.x, x);
    copies_commit();
    copies_wait<0>();
    __syncthreads();
    y[threadIdx.x] = memory[4 * (63 - threadIdx.x)];
    if (barrier) __syncthreads();
  }
}

__global__ void store_kernel(int* y, int value) {
  wait_for_predecessor();
  y[blockIdx.x * blockDim.x + threadIdx.x] = value;
}
__global__ void follow_kernel(const int* x, const int* weight, int* y, Predecessor how) {
  const unsigned t = threadIdx.x;
  int sum = weight[t];
  if (how == Predecessor::kLate) sum += x[t];
  if (how == Predecessor::kAll || how == Predecessor::kLate || t == 0) {
    if (how != Predecessor::kNever) wait_for_predecessor();
  }
  if (how == Predecessor::kOneAndBarrier) __syncthreads();
  if (how != Predecessor::kLate) sum += x[t];
  y[t] = sum;
}

}  // namespace euromodal
