// check_dataset.cpp — reads and decodes everything, as training would, and lists what fails.
#include <algorithm>
#include <atomic>
#include <mutex>
#include <thread>

#include "core/progress.h"
#include "multimodal/stored_features.h"
#include "training/data/datasets.h"

namespace euromodal {
namespace {

void check_decode(const Sample& sample) {
  const std::vector<const MediaRef*> refs = media_refs(sample.record);
  for (size_t i = 0; i < refs.size(); ++i) {
    if (!refs[i]->tensor.empty()) {
      read_features(sample.media[i], refs[i]->tensor, /*want=*/nullptr);
      continue;
    }
    switch (refs[i]->kind) {
      case Modality::kImage:
        media_reader().read_image(sample.media[i]);
        break;
      case Modality::kAudio:
        media_reader().read_audio(sample.media[i], refs[i]->t0_s, refs[i]->t1_s);
        break;
      case Modality::kVideo:
        media_reader().read_clip(sample.media[i],
                                 {.count = 2});  // first and last: reads it through
        break;
    }
  }
}

// What is wrong with one sample; empty: nothing.
std::string check_sample(const Dataset& data, int64_t index) {
  std::string where = fmt::format("{}: sample {}", data.name(), index);
  try {
    const Sample sample = data.get(index);
    where = fmt::format("{} (id {})", sample.where, sample.record.id);
    check_decode(sample);
  } catch (const std::exception& e) {
    std::string reason = e.what();
    std::replace(reason.begin(), reason.end(), '\n', ' ');
    return where + ": " + reason;
  }
  return "";
}

}  // namespace

std::vector<std::string> check_dataset(const Dataset& data) {
  std::vector<std::string> fault_of(data.size());
  std::atomic<int64_t> next{0};
  int64_t done = 0;
  std::mutex mutex;
  Progress progress("checking " + data.name(), data.size(), "samples");
  const auto work = [&] {
    for (int64_t i = next++; i < data.size(); i = next++) {
      fault_of[i] = check_sample(data, i);
      const std::lock_guard lock(mutex);
      progress.update(++done);
    }
  };
  std::vector<std::thread> threads;
  const unsigned count = std::clamp(std::thread::hardware_concurrency(), 1U, 8U);
  for (unsigned t = 1; t < count; ++t) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
  std::erase(fault_of, std::string());
  return fault_of;
}

}  // namespace euromodal
