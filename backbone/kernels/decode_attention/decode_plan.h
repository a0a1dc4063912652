// decode_plan.h — decode_attention() cut into pieces that threads take, over memory of the caller:
// parts of the positions of every key/value head, then the rows joined from their parts. The same
// plan serves all layers of a pass. H query heads, K key/value heads, N head width.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "backbone/kernels/cpu_features.h"
#include "backbone/kernels/decode_attention/decode_attention.h"
#include "backbone/kernels/decode_attention/decode_kernels.h"
#include "backbone/kernels/decode_attention/kv_layout.h"

namespace euromodal {

class DecodePlan {
 public:
  /// `sequences` outlive it. `bf16`: queries and results are bf16. Error: `query_heads` is no
  /// multiple of the layout's, or a sequence has fewer pages or positions than it says.
  DecodePlan(const KvLayout& layout, std::span<const DecodeSequence> sequences, int64_t query_heads,
             bool bf16, double scale, CpuIsa isa = cpu_isa());

  int64_t parts() const { return static_cast<int64_t>(parts_.size()); }
  int64_t joins() const { return static_cast<int64_t>(first_part_.size()) - 1; }
  /// Size of the workspace.
  int64_t floats() const { return floats_; }

  /// Parts [first, last) of a layer; q: rows of H · N (T f32, bf16 or f16), q_row apart.
  template <typename T>
  void run(int64_t first, int64_t last, int64_t layer, const T* q, int64_t q_row,
           float* workspace) const;
  /// Joins [first, last), once their parts have run; out: rows of H · N, out_row apart.
  template <typename T>
  void join(int64_t first, int64_t last, float* workspace, T* out, int64_t out_row) const;

 private:
  /// One key/value head of a sequence over a part of its positions.
  struct Part {
    const DecodeSequence* sequence;
    int64_t head, begin, end;
    int64_t rows;  // new rows times the group
    // In the workspace: [rows, W] queries, [rows, W] sums, [rows] maxima, [rows] sums of weights.
    int64_t at;
  };
  template <typename T>
  void put_queries(const T* q, int64_t q_row, const Part& part, float* to) const;

  KvLayout layout_;
  int64_t group_;
  float scale_;
  DecodeKernelChoice kernel_;
  std::vector<Part> parts_;
  std::vector<size_t> first_part_;  // of each sequence and head that has rows, and the end
  int64_t floats_ = 0;
};

}  // namespace euromodal
