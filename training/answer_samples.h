// answer_samples.h — what the model answers to a few held-out records while it is trained, beside
// what it should have said.
#pragma once
#include <cstdint>
#include <memory>

#include "core/config.h"
#include "core/json.h"
#include "training/data/dataset.h"
#include "training/objective.h"

namespace euromodal {

class AnswerSamples {
 public:
  /// `samples: {every, data: [...], count, max_new_tokens}`. ConfigError when the objective gives
  /// no answers.
  AnswerSamples(const Config& config, const Objective& objective);
  bool due(int64_t done) const { return done % every_ == 0; }
  /// Rows {step, id, kind, prompt, reference, answer} of the first `count` records, greedily
  /// decoded. Every rank does the same work, so that weights spread over ranks can be gathered on
  /// the way. Records that cannot be read are left out and logged.
  std::vector<Json> run(int64_t step, const Objective& objective) const;

 private:
  int64_t every_, count_, max_new_tokens_;
  std::shared_ptr<const Dataset> data_;
};

}  // namespace euromodal
