// decode_plan.h — decode_attention() cut into pieces that threads take, over memory of the caller:
// parts of the positions of neighbouring key/value heads, then the rows joined from their parts.
// The same plan serves all layers of a pass. H query heads, K key/value heads, N head width.
#pragma once
#include <atomic>
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
  /// multiple of the layout's, or a sequence has fewer pages or positions than it says. The bits of
  /// results do not depend on `threads`.
  DecodePlan(const KvLayout& layout, std::span<const DecodeSequence> sequences, int64_t query_heads,
             bool bf16, double scale, int64_t threads, CpuIsa isa = cpu_isa());

  int64_t parts() const { return static_cast<int64_t>(parts_.size()); }
  int64_t joins() const { return static_cast<int64_t>(first_span_.size() - 1) * layout_.kv_heads; }
  /// Size of the workspace.
  int64_t floats() const { return floats_; }

  /// The parts of a layer, called once by each of at most `threads` threads; comes back when
  /// nothing is left to take. `taken` is 0 before the first. q: rows of H · N (T f32, bf16 or f16),
  /// q_row apart.
  template <typename T>
  void work(std::atomic<int64_t>& taken, int64_t rank, int64_t layer, const T* q, int64_t q_row,
            float* workspace) const;
  /// Joins [first, last), once all parts are done; out: rows of H · N, out_row apart.
  template <typename T>
  void join(int64_t first, int64_t last, float* workspace, T* out, int64_t out_row) const;

 private:
  /// Neighbouring heads of a sequence over a span of its positions.
  struct Part {
    const DecodeSequence* sequence;
    int64_t head, heads, begin, end;
    int64_t rows;  // of a head: new rows times the group
    int64_t at;    // of the results in the workspace
  };
  /// All heads of it: parts from `first` on, of head_run heads each.
  struct Span {
    int64_t begin, end, first, head_run;
  };
  void add_parts(const DecodeSequence& sequence, Span& span, int64_t head_run);
  template <typename T>
  void put_queries(const T* q, int64_t q_row, const Part& part, float* to) const;
  void run(const Part& part, const Part* then, int64_t layer, const float* queries,
           float* workspace) const;
  const uint8_t* first_keys(const Part& part, int64_t layer) const;

  KvLayout layout_;
  int64_t group_, threads_;
  float scale_;
  DecodeKernelChoice kernel_;
  std::vector<const DecodeSequence*> sequences_;  // that have rows
  std::vector<Span> spans_;                       // of each, by position
  std::vector<size_t> first_span_;                // of each, and the end
  std::vector<Part> parts_;
  // In the workspace: results of each part, then a place for queries of each thread.
  int64_t queries_at_ = 0, queries_floats_ = 0, floats_ = 0;
};

}  // namespace euromodal
