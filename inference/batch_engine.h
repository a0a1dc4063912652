// batch_engine.h — many prompts at once by continuous batching: every pass takes one row of each
// sequence that decodes and a piece of the prompt of those that begin; a place that becomes free is
// taken at once. Reference: Yu et al. 2022, Orca; Agrawal et al. 2023, Sarathi (pieces of prompts).
#pragma once
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backbone/llama.h"
#include "backbone/prefill.h"
#include "inference/decoding.h"
#include "inference/generator.h"

namespace euromodal {

struct BatchLimits {
  int64_t sequences = 8;             // that are under way at once
  int64_t pass_rows = kPrefillRows;  // rows of one pass
  int64_t cache_tokens = 0;          // positions that all sequences may need together; 0: no bound
};

struct BatchRequest {
  int64_t number = 0;  // the caller's
  std::vector<int64_t> prompt_ids;
  GenerateOptions options;  // no beams, no lookup; one form of cache for all
};

/// With options.kept prompts of a common beginning read it once: those that come while it is being
/// read wait for it. Tokens are those that generate() chooses, but for what rounding in products of
/// more rows does to logits that are all but equal.
class BatchEngine {
 public:
  BatchEngine(const Llama& llama, const BatchLimits& limits);
  ~BatchEngine();
  /// DataError: a prompt that generate() would refuse, or one that cannot fit into cache_tokens.
  void add(BatchRequest request);
  /// Is there something to do?
  bool busy() const { return !waiting_.empty() || !running_.empty(); }
  size_t waiting() const { return waiting_.size(); }
  /// One pass; calls `done` for each sequence that ended.
  void step(const std::function<void(int64_t number, Generated result)>& done);

 private:
  struct Slot;
  int64_t reserved(const BatchRequest& request) const;
  bool begin(Slot& slot);
  void admit();

  const Llama& llama_;
  BatchLimits limits_;
  std::deque<BatchRequest> waiting_;
  std::vector<std::unique_ptr<Slot>> running_;
  int64_t reserved_ = 0;  // positions
};

}  // namespace euromodal
