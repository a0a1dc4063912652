// run_metrics.h — figures of a run between two log lines, summed over ranks.
#pragma once
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "training/dist/collectives.h"
#include "training/objective.h"

namespace euromodal {

/// Sums by name; a mean is sum / count.
class RunMetrics {
 public:
  void add(const std::string& name, double sum, double count);
  /// Fetched from where they lie when a sum is asked for, not before.
  void add(std::vector<Metric> metrics);
  /// Sum and count of this rank so far; zeros for a name that was not added.
  std::pair<double, double> sum(const std::string& name);
  /// Adds up over ranks (every rank calls it) and empties this one.
  std::map<std::string, std::pair<double, double>> reduce(Collectives& world);

 private:
  void fetch();
  std::vector<Metric> waiting_;
  std::map<std::string, std::pair<double, double>> sums_;
};

/// Resident memory of this process: the most so far, and now.
double peak_memory_mb();
double memory_mb_now();
/// Resident now, with pages that several processes hold divided by their number; NaN where the
/// system does not say. Takes about 10 ns for each page of 4 kB.
double proportional_memory_mb();

}  // namespace euromodal
