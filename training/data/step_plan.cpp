// step_plan.cpp — see step_plan.h.
#include "training/data/step_plan.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"

namespace euromodal {
namespace {

class SamplesPlan final : public StepPlan {
 public:
  explicit SamplesPlan(int64_t samples) : samples_(samples) {}
  StepRange range(int64_t step) override { return {step * samples_, samples_}; }

 private:
  int64_t samples_;
};

class RowsPlan final : public StepPlan {
 public:
  RowsPlan(const Dataset& data, const Sampler& sampler, int64_t rows) : sampler_(sampler) {
    int64_t longest = 0, at = 0;
    costs_.reserve(data.size());
    for (int64_t i = 0; i < data.size(); ++i) {
      const int64_t cost =
          std::clamp<int64_t>(std::llround(data.cost(i)), 1, std::numeric_limits<int32_t>::max());
      costs_.push_back(static_cast<int32_t>(cost));
      total_ += cost;
      if (cost > longest) {
        longest = cost;
        at = i;
      }
    }
    check<ConfigError>(longest <= rows,
                       "batch.tokens {}: sample {} of {} alone has about {} rows; take a larger "
                       "budget or shorter samples",
                       rows, at, data.name(), longest);
    // Fewer steps where an even share would be less than the longest sample: every step then holds
    // the beginning of at least one.
    steps_ = std::min((total_ + rows - 1) / rows, total_ / longest);
  }

  StepRange range(int64_t step) override {
    const int64_t epoch = step / steps_, k = step % steps_;
    if (epoch != epoch_) find_begins(epoch);
    return {begins_[k], begins_[k + 1] - begins_[k]};
  }

 private:
  void find_begins(int64_t epoch) {
    const auto size = static_cast<int64_t>(costs_.size());
    begins_.assign(1, epoch * size);
    int64_t sum = 0;
    for (int64_t i = 0; i < size; ++i) {
      const int64_t global = epoch * size + i;
      // Of the rows before this sample: the first at or beyond k · total / steps begins step k.
      while (static_cast<int64_t>(begins_.size()) < steps_ && sum >= rows_before(begins_.size()))
        begins_.push_back(global);
      sum += costs_[sampler_.at(global)];
    }
    begins_.push_back((epoch + 1) * size);
    epoch_ = epoch;
  }
  // k · total / steps, rounded up; without overflow.
  int64_t rows_before(size_t step) const {
    const auto k = static_cast<int64_t>(step);
    return k * (total_ / steps_) + (k * (total_ % steps_) + steps_ - 1) / steps_;
  }

  Sampler sampler_;
  std::vector<int32_t> costs_;
  int64_t total_ = 0, steps_ = 0, epoch_ = -1;
  std::vector<int64_t> begins_;  // of the steps of epoch_, and its end
};

}  // namespace

std::unique_ptr<StepPlan> plan_samples(int64_t samples) {
  return std::make_unique<SamplesPlan>(samples);
}

std::unique_ptr<StepPlan> plan_rows(const Dataset& data, const Sampler& sampler, int64_t rows) {
  return std::make_unique<RowsPlan>(data, sampler, rows);
}

}  // namespace euromodal
