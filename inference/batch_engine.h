// batch_engine.h — many prompts at once by continuous batching: every pass takes one row of each
// sequence that decodes and a piece of the prompt of those that begin; a place that becomes free is
// taken at once. With a device decoder, pieces of prompts and steps of its slots take turns.
// Reference: Yu et al. 2022, Orca; Agrawal et al. 2023, Sarathi (pieces of prompts).
#pragma once
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backbone/llama.h"
#include "backbone/prefill.h"
#include "inference/decoding.h"
#include "inference/generator.h"

namespace euromodal {

class Decoder;

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
  /// `decoder`: of this model, with as many slots as limits.sequences; null: the model's own
  /// passes.
  BatchEngine(const Llama& llama, const BatchLimits& limits,
              std::shared_ptr<Decoder> decoder = nullptr);
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
  /// One pass of the model -> hidden rows of the last positions of the sequences that it brought up
  /// to date, which are `through`.
  at::Tensor pass(std::vector<Slot*>& through);
  /// The next token of a sequence by its logits, which are spoilt.
  int64_t choose(Slot& slot, std::span<float> logits_V);
  void take_token(Slot& slot, int64_t id);
  // batch_on_device.cpp: what has been read gets a slot of the decoder; a token for each slot.
  void begin_on_device(Slot& slot, const at::Tensor& hidden_1D);
  void step_on_device();

  const Llama& llama_;
  BatchLimits limits_;
  std::shared_ptr<Decoder> decoder_;
  std::deque<BatchRequest> waiting_;
  std::vector<std::unique_ptr<Slot>> running_;
  int64_t reserved_ = 0;  // positions
};

}  // namespace euromodal
