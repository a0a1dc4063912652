// dry_run.cpp — see dry_run.h.
#include "training/dry_run.h"

#include <algorithm>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "training/batch_gradient.h"
#include "training/dist/counting.h"
#include "training/frozen_memory.h"
#include "training/optimizer.h"
#include "training/sharded_blocks.h"
#include "training/train_options.h"

namespace euromodal {

Json dry_run(const Config& config, int ranks, const std::optional<std::filesystem::path>& model) {
  const auto world = make_counting(ranks, 0);
  TrainOptions options = TrainOptions::parse(config);
  const auto objective =
      make_objective(config.child("objective"), options.seed, options.deterministic);
  // Before the steps: what other ranks would send into them is not there.
  if (model) objective->save_model(*model);
  const std::shared_ptr<const Dataset> data = open_datasets(config, "data");
  const std::vector<GroupOptions> groups = parse_groups(config, "optimizer", options.steps);
  const std::vector<NamedTensor> trainable =
      select_trainable(objective->parameters(), options.trainable, config.where("trainable"));
  if (options.threads > 0) at::set_num_threads(static_cast<int>(options.threads));
  const std::vector<int64_t> group_of = assign_groups(trainable, groups);
  for (const NamedTensor& p : trainable) p.tensor.requires_grad_(true);
  FlatBuffer buffer(trainable, group_of, groups, objective->make_aliases(),
                    {.bucket_bytes = static_cast<int64_t>(options.bucket_mb * 1e6),
                     .zero = options.zero,
                     .rank = 0,
                     .ranks = ranks});
  Optimizer optimizer(buffer, groups, options.deterministic);
  BatchGradient gradient(*objective, buffer, *world,
                         {.deterministic = options.deterministic,
                          .overlap = options.overlap,
                          .parts = options.loader.parts});
  options.loader.rank = 0;
  options.loader.world = ranks;
  Loader loader(
      data, options.loader,
      [&](const Sample& sample, int64_t global) {
        return objective->prepare(sample,
                                  Rng(options.seed).fork("sample", static_cast<uint64_t>(global)),
                                  /*training=*/true);
      },
      0);
  RunMetrics metrics;
  int64_t samples = 0, tokens = 0, most = 0;
  for (int step = 0; step < 2; ++step) {
    world->set_phase(fmt::format("step {}", step), options.deadlines.step);
    const std::vector<PartBatches> parts = loader.next();
    for (const PartBatches& part : parts) {
      for (const Batch& batch : part.batches) {
        samples += static_cast<int64_t>(batch.examples.size());
        tokens += batch.ids_T.defined() ? batch.ids_T.numel() : 0;
      }
    }
    const BatchSums sums = gradient.run(parts, metrics, {});
    if (sums.count == 0.0) continue;
    gradient.norms();
    optimizer.step(std::vector<double>(groups.size(), 1.0), 1.0 / sums.count, *world);
    most = std::max(most, gradient.sync().peak());
  }
  Json out;
  out["ranks"] = ranks;
  out["steps"] = options.steps;
  out["samples_per_step"] = options.loader.batch_samples;
  out["samples"] = samples;
  out["tokens"] = tokens;
  int64_t numbers = 0, bytes = 0, master = 0;
  for (const NamedTensor& p : objective->parameters()) {
    numbers += p.tensor.numel();
    bytes += static_cast<int64_t>(p.tensor.nbytes());
  }
  for (const FlatBucket& bucket : buffer.buckets())
    if (bucket.dtype != at::kFloat) master += 4 * bucket.master.numel();
  out["parameters"] = numbers;
  out["trainable"] = buffer.size();
  out["bytes"] = {{"parameters", bytes},
                  {"master", master},
                  {"gradients", 4 * most},
                  {"optimizer", 4 * optimizer.held()}};
  if (options.shard_frozen && options.device != "cpu") {
    const Llama* backbone = objective->backbone();
    int64_t frozen = 0;
    if (backbone != nullptr)
      for (const auto& block :
           frozen_blocks(objective->parameters(), trainable, backbone->config().num_layers))
        for (const NamedTensor& p : block) frozen += static_cast<int64_t>(p.tensor.nbytes());
    out["shard_frozen"] = {{"blocks", frozen}, {"on_each_gpu", Json::object()}};
    for (int node = 2; node <= ranks && node <= 64; node *= 2)
      out["shard_frozen"]["on_each_gpu"][std::to_string(node)] = frozen / node;
  } else if (options.shard_frozen) {
    const FrozenTensors frozen = frozen_tensors(objective->parameters(), trainable);
    out["shard_frozen"] = {{"shared", frozen.own_bytes},
                           {"mapped", frozen.mapped_bytes},
                           {"saved_per_rank", Json::object()}};
    for (int node = 2; node <= ranks && node <= 64; node *= 2)
      out["shard_frozen"]["saved_per_rank"][std::to_string(node)] =
          frozen.own_bytes - frozen.own_bytes / node;
  }
  for (const char* step : {"step 0", "step 1"}) {
    out["sent"][step] = Json::object();
    const auto phase = world->counts().find(step);
    if (phase == world->counts().end()) continue;
    for (const auto& [operation, count] : phase->second)
      out["sent"][step][operation] = {{"calls", count.calls}, {"bytes", count.bytes}};
  }
  return out;
}

}  // namespace euromodal
