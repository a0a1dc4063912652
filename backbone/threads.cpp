// threads.cpp — see threads.h.
#include "backbone/threads.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <string_view>

#include <ATen/Parallel.h>
#include <omp.h>
#include <sched.h>

#include "core/error.h"

namespace euromodal {

namespace {

const char* environment(const char* name) {
  const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): before threads start
  return value != nullptr && *value != '\0' ? value : nullptr;
}

}  // namespace

Pinning parse_pinning(const std::string& word) {
  if (word == "auto") return Pinning::kAuto;
  if (word == "yes") return Pinning::kYes;
  if (word == "no") return Pinning::kNo;
  throw UsageError("--pin: unknown word '{}', expected auto, yes or no", word);
}

ThreadHints thread_hints() {
  ThreadHints out;
  if (const char* value = environment("OMP_NUM_THREADS")) {  // "4" or "4,2": by level of nesting
    const std::string_view text = value;
    int64_t count = 0;
    if (std::from_chars(text.data(), text.data() + text.size(), count).ec == std::errc() &&
        count > 0)
      out.omp_threads = count;
  }
  for (const char* name : {"OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY"})
    out.omp_bound = out.omp_bound || environment(name) != nullptr;
  out.quota = cpu_quota();
  return out;
}

ThreadPlan plan_threads(const Cpus& cpus, const ThreadHints& hints, int64_t asked,
                        Pinning pinning) {
  ThreadPlan out;
  if (asked > 0) {
    out.threads = asked;
  } else if (hints.omp_threads) {
    out.threads = *hints.omp_threads;
  } else {
    out.threads = cpus.cores;
    if (hints.quota)
      out.threads = std::clamp<int64_t>(static_cast<int64_t>(*hints.quota), 1, cpus.cores);
  }
  const auto places = static_cast<int64_t>(cpus.threads.size());
  check<UsageError>(pinning != Pinning::kYes || out.threads <= places,
                    "--pin yes: {} threads for {} hardware threads that this process may run on; "
                    "lower --threads",
                    out.threads, places);
  const bool automatic = cpus.memory_nodes > 1 && out.threads >= cpus.cores &&
                         out.threads <= places && !hints.omp_bound;
  if (pinning == Pinning::kYes || (pinning == Pinning::kAuto && automatic))
    out.cpus.assign(cpus.threads.begin(), cpus.threads.begin() + out.threads);
  return out;
}

ThreadPlan use_threads(int64_t asked, Pinning pinning) {
  ThreadPlan plan = plan_threads(usable_cpus(), thread_hints(), asked, pinning);
  at::set_num_threads(static_cast<int>(plan.threads));
  if (plan.cpus.empty()) return plan;
#pragma omp parallel num_threads(static_cast <int>(plan.threads))
  {
    const auto rank = static_cast<size_t>(omp_get_thread_num());
    if (rank > 0) {
      cpu_set_t place;
      CPU_ZERO(&place);
      CPU_SET(static_cast<size_t>(plan.cpus[rank]), &place);
      ::sched_setaffinity(0, sizeof place, &place);  // a wish: the thread runs either way
    }
  }
  return plan;
}

}  // namespace euromodal
