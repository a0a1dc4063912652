// progress.cpp — see progress.h. On a terminal one line is redrawn; elsewhere a line every ten
// seconds keeps logs short.
#include "core/progress.h"

#include <algorithm>
#include <cstdio>

#include <fmt/format.h>
#include <unistd.h>

namespace euromodal {
namespace {

std::string progress_duration(double seconds) {
  const auto s = static_cast<int64_t>(seconds + 0.5);
  if (s >= 3600) return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
  return fmt::format("{}:{:02}", s / 60, s % 60);
}

constexpr int kBarWidth = 24;

}  // namespace

Progress::Progress(std::string title, int64_t total, std::string unit, bool enabled, int64_t before)
    : title_(std::move(title)),
      unit_(std::move(unit)),
      total_(total),
      before_(before),
      enabled_(enabled),
      terminal_(isatty(STDERR_FILENO) != 0),
      start_(std::chrono::steady_clock::now()),
      drawn_(start_ - std::chrono::hours(1)) {
  if (!terminal_) drawn_ = start_;  // short work prints nothing but its last line
}

Progress::~Progress() {
  if (!finished_ && enabled_ && terminal_) std::fputc('\n', stderr);
}

void Progress::update(int64_t done, const std::string& note) {
  done_ = done;
  note_ = note;
  if (!enabled_) return;
  const auto gap = terminal_ ? std::chrono::milliseconds(100) : std::chrono::milliseconds(10000);
  if (std::chrono::steady_clock::now() - drawn_ >= gap) draw(/*last=*/false);
}

void Progress::finish(const std::string& note) {
  if (!note.empty()) note_ = note;
  if (enabled_ && !finished_) draw(/*last=*/true);
  finished_ = true;
}

void Progress::draw(bool last) {
  drawn_ = std::chrono::steady_clock::now();
  const double seconds = std::chrono::duration<double>(drawn_ - start_).count();
  std::string line = title_ + " ";
  if (total_ > 0) {
    const double share =
        std::clamp(static_cast<double>(done_) / static_cast<double>(total_), 0.0, 1.0);
    const int full = static_cast<int>(share * kBarWidth);
    if (terminal_) line += "[" + std::string(full, '#') + std::string(kBarWidth - full, '.') + "] ";
    line += fmt::format("{}/{} {} ({:.0f} %) {}", done_, total_, unit_, 100.0 * share,
                        progress_duration(seconds));
    if (!last && done_ > before_)
      line += " ETA " + progress_duration(seconds / static_cast<double>(done_ - before_) *
                                          static_cast<double>(total_ - done_));
  } else {
    line += fmt::format("{} {} {}", done_, unit_, progress_duration(seconds));
  }
  if (!note_.empty()) line += "  " + note_;
  std::fprintf(stderr, terminal_ ? (last ? "\r\033[K%s\n" : "\r\033[K%s") : "%s\n", line.c_str());
  std::fflush(stderr);
}

}  // namespace euromodal
