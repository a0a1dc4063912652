// checkpointer.cpp — see checkpointer.h.
#include "training/checkpointer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <set>

#include "core/files.h"
#include "core/log.h"
#include "training/config_count.h"

namespace euromodal {
namespace {

namespace fs = std::filesystem;

constexpr double kAssumedBytesPerSecond = 1e8;  // of a slow disk, until one write was timed

/// The stored figure of a checkpoint; nothing when its validation did not give one.
std::optional<double> checkpointer_figure(const fs::path& folder, const std::string& metric) {
  const Json state = read_json(folder / "state.json");
  const auto figures = state.find("figures");
  if (figures == state.end() || !figures->is_object()) return std::nullopt;
  const auto value = figures->find(metric);
  if (value == figures->end() || !value->is_number()) return std::nullopt;
  return value->get<double>();
}

}  // namespace

CheckpointOptions CheckpointOptions::parse(const Config& config) {
  CheckpointOptions out;
  out.every = config_count(config, "every", 0, 0);
  out.keep = config_count(config, "keep", 2, 1);
  out.async = config.boolean("async", true);
  if (config.has("best")) {
    const Config best = config.child("best");
    out.best_metric = best.str("metric");
    out.best_is_smallest = best.choice("mode", {"min", "max"}) == "min";
    out.best_keep = config_count(best, "keep", 1, 1);
  }
  return out;
}

Checkpointer::Checkpointer(fs::path checkpoints, const CheckpointOptions& options,
                           RunIdentity identity, int64_t first_step)
    : checkpoints_(std::move(checkpoints)), options_(options), identity_(std::move(identity)) {
  if (options_.best_metric.empty()) return;
  for (const CheckpointInfo& info : complete_checkpoints(checkpoints_)) {
    const auto value = checkpointer_figure(info.folder, options_.best_metric);
    if (info.step > first_step || !value) continue;
    if (!best_ || (options_.best_is_smallest ? *value < *best_ : *value > *best_)) best_ = value;
  }
}

Checkpointer::~Checkpointer() {
  try {
    wait();
  } catch (const std::exception& e) {
    log_warn("{}", e.what());
  }
}

void Checkpointer::save(RunState state) {
  wait();
  if (!options_.best_metric.empty() && state.figures.contains(options_.best_metric) &&
      improves(state.figures))
    best_ = state.figures[options_.best_metric].get<double>();
  if (!options_.async) return write(state);
  writing_ =
      std::async(std::launch::async, [this, copy = copy_of(std::move(state))] { write(copy); });
}

void Checkpointer::write(const RunState& state) {
  const auto start = std::chrono::steady_clock::now();
  try {
    write_checkpoint(checkpoints_, identity_, state);
  } catch (const std::exception& e) {
    throw CheckpointError("checkpoint of step {} was not written: {}", state.step, e.what());
  }
  prune(state.step);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  seconds_ = std::max(seconds_.load(), took.count());
}

void Checkpointer::poll() {
  if (writing_.valid() && writing_.wait_for(std::chrono::seconds(0)) == std::future_status::ready)
    writing_.get();
}

void Checkpointer::wait() {
  if (writing_.valid()) writing_.get();
}

bool Checkpointer::improves(const Json& figures) const {
  const auto value = figures.find(options_.best_metric);
  if (value == figures.end()) {
    std::string names;
    for (const auto& [name, figure] : figures.items()) names += (names.empty() ? "" : ", ") + name;
    throw ConfigError("checkpoint.best.metric: validation gives no {}; it gives {}",
                      options_.best_metric, names.empty() ? "nothing" : names);
  }
  if (!value->is_number() || !std::isfinite(value->get<double>())) return false;
  const auto number = value->get<double>();
  return !best_ || (options_.best_is_smallest ? number < *best_ : number > *best_);
}

double Checkpointer::expected_seconds(int64_t bytes) const {
  const double seen = seconds_.load();
  return seen > 0.0 ? seen : static_cast<double>(bytes) / kAssumedBytesPerSecond;
}

void Checkpointer::prune(int64_t step) const {
  std::vector<CheckpointInfo> mine;
  std::set<fs::path> stay;
  for (const CheckpointInfo& info : complete_checkpoints(checkpoints_)) {
    // Steps that are still to come belong to a run that went further before: replaced when reached.
    if (info.step > step)
      stay.insert(info.folder);
    else
      mine.push_back(info);
  }
  const auto newest = std::max<int64_t>(0, static_cast<int64_t>(mine.size()) - options_.keep);
  for (auto it = mine.begin() + newest; it != mine.end(); ++it) stay.insert(it->folder);
  if (!options_.best_metric.empty()) {
    std::vector<std::pair<double, fs::path>> ranked;
    for (const CheckpointInfo& info : mine) {
      if (const auto value = checkpointer_figure(info.folder, options_.best_metric))
        ranked.emplace_back(options_.best_is_smallest ? *value : -*value, info.folder);
    }
    std::stable_sort(ranked.begin(), ranked.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
    for (size_t i = 0; i < ranked.size() && static_cast<int64_t>(i) < options_.best_keep; ++i)
      stay.insert(ranked[i].second);
    if (!ranked.empty()) {  // `best` changes in one step: a link under another name, renamed
      std::error_code error;
      const fs::path next = checkpoints_ / "best.next";
      fs::remove(next, error);
      fs::create_directory_symlink(ranked.front().second.filename(), next, error);
      if (!error) fs::rename(next, checkpoints_ / "best", error);
      if (error)
        log_warn("{}: no link to the best checkpoint: {}", checkpoints_.string(), error.message());
    }
  }
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(checkpoints_, ignored)) {
    if (!entry.is_symlink() && !stay.contains(entry.path())) fs::remove_all(entry.path(), ignored);
  }
}

}  // namespace euromodal
