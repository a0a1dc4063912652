// train_options.cpp — see train_options.h.
#include "training/train_options.h"

#include "training/config_count.h"

namespace euromodal {
TrainOptions TrainOptions::parse(const Config& config) {
  TrainOptions out;
  const Config run = config.child("run");
  out.dir = run.path("dir");
  const int64_t seed = run.i64("seed");
  check<ConfigError>(seed >= 0, "{}: expected 0 or more, got {}", run.where("seed"), seed);
  out.seed = static_cast<uint64_t>(seed);
  out.threads = config_count(run, "threads", 0, 0);
  out.deterministic = run.boolean("deterministic", false);
  out.device = run.str("device", "cpu");
  check<ConfigError>(out.device == "cpu" || !out.deterministic,
                     "{}: deterministic runs are for the CPU; on {} sums have another order",
                     run.where("deterministic"), out.device);
  out.deadlines = PhaseDeadlines::parse(run);
  out.straggler = StragglerOptions::parse(run);

  out.peak_tflops = run.f64("peak_tflops", 0.0);
  check<ConfigError>(out.peak_tflops >= 0.0, "{}: expected 0 (measure) or more, got {}",
                     run.where("peak_tflops"), out.peak_tflops);
  out.tensorboard = run.boolean("tensorboard", false);
  out.time_split = run.boolean("time_split", true);

  const Config batch = config.child("batch");
  const bool by_tokens = batch.has("tokens");
  check<ConfigError>(by_tokens != batch.has("samples"),
                     "{}: expected either samples or tokens (a budget of rows)", batch.where());
  const char* budget = by_tokens ? "tokens" : "samples";
  const int64_t size = batch.i64(budget);
  check<ConfigError>(size > 0, "{}: expected 1 or more, got {}", batch.where(budget), size);
  (by_tokens ? out.loader.batch_tokens : out.loader.batch_samples) = size;
  out.loader.parts = config_count(batch, "parts", 1, 1);
  check<ConfigError>(by_tokens || out.loader.parts <= size, "{}: {} parts of {} samples",
                     batch.where("parts"), out.loader.parts, out.loader.batch_samples);
  out.loader.workers = config_count(batch, "workers", 1, 0);
  out.loader.prefetch_steps = config_count(batch, "prefetch_steps", 2, 1);
  out.loader.pack = batch.boolean("pack", true);
  out.loader.max_tokens = config_count(batch, "max_tokens", 0, 0);
  out.loader.max_bad_samples = config_count(batch, "max_bad_samples", 0, 0);
  out.loader.shuffle = batch.boolean("shuffle", true);
  out.transform_on_device =
      batch.has("transforms") && batch.choice("transforms", {"cpu", "device"}) == "device";
  out.loader.seed = out.seed;
  out.loader.per_sample = out.deterministic;

  if (config.has("parallel")) {
    const Config parallel = config.child("parallel");
    out.overlap = parallel.boolean("overlap", out.overlap);
    out.zero = static_cast<int>(config_count(parallel, "zero", 0, 0));
    check<ConfigError>(out.zero <= 2, "{}: expected 0, 1 or 2, got {}", parallel.where("zero"),
                       out.zero);
    out.bucket_mb = parallel.f64("bucket_mb", out.bucket_mb);
    check<ConfigError>(out.bucket_mb > 0.0 && out.bucket_mb <= 4000.0,
                       "{}: expected a number in (0, 4000], got {}", parallel.where("bucket_mb"),
                       out.bucket_mb);
    out.shard_frozen = parallel.boolean("shard_frozen", false);
  }

  out.trainable = config.strs("trainable");
  out.clip_norm = config.f64("clip_norm", 0.0);
  check<ConfigError>(out.clip_norm >= 0.0, "{}: expected 0 (off) or more, got {}",
                     config.where("clip_norm"), out.clip_norm);
  out.steps = config.i64("steps");
  check<ConfigError>(out.steps >= 0, "{}: expected 0 or more, got {}", config.where("steps"),
                     out.steps);
  out.log_every = config_count(config, "log_every", 10, 1);
  out.guard = GuardOptions::parse(config);
  if (config.has("checkpoint"))
    out.checkpoint = CheckpointOptions::parse(config.child("checkpoint"));
  if (config.has("ema")) {
    const Config ema = config.child("ema");
    out.ema_decay = ema.f64("decay");
    check<ConfigError>(out.ema_decay > 0.0 && out.ema_decay < 1.0,
                       "{}: expected a number between 0 and 1, got {}", ema.where("decay"),
                       out.ema_decay);
    out.ema_is_model = ema.choice("model", {"replace", "beside"}) == "replace";
  }
  if (config.has("validation")) {
    const Config validation = config.child("validation");
    out.validation_every = validation.i64("every");
    check<ConfigError>(out.validation_every > 0, "{}: expected 1 or more, got {}",
                       validation.where("every"), out.validation_every);
    out.validation_samples = config_count(validation, "max_samples", 256, 1);
  }
  check<ConfigError>(out.checkpoint.best_metric.empty() || out.validation_every > 0,
                     "{}: the best checkpoint is chosen by a figure of the validation; add a "
                     "validation section",
                     config.where("checkpoint"));
  return out;
}

}  // namespace euromodal
