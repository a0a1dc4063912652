// loader.h — worker threads that turn samples into micro-batches ahead of the trainer, with bounded
// memory and figures on stalls.
//
// A global batch (the positions of the sampler that step_plan.h gives a step: B samples, or a
// budget of N token rows) is cut into P parts; part p goes to rank p mod world. Samples are dealt
// to the parts so that their cost (L + b·L², L from Dataset::cost) is even; inside a part they
// stand in order of position. What a part holds depends on (data, seed, step, B or N, P) alone:
// never on ranks, workers or restarts.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "multimodal/batch.h"
#include "training/data/dataset.h"

namespace euromodal {

struct LoaderOptions {
  int64_t batch_samples = 0;  // B, global; or:
  int64_t batch_tokens = 0;   // N, global: rows as Dataset::cost estimates them
  int64_t parts = 1;  // P, global, at most B; rank r takes the parts p with p mod world == r
  int rank = 0, world = 1;
  int64_t workers = 1;         // 0: prepare in the caller's thread
  int64_t prefetch_steps = 2;  // steps made ahead of the one that the trainer holds: bounds memory
  uint64_t seed = 0;
  bool shuffle = true;
  bool per_sample = false;  // Segments::per_sample of the batches
  bool pack = true;  // false: every sample a batch of its own (parts keep their ids; a part then
                     // holds several batches)
  int64_t max_tokens = 0;     // pack: rows of one micro-batch at most (0: one micro-batch a part)
  double quadratic = 1.5e-5;  // b: attention's share for a 22B backbone; only balance hangs on it
  int64_t max_bad_samples = 0;
};

/// One part of a global batch, in micro-batches. None when all of its samples were bad.
struct PartBatches {
  int64_t part = 0;
  std::vector<Batch> batches;
};

struct LoaderFigures {
  double stall_s = 0.0;  // time that next() waited
  int64_t bad_samples = 0;
  int64_t steps = 0;  // that next() gave out
  // Sum over them of the steps that lay ready when next() was called, the one that it gave
  // included: 0 where the trainer is faster than the data.
  double ready_steps = 0.0;
  /// What was added since `before`.
  LoaderFigures operator-(const LoaderFigures& before) const {
    return {stall_s - before.stall_s, bad_samples - before.bad_samples, steps - before.steps,
            ready_steps - before.ready_steps};
  }
};

class Loader {
 public:
  /// `prepare` runs in the workers, several at a time, without gradients: (sample, global position)
  /// -> example. Throws DataError for a bad sample: logged by name, counted, left out (its part is
  /// shorter). Beyond max_bad_samples (counted over what this rank has seen since it was started)
  /// next() throws DataError. Any other exception of a worker comes out of next() at its step.
  using Prepare = std::function<Example(const Sample&, int64_t global)>;
  /// ConfigError for options that make no sense. Starts with `first_step`, exactly as a loader that
  /// came there by itself.
  Loader(std::shared_ptr<const Dataset> data, LoaderOptions options, Prepare prepare,
         int64_t first_step);
  ~Loader();  // waits for the samples that are being prepared, drops the rest
  /// The parts of this rank for the next step, ascending (none when there are fewer parts than
  /// ranks). After an exception every further call throws it again.
  std::vector<PartBatches> next();
  LoaderFigures figures() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace euromodal
