// loader.h — worker threads that turn samples into micro-batches ahead of the trainer, with bounded
// memory and figures on stalls.
//
// A global batch of B samples (positions step·B ... of the sampler) is cut into P parts; part p
// goes to rank p mod world. Which samples a part holds depends on (seed, step, P) alone, never on
// the number of ranks. Inside a batch, samples are dealt to the parts so that their cost (a·L +
// b·L²) is even.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "multimodal/batch.h"
#include "training/data/dataset.h"

namespace euromodal {

struct LoaderOptions {
  int64_t batch_samples = 0;  // B, global
  int64_t parts =
      1;  // P, global; a multiple of nothing: ranks take parts p with p mod world == rank
  int rank = 0, world = 1;
  int64_t workers = 1;  // 0: prepare in the caller's thread
  int64_t prefetch_steps = 2;
  uint64_t seed = 0;
  bool shuffle = true;
  bool per_sample = false;  // Segments::per_sample of the batches
  bool pack = true;  // false: every sample a batch of its own (parts keep their ids; a part then
                     // holds several batches)
  int64_t max_bad_samples = 0;
};

/// One part of a global batch, in micro-batches (one when packed, one per sample when not).
struct PartBatches {
  int64_t part = 0;
  std::vector<Batch> batches;
};

struct LoaderFigures {
  double stall_s = 0.0;
  int64_t bad_samples = 0;
};

class Loader {
 public:
  /// `prepare` runs in the workers: (sample, global position) -> example. Throws DataError for a
  /// bad sample: logged by name, counted; beyond max_bad_samples next() throws. A bad sample is
  /// left out (its part is shorter); which ones are bad does not depend on ranks.
  using Prepare = std::function<Example(const Sample&, int64_t global)>;
  Loader(std::shared_ptr<const Dataset> data, LoaderOptions options, Prepare prepare,
         int64_t first_step);
  ~Loader();
  /// The parts of this rank for the next step.
  std::vector<PartBatches> next();
  LoaderFigures figures() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace euromodal
