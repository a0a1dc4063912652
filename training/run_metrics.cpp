// run_metrics.cpp — see run_metrics.h. Ranks may hold different names (a rank without sound has no
// loss_audio): they travel as JSON.
#include "training/run_metrics.h"

#include <cmath>
#include <fstream>
#include <sstream>

#include <ATen/ATen.h>
#include <sys/resource.h>
#include <unistd.h>

#include "core/json.h"

namespace euromodal {

void RunMetrics::add(const std::string& name, double sum, double count) {
  auto& [s, c] = sums_[name];
  s += sum;
  c += count;
}

void RunMetrics::add(std::vector<Metric> metrics) {
  for (Metric& metric : metrics) {
    metric.sum = metric.sum.detach();
    waiting_.push_back(std::move(metric));
  }
}

void RunMetrics::fetch() {
  if (waiting_.empty()) return;
  std::vector<at::Tensor> sums;
  for (const Metric& metric : waiting_) sums.push_back(metric.sum.to(at::kDouble).reshape({1}));
  const at::Tensor all = at::cat(sums).cpu();
  for (size_t i = 0; i < waiting_.size(); ++i)
    add(waiting_[i].name, all.const_data_ptr<double>()[i], waiting_[i].count);
  waiting_.clear();
}

std::pair<double, double> RunMetrics::sum(const std::string& name) {
  fetch();
  const auto found = sums_.find(name);
  return found == sums_.end() ? std::pair(0.0, 0.0) : found->second;
}

std::map<std::string, std::pair<double, double>> RunMetrics::reduce(Collectives& world) {
  fetch();
  Json mine = Json::object();
  for (const auto& [name, value] : sums_) mine[name] = {value.first, value.second};
  sums_.clear();
  const std::string text = mine.dump() + "\n";
  const std::vector<char> all = world.all_gather(text.data(), static_cast<int64_t>(text.size()));
  std::map<std::string, std::pair<double, double>> out;
  std::istringstream lines(std::string(all.begin(), all.end()));
  for (std::string line; std::getline(lines, line);) {
    const Json rank = parse_json(line, "metrics of a rank");
    for (const auto& [name, value] : rank.items()) {
      auto& [sum, count] = out[name];
      sum +=
          value[0].is_null()
              ? std::nan("")
              : value[0].get<double>();  // JSON has no NaN: a figure that was none travels as null
      count += value[1].get<double>();
    }
  }
  return out;
}

double peak_memory_mb() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024.0;
}

double memory_mb_now() {
  std::ifstream statm("/proc/self/statm");  // pages: all, resident, ...
  double all = 0.0, resident = 0.0;
  statm >> all >> resident;
  return resident * static_cast<double>(::sysconf(_SC_PAGESIZE)) / (1024.0 * 1024.0);
}

double proportional_memory_mb() {
  std::ifstream rollup("/proc/self/smaps_rollup");
  for (std::string line; std::getline(rollup, line);) {
    std::istringstream words(line);
    std::string name;
    double kib = 0.0;
    if (words >> name >> kib && name == "Pss:") return kib / 1024.0;
  }
  return std::nan("");
}

}  // namespace euromodal
