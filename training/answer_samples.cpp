// answer_samples.cpp — see answer_samples.h.
#include "training/answer_samples.h"

#include <algorithm>

#include "core/log.h"
#include "multimodal/record_prompt.h"

namespace euromodal {
namespace {

int64_t samples_count(const Config& config, const std::string& key, int64_t otherwise) {
  const int64_t value = config.i64(key, otherwise);
  check<ConfigError>(value >= 1, "{}: expected 1 or more, got {}", config.where(key), value);
  return value;
}

}  // namespace

AnswerSamples::AnswerSamples(const Config& config, const Objective& objective)
    : every_(samples_count(config, "every", 100)),
      count_(samples_count(config, "count", 8)),
      max_new_tokens_(samples_count(config, "max_new_tokens", 24)),
      data_(open_datasets(config, "data")) {
  check<ConfigError>(objective.answers(),
                     "{}: this objective gives no answers; only next_token does", config.where());
}

std::vector<Json> AnswerSamples::run(int64_t step, const Objective& objective) const {
  std::vector<Json> out;
  for (int64_t i = 0; i < std::min(count_, data_->size()); ++i) {
    try {
      const Sample sample = data_->get(i);
      out.push_back({{"step", step},
                     {"id", sample.record.id},
                     {"kind", record_kind(sample.record)},
                     {"prompt", record_prompt(sample.record)},
                     {"reference", record_reference(sample.record)},
                     {"answer", objective.answer(sample, max_new_tokens_)}});
    } catch (const DataError& e) {
      log_warn("sample {} left out: {}", i, e.what());
    }
  }
  return out;
}

}  // namespace euromodal
