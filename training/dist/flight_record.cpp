// flight_record.cpp — see flight_record.h.
#include "training/dist/flight_record.h"

#include <algorithm>
#include <chrono>

#include <unistd.h>

namespace euromodal {
namespace {

constexpr double kFlightOpen = -1.0, kFlightFailed = -2.0;  // instead of a time

double flight_unix_s() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace

std::string FlightCall::text() const {
  std::string out = operation;
  if (!dtype.empty()) {
    out += count < 0 ? fmt::format(" of {}", dtype) : fmt::format(" of {} {}", count, dtype);
  }
  return group == "world" ? out : out + " in group " + group;
}

std::string FlightRecord::host_name() {
  char host[256] = {};
  ::gethostname(host, sizeof host - 1);
  return host;
}

double FlightRecord::steady_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void FlightRecord::progress() { progress_s_ = steady_s(); }

void FlightRecord::set_rank(int rank, int size) {
  const std::lock_guard lock(mutex_);
  rank_ = rank;
  size_ = size;
}

void FlightRecord::set_phase(const std::string& phase, double deadline_s) {
  const std::lock_guard lock(mutex_);
  phase_ = phase;
  deadline_s_ = deadline_s;
  progress();
}

int64_t FlightRecord::enqueue(FlightCall call) {
  const std::lock_guard lock(mutex_);
  progress();
  const int64_t sequence = ++sequences_[call.group];
  entries_.push_back({.call = std::move(call),
                      .phase = phase_,
                      .ticket = ++tickets_,
                      .sequence = sequence,
                      .enqueue_s = flight_unix_s()});
  if (entries_.size() > capacity_) entries_.pop_front();
  return tickets_;
}

FlightRecord::Entry* FlightRecord::find(int64_t ticket) {
  const int64_t first = entries_.empty() ? 0 : entries_.front().ticket;
  const bool kept = !entries_.empty() && ticket >= first && ticket <= tickets_;
  return kept ? &entries_[static_cast<size_t>(ticket - first)] : nullptr;
}

void FlightRecord::block(int64_t ticket) {
  const std::lock_guard lock(mutex_);
  progress();
  blocked_ = ticket;
  blocked_since_s_ = progress_s_;
}

void FlightRecord::leave() {
  progress();
  if (blocked_ != 0) blocked_s_ += progress_s_ - blocked_since_s_;
  blocked_ = 0;
}

void FlightRecord::unblock() {
  const std::lock_guard lock(mutex_);
  leave();
}

void FlightRecord::set_stood_still(double seconds) {
  const std::lock_guard lock(mutex_);
  stood_still_s_ = seconds;
}

double FlightRecord::blocked_s() const {
  const std::lock_guard lock(mutex_);
  return blocked_s_;
}

void FlightRecord::started(const std::string& group, int64_t sequence) {
  const std::lock_guard lock(mutex_);
  progress();
  const auto at = std::find_if(entries_.rbegin(), entries_.rend(), [&](const Entry& entry) {
    return entry.sequence == sequence && entry.call.group == group;
  });
  if (at != entries_.rend()) at->start_s = flight_unix_s();
}

void FlightRecord::ended(int64_t ticket) {
  const std::lock_guard lock(mutex_);
  if (blocked_ == ticket) leave();
  progress();
  if (Entry* entry = find(ticket)) entry->end_s = flight_unix_s();
}

void FlightRecord::failed(int64_t ticket) {
  const std::lock_guard lock(mutex_);
  if (blocked_ == ticket) leave();
  if (Entry* entry = find(ticket)) entry->end_s = kFlightFailed;
}

FlightRecord::Now FlightRecord::now() const {
  const std::lock_guard lock(mutex_);
  Now out{.rank = rank_,
          .size = size_,
          .phase = phase_,
          .deadline_s = deadline_s_,
          .silent_s = steady_s() - progress_s_};
  for (const Entry& entry : entries_) {
    if (entry.end_s == kFlightOpen) ++out.pending;
    if (entry.ticket != blocked_) continue;
    out.inside = fmt::format("{} (number {})", entry.call.text(), entry.sequence);
    out.waiting = entry.start_s < 0.0;
  }
  return out;
}

Json FlightRecord::json(const std::string& reason) const {
  const Now at = now();
  const std::lock_guard lock(mutex_);
  Json calls = Json::array();
  for (const Entry& e : entries_) {
    calls.push_back({{"sequence", e.sequence},
                     {"operation", e.call.operation},
                     {"count", e.call.count},
                     {"dtype", e.call.dtype},
                     {"group", e.call.group},
                     {"phase", e.phase},
                     {"enqueue_s", e.enqueue_s},
                     {"start_s", e.start_s},
                     {"end_s", e.end_s}});
  }
  return {{"rank", at.rank},
          {"size", at.size},
          {"host", host_},
          {"pid", ::getpid()},
          {"reason", reason},
          {"written_s", flight_unix_s()},
          {"phase", at.phase},
          {"deadline_s", at.deadline_s},
          {"silent_s", at.silent_s},
          {"inside", at.inside},
          {"waiting", at.waiting},
          {"pending", at.pending},
          {"stood_still_s", stood_still_s_},
          {"calls", calls}};
}

}  // namespace euromodal
