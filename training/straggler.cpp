// straggler.cpp — see straggler.h.
#include "training/straggler.h"

#include <algorithm>
#include <cstring>
#include <sstream>

#include <unistd.h>

#include "core/log.h"

namespace euromodal {
namespace {

// Below this per step a ratio is the noise of clocks and schedulers.
constexpr double kStragglerNoiseS = 0.002;

/// The lower one of an even number: of two ranks the faster, so that the slower can be named.
double straggler_median(const std::vector<RankTimes>& times) {
  std::vector<double> busy;
  for (const RankTimes& t : times) busy.push_back(t.busy());
  const auto middle = busy.begin() + static_cast<int64_t>((busy.size() - 1) / 2);
  std::nth_element(busy.begin(), middle, busy.end());
  return *middle;
}

double straggler_s(std::chrono::steady_clock::duration time) {
  return std::chrono::duration<double>(time).count();
}

}  // namespace

StragglerOptions StragglerOptions::parse(const Config& run) {
  StragglerOptions out;
  if (!run.has("straggler")) return out;
  const Config config = run.child("straggler");
  out.factor = config.f64("factor", out.factor);
  check<ConfigError>(out.factor > 1.0, "{}: expected more than 1, got {}", config.where("factor"),
                     out.factor);
  out.intervals = config.i64("intervals", out.intervals);
  check<ConfigError>(out.intervals >= 1, "{}: expected 1 or more, got {}",
                     config.where("intervals"), out.intervals);
  return out;
}

std::vector<std::string> StragglerJudge::judge(const std::vector<RankTimes>& times,
                                               const std::vector<std::string>& hosts,
                                               int64_t steps) {
  slow_.resize(times.size());
  std::vector<std::string> out;
  if (times.size() < 2 || steps == 0) return out;
  const double median = straggler_median(times), per_step = 1.0 / static_cast<double>(steps);
  for (size_t rank = 0; rank < times.size(); ++rank) {
    const double busy = times[rank].busy();
    const bool slow =
        busy > options_.factor * median && (busy - median) * per_step > kStragglerNoiseS;
    slow_[rank] = slow ? slow_[rank] + 1 : 0;
    if (slow_[rank] == 0 || slow_[rank] % options_.intervals != 0) continue;
    out.push_back(fmt::format(
        "rank {} on host {} is slow: {:.3f} s a step of its own work (data {:.3f}, compute {:.3f}) "
        "against a median of {:.3f} s, {:.2f} times, for {} log intervals in a row",
        rank, hosts[rank], busy * per_step, times[rank].data * per_step,
        times[rank].compute * per_step, median * per_step, busy / std::max(median, 1e-9),
        slow_[rank]));
  }
  return out;
}

Json StragglerJudge::row(const std::vector<RankTimes>& times, int64_t steps) {
  double waiting = 0.0;
  size_t slowest = 0;
  for (size_t rank = 0; rank < times.size(); ++rank) {
    waiting += times[rank].waiting;
    if (times[rank].busy() > times[slowest].busy()) slowest = rank;
  }
  return {{"waiting_s", waiting / static_cast<double>(times.size() * std::max<int64_t>(steps, 1))},
          {"slowest_rank", slowest},
          {"slowest_ratio", times[slowest].busy() / std::max(straggler_median(times), 1e-9)}};
}

Straggler::Straggler(Collectives& world, const StragglerOptions& options)
    : world_(world), judge_(options) {
  char host[256] = {};
  ::gethostname(host, sizeof host - 2);
  const std::string line = std::string(host) + "\n";
  const std::vector<char> all = world.all_gather(line.data(), static_cast<int64_t>(line.size()));
  std::istringstream lines(std::string(all.begin(), all.end()));
  for (std::string name; std::getline(lines, name);) hosts_.push_back(name);
}

void Straggler::step_begins() {
  begun_ = Clock::now();
  waited_s_ = world_.waited_s();
}

void Straggler::data_here() { data_ = Clock::now(); }

void Straggler::step_ends() {
  const double waited = world_.waited_s() - waited_s_;
  times_.data += straggler_s(data_ - begun_);
  times_.compute += straggler_s(Clock::now() - data_) - waited;
  times_.waiting += waited;
  ++steps_;
}

Json Straggler::report() {
  const double mine[3] = {times_.data, times_.compute, times_.waiting};
  const std::vector<char> all = world_.all_gather(mine, sizeof mine);
  std::vector<RankTimes> times(static_cast<size_t>(world_.size()));
  for (size_t rank = 0; rank < times.size(); ++rank) {
    double theirs[3];
    std::memcpy(theirs, all.data() + rank * sizeof theirs, sizeof theirs);
    times[rank] = {theirs[0], theirs[1], theirs[2]};
  }
  const int64_t steps = steps_;
  times_ = {};
  steps_ = 0;
  if (world_.rank() == 0) {
    for (const std::string& line : judge_.judge(times, hosts_, steps)) log_warn("{}", line);
  }
  return StragglerJudge::row(times, steps);
}

}  // namespace euromodal
