// racy_kernels.h — small kernels with and without races, for the test of the race checker.
#pragma once
#include "backbone/kernels/cuda/device.h"

namespace euromodal {

// How the threads that write and those that read another's number meet in between.
enum class Meet {
  kNot,
  kBlock,
  kWarp,
  kHalfWarp,
  kPart,
  kShuffle,
};

void neighbour_kernel(int* y, unsigned distance, Meet how, bool fixed);

void rounds_kernel(int* y, bool second_barrier);

void middle_kernel(int* y, unsigned threads);

void bytes_kernel(unsigned char* y, unsigned step);

void vain_kernel(int* x, int* y, bool said);

void add_kernel(int* sum, bool atomic, bool read);

enum class Count { kAcqRel, kFences, kPlain, kReleaseOnly, kAcquireOnly, kNoBarrier };

void last_block_kernel(int* parts, int* sum, unsigned* counter, Count how);

void peers_kernel(int* y, bool before, bool after);

// ---- asynchronous copies ----
enum class Wait { kAll, kNot, kOneLeft, kNoBarrier, kUncommitted };

void copy_kernel(const int* x, int* y, unsigned distance, Wait how);

void refill_kernel(const int* x, int* y, bool barrier);

// ---- launches ----
enum class Predecessor { kAll, kOne, kOneAndBarrier, kLate, kNever };

void store_kernel(int* y, int value);

void follow_kernel(const int* x, const int* weight, int* y, Predecessor how);

}  // namespace euromodal
