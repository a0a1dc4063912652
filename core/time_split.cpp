// time_split.cpp — see time_split.h.
#include "core/time_split.h"

#include <cstring>

namespace euromodal {
namespace {

thread_local TimeSplit* time_split_here = nullptr;

}  // namespace

TimeSplit::TimeSplit() : outer_(time_split_here), since_(Clock::now()) { time_split_here = this; }

TimeSplit::~TimeSplit() { time_split_here = outer_; }

void TimeSplit::charge(Clock::time_point now) {
  if (!open_.empty())
    sums_[open_.back()].second += std::chrono::duration<double>(now - since_).count();
  since_ = now;
}

void TimeSplit::enter(const char* name) {
  charge(Clock::now());
  size_t index = 0;
  while (index < sums_.size() && std::strcmp(sums_[index].first, name) != 0) ++index;
  if (index == sums_.size()) sums_.emplace_back(name, 0.0);
  open_.push_back(index);
}

void TimeSplit::leave() {
  charge(Clock::now());
  open_.pop_back();
}

std::vector<std::pair<std::string, double>> TimeSplit::take() {
  std::vector<std::pair<std::string, double>> out;
  for (auto& [name, seconds] : sums_) out.emplace_back(name, std::exchange(seconds, 0.0));
  return out;
}

TimeScope::TimeScope(const char* name) : split_(time_split_here) {
  if (split_ != nullptr) split_->enter(name);
}

TimeScope::~TimeScope() {
  if (split_ != nullptr) split_->leave();
}

}  // namespace euromodal
