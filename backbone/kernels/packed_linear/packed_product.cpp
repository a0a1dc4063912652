// packed_product.cpp — see packed_product.h.
#include "backbone/kernels/packed_linear/packed_product.h"

#include <algorithm>

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include "backbone/kernels/packed_linear/quantize_inputs.h"
#include "backbone/kernels/simd.h"
#include "core/error.h"

namespace euromodal {

namespace {

constexpr int64_t kLine = 64;  // bytes of a line of the cache
constexpr int64_t kPieceInputs = 128;

int64_t in_lines(int64_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

template <typename E>
struct PackedStore {
  E* y;
  const E *bias, *add;
  int64_t outputs;
};

template <bool kBias, bool kAdd, typename E>
[[gnu::always_inline]] inline void store_row(const PackedStore<E>& to, const float* sums,
                                             int64_t at, int64_t output, int64_t count) {
#pragma omp simd
  for (int64_t o = 0; o < count; ++o) {
    float sum = sums[o];
    if constexpr (kBias) sum += static_cast<float>(to.bias[output + o]);
    if constexpr (kAdd) sum = static_cast<float>(to.add[at + o]) + rounded_to<E>(sum);
    put_rounded(to.y, at + o, sum);
  }
}

template <typename E>
[[gnu::always_inline]] inline void store_rows(const PackedStore<E>& to, const float* tile,
                                              int64_t row, int64_t rows, int64_t output,
                                              int64_t columns) {
  const int64_t count = std::min(columns, to.outputs - output);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t at = (row + r) * to.outputs + output;
    const float* sums = tile + r * columns;
    if (to.bias == nullptr && to.add == nullptr) {
      store_row<false, false>(to, sums, at, output, count);
    } else if (to.add == nullptr) {
      store_row<true, false>(to, sums, at, output, count);
    } else if (to.bias == nullptr) {
      store_row<false, true>(to, sums, at, output, count);
    } else {
      store_row<true, true>(to, sums, at, output, count);
    }
  }
}

EM_CPU_CLONES void store_tile(const PackedStore<float>& to, const float* tile, int64_t row,
                              int64_t rows, int64_t output, int64_t columns) {
  store_rows(to, tile, row, rows, output, columns);
}
EM_CPU_CLONES void store_tile(const PackedStore<c10::BFloat16>& to, const float* tile, int64_t row,
                              int64_t rows, int64_t output, int64_t columns) {
  store_rows(to, tile, row, rows, output, columns);
}
EM_CPU_CLONES void store_tile(const PackedStore<c10::Half>& to, const float* tile, int64_t row,
                              int64_t rows, int64_t output, int64_t columns) {
  store_rows(to, tile, row, rows, output, columns);
}

constexpr int64_t kUnitBlocks = 4;  // that are taken together: whole tiles, streams of one length

}  // namespace

bool PackedShare::take(int64_t count, bool own, int64_t& begin, int64_t& end) {
  constexpr int kHalf = 32;
  uint64_t taken = taken_.load(std::memory_order_relaxed), now = 0;
  do {
    const auto front = static_cast<int64_t>(taken & 0xFFFFFFFF),
               back = static_cast<int64_t>(taken >> kHalf), left = count - front - back;
    if (left <= 0) return false;
    const int64_t units = std::max<int64_t>(1, left / 2);  // small at last: all end together
    begin = own ? front : count - back - units;
    end = begin + units;
    now = taken + (own ? static_cast<uint64_t>(units) : static_cast<uint64_t>(units) << kHalf);
  } while (!taken_.compare_exchange_weak(taken, now, std::memory_order_relaxed));
  return true;
}

template <typename E>
PackedInputs<E>::PackedInputs(const E* x_TI, int64_t rows, const PackedWeight& like, bool widened)
    : x_(x_TI),
      form_(like.form),
      count_(rows),
      inputs_(like.inputs),
      padded_(like.layout().inputs),
      widened_(widened) {
  if (form_.form == WeightForm::kBf16) {
    check(std::is_same_v<E, c10::BFloat16>, "packed_linear: bf16 weights take bf16 rows, got {}",
          c10::toString(c10::CppTypeToScalarType<E>::value));
    const bool as_is = !widened && padded_ == inputs_;
    piece_inputs_ = kPieceInputs;
    ready_.x_bytes = padded_ * (widened ? 4 : 2);
    ready_.x = reinterpret_cast<const uint8_t*>(x_);
    bytes_ = as_is ? 0 : in_lines(count_ * ready_.x_bytes);
  } else {
    piece_inputs_ = form_.group;
    const int64_t groups = padded_ / form_.group;
    ready_.x_bytes = padded_;
    bytes_ = in_lines(count_ * padded_) + 2 * in_lines(count_ * groups * 4);
  }
  row_pieces_ = (inputs_ + piece_inputs_ - 1) / piece_inputs_;
}

template <typename E>
void PackedInputs<E>::use(uint8_t* memory) {
  if (bytes_ == 0) return;
  memory_ = memory;
  ready_.x = memory;
  if (form_.form == WeightForm::kBf16) return;
  uint8_t* const scales = memory + in_lines(count_ * padded_);
  ready_.scale_TG = reinterpret_cast<const float*>(scales);
  ready_.sum_TG = reinterpret_cast<const int32_t*>(scales + in_lines(count_ * row_pieces_ * 4));
}

template <typename E>
void PackedInputs<E>::prepare(int64_t begin, int64_t end) const {
  if (bytes_ == 0) return;
  if (form_.form != WeightForm::kBf16) {
    uint8_t* const scales = memory_ + in_lines(count_ * padded_);
    return quantize_inputs(InputGroups<E>{
        x_, inputs_, row_pieces_, form_.group, reinterpret_cast<int8_t*>(memory_),
        reinterpret_cast<float*>(scales),
        reinterpret_cast<int32_t*>(scales + in_lines(count_ * row_pieces_ * 4)), begin, end});
  }
  for (int64_t p = begin; p < end; ++p) {
    const int64_t row = p / row_pieces_, from = p % row_pieces_ * piece_inputs_;
    const int64_t to = std::min(from + piece_inputs_, padded_);
    const E* x = x_ + row * inputs_;
    for (int64_t i = from; i < to; ++i) {
      const E value = i < inputs_ ? x[i] : E(0.0F);
      if (widened_) {
        reinterpret_cast<float*>(memory_)[row * padded_ + i] = static_cast<float>(value);
      } else {
        reinterpret_cast<E*>(memory_)[row * padded_ + i] = value;
      }
    }
  }
}

template <typename E>
PackedProduct<E>::PackedProduct(const PackedRows& x, int64_t rows, std::span<const Output> outputs,
                                const PackedKernels& kernels) {
  check(outputs.size() <= jobs_.size(),
        "packed_linear: {} weights in one pass, expected {} at most", outputs.size(), jobs_.size());
  for (const Output& output : outputs) {
    const PackedWeight& w = *output.weight;
    Job& job = jobs_[count_++];
    job.kernel = w.form.form == WeightForm::kBf16   ? kernels.bf16
                 : w.form.form == WeightForm::kInt8 ? kernels.int8
                                                    : kernels.int4;
    job.args.x = x.x;
    job.args.x_bytes = x.x_bytes;
    job.args.x_scale_MG = x.scale_TG;
    job.args.x_sum_MG = x.sum_TG;
    job.args.layout = w.layout();
    job.args.group = w.form.group;
    job.args.asymmetric = w.form.asymmetric;
    job.args.weight = w.blocks.const_data_ptr<uint8_t>();
    job.args.M = rows;
    job.args.store = [](void* to, const float* tile, int64_t row, int64_t count, int64_t at,
                        int64_t columns) {
      store_tile(*static_cast<const PackedStore<E>*>(to), tile, row, count, at, columns);
    };
    job.to = output;
    job.first = blocks_;
    job.blocks = w.blocks.size(0);
    blocks_ += job.blocks;
  }
}

template <typename E>
void PackedProduct<E>::work(std::span<PackedShare> shares, int64_t rank) const {
  const auto threads = static_cast<int64_t>(shares.size());
  if (threads == 1) return run(0, blocks_);
  const int64_t units = (blocks_ + kUnitBlocks - 1) / kUnitBlocks;
  for (int64_t i = 0; i < threads; ++i) {
    const int64_t owner = (rank + i) % threads, first = units * owner / threads,
                  count = units * (owner + 1) / threads - first;
    int64_t begin = 0, end = 0;
    while (shares[static_cast<size_t>(owner)].take(count, owner == rank, begin, end))
      run((first + begin) * kUnitBlocks, std::min((first + end) * kUnitBlocks, blocks_));
  }
}

template <typename E>
void PackedProduct<E>::run(int64_t begin, int64_t end) const {
  for (const Job& job : std::span(jobs_).first(count_)) {
    PackedStore<E> to{job.to.y_TO, job.to.bias_O, job.to.add_TO, job.to.weight->outputs};
    PackedKernelArgs args = job.args;
    args.to = &to;
    args.begin = std::max<int64_t>(begin - job.first, 0);
    args.end = std::min(end - job.first, job.blocks);
    if (args.begin < args.end) job.kernel(args);
  }
}

template class PackedInputs<float>;
template class PackedInputs<c10::BFloat16>;
template class PackedInputs<c10::Half>;
template class PackedProduct<float>;
template class PackedProduct<c10::BFloat16>;
template class PackedProduct<c10::Half>;

}  // namespace euromodal
