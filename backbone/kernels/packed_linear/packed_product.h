// packed_product.h — rows times packed weights that several threads compute together, over memory
// of the caller: the inputs are made ready piece by piece, then each takes its share of the
// outputs, and whoever is through some of the others'. T rows, I inputs, O outputs, G groups.
#pragma once
#include <array>
#include <atomic>
#include <cstdint>
#include <span>

#include "backbone/kernels/packed_linear/packed_kernels.h"
#include "backbone/kernels/packed_linear/packed_weight.h"

namespace euromodal {

/// Rows as a kernel reads them.
struct PackedRows {
  const uint8_t* x = nullptr;
  int64_t x_bytes = 0;  // from one to the next
  const float* scale_TG = nullptr;
  const int32_t* sum_TG = nullptr;
};

/// x_TI [T, I], contiguous, on the way to what weights of one form read: codes of int8, rows of f32
/// where the kernels want them widened, or x itself. E: float, BFloat16 or Half; bf16 weights: the
/// second.
template <typename E>
class PackedInputs {
 public:
  PackedInputs(const E* x_TI, int64_t rows, const PackedWeight& like, bool widened);

  /// Memory that is wanted of the caller, in lines of the cache.
  int64_t bytes() const { return bytes_; }
  void use(uint8_t* memory);
  /// Pieces of a row, each of piece_inputs() inputs but the last.
  int64_t row_pieces() const { return row_pieces_; }
  int64_t piece_inputs() const { return piece_inputs_; }
  /// Pieces [begin, end) of all rows, row by row.
  void prepare(int64_t begin, int64_t end) const;
  const PackedRows& rows() const { return ready_; }

 private:
  const E* x_;
  PackedForm form_;
  int64_t count_, inputs_, padded_, row_pieces_, piece_inputs_, bytes_ = 0;
  bool widened_;
  uint8_t* memory_ = nullptr;
  PackedRows ready_;
};

/// What has been taken of one thread's share of a product: a stretch of memory that it reads from
/// the front, so that what is fetched ahead is its own; those who are through take from the back.
class alignas(64) PackedShare {
 public:
  /// Takes some of the share's `count` units, which nobody else gets then; false: none is left.
  bool take(int64_t count, bool own, int64_t& begin, int64_t& end);

 private:
  std::atomic<uint64_t> taken_ = 0;  // low half: units from the front, high half: from the back
};

/// y = x Wᵀ + b for weights of the same inputs, at most three.
template <typename E>
class PackedProduct {
 public:
  struct Output {
    const PackedWeight* weight;
    const E* bias_O;            // or null
    E* y_TO;                    // contiguous
    const E* add_TO = nullptr;  // is added to the rounded sum, and rounded again; may be y_TO
  };
  PackedProduct(const PackedRows& x, int64_t rows, std::span<const Output> outputs,
                const PackedKernels& kernels);

  int64_t blocks() const { return blocks_; }
  /// Called once by each of as many threads as there are shares; comes back when nothing is left to
  /// take. Nothing of `shares` has been taken before the first call.
  void work(std::span<PackedShare> shares, int64_t rank) const;

 private:
  /// One weight's share of the work: `args` without the range of blocks.
  struct Job {
    PackedKernel kernel;
    PackedKernelArgs args;
    Output to;
    int64_t blocks, first;  // first: among the blocks of all weights
  };
  /// Blocks [begin, end) of all weights.
  void run(int64_t begin, int64_t end) const;
  std::array<Job, 3> jobs_ = {};
  size_t count_ = 0;
  int64_t blocks_ = 0;
};

}  // namespace euromodal
