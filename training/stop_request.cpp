// stop_request.cpp — see stop_request.h.
#include "training/stop_request.h"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <iterator>

#include "training/dist/watchdog.h"

namespace euromodal {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr size_t kStepsRemembered = 32;
constexpr double kLookEvery = 0.5;  // seconds between two looks into the run's folder

std::atomic<bool> stop_signal{false};  // set by signals only

Clock::duration stop_seconds(double seconds) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

double stop_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

}  // namespace

double parse_duration(const Config& config, const std::string& key) {
  const std::string text = config.str(key);
  double total = 0.0;
  const char* at = text.data();
  const char* end = at + text.size();
  const auto wrong = [&]() {
    return ConfigError("{}: expected a time like 3h30m, 45m, 1d12h or seconds, got '{}'",
                       config.where(key), text);
  };
  double last_unit = 1e9;  // units fall: 30m3h is a slip
  while (at != end) {
    double number = 0.0;
    const auto [stop, error] = std::from_chars(at, end, number);
    if (error != std::errc() || !(number >= 0.0) || !std::isfinite(number)) throw wrong();
    double unit = 1.0;
    at = stop;
    if (at != end) {
      const std::string_view units = "dhms";
      const auto index = units.find(*at++);
      if (index == std::string_view::npos) throw wrong();
      unit = std::array<double, 4>{86400.0, 3600.0, 60.0, 1.0}[index];
    }
    if (unit >= last_unit) throw wrong();
    last_unit = unit;
    total += number * unit;
  }
  if (!(total > 0.0)) throw wrong();
  return total;
}

std::optional<Clock::time_point> run_deadline(const Config& run, Clock::time_point started) {
  std::optional<Clock::time_point> out;
  if (run.has("wall_clock_limit"))
    out = started + stop_seconds(parse_duration(run, "wall_clock_limit"));
  // NOLINTNEXTLINE(concurrency-mt-unsafe): read before threads start
  if (const char* job_end = std::getenv("SLURM_JOB_END_TIME"); job_end != nullptr) {
    const std::string_view text = job_end;
    int64_t unix_s = 0;
    const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), unix_s);
    check<ConfigError>(error == std::errc() && stop == text.data() + text.size(),
                       "SLURM_JOB_END_TIME: expected seconds since 1970, got '{}'", text);
    const std::chrono::duration<double> now = std::chrono::system_clock::now().time_since_epoch();
    const Clock::time_point at =
        Clock::now() + stop_seconds(static_cast<double>(unix_s) - now.count());
    out = out ? std::min(*out, at) : at;
  }
  return out;
}

std::string StopVotes::reason() const {
  if (of[kSignal] > 0.0) return "a signal";
  if (of[kTime] > 0.0) return "the end of its time";
  return "the file stop";
}

StopRequest::StopRequest(StopOptions options) : options_(std::move(options)), start_(Clock::now()) {
  stop_signal = false;
  honoured({.of = {0.0, 0.0, 1.0, 1.0}});
  for (size_t i = 0; i < std::size(kSignals); ++i) {
    struct sigaction action {};
    action.sa_handler = [](int signal) {
      stop_signal = true;
      // mpirun and srun end the ranks of a faulty run this way: the flight record is wanted.
      if (signal == SIGTERM) note_watchdog_signal(signal);
    };
    ::sigaction(kSignals[i], &action, &before_[i]);
  }
}

StopRequest::~StopRequest() {
  for (size_t i = 0; i < std::size(kSignals); ++i) ::sigaction(kSignals[i], &before_[i], nullptr);
}

bool StopRequest::time_is_up(Clock::time_point now, double checkpoint_s) const {
  if (!options_.deadline) return false;
  const double longest =
      steps_s_.empty() ? 0.0 : *std::max_element(steps_s_.begin(), steps_s_.end());
  const double margin = std::min(30.0, 0.02 * stop_between(start_, *options_.deadline));
  return stop_between(now, *options_.deadline) <
         2.0 * longest + 2.0 * checkpoint_s + std::max(margin, 0.0);
}

StopVotes StopRequest::votes(double checkpoint_s) {
  StopVotes out;
  out.of[StopVotes::kSignal] = stop_signal ? 1.0 : 0.0;
  if (!options_.leader) return out;
  const Clock::time_point now = Clock::now();
  if (last_step_) {
    steps_s_.push_back(stop_between(*last_step_, now));
    if (steps_s_.size() > kStepsRemembered) steps_s_.pop_front();
  }
  last_step_ = now;
  out.of[StopVotes::kTime] = time_is_up(now, checkpoint_s) ? 1.0 : 0.0;
  if (!last_look_ || stop_between(*last_look_, now) >= kLookEvery) {
    last_look_ = now;
    std::error_code ignored;
    out.of[StopVotes::kStopFile] = fs::exists(options_.dir / "stop", ignored) ? 1.0 : 0.0;
    out.of[StopVotes::kSaveFile] = fs::exists(options_.dir / "save", ignored) ? 1.0 : 0.0;
  }
  return out;
}

void StopRequest::honoured(const StopVotes& agreed) const {
  if (!options_.leader) return;
  std::error_code ignored;
  if (agreed.of[StopVotes::kStopFile] > 0.0) fs::remove(options_.dir / "stop", ignored);
  if (agreed.of[StopVotes::kSaveFile] > 0.0) fs::remove(options_.dir / "save", ignored);
}

}  // namespace euromodal
