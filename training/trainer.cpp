// trainer.cpp — see trainer.h.
#include "training/trainer.h"

#include <algorithm>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <sched.h>

#include "core/log.h"
#include "training/batch_gradient.h"
#include "training/checkpoint.h"
#include "training/optimizer.h"
#include "training/parameter_groups.h"
#include "training/run_folder.h"
#include "training/run_log.h"
#include "training/step_guard.h"
#include "training/stop_request.h"
#include "training/straggler.h"
#include "training/train_options.h"
#include "training/validation.h"

namespace euromodal {
namespace {

namespace fs = std::filesystem;

/// LibTorch falls to one thread under mpirun: the share of this rank in the cores that the process
/// may use.
int64_t train_threads(int64_t asked, const Collectives& world) {
  if (asked > 0) return asked;
  cpu_set_t cores;
  CPU_ZERO(&cores);
  const int64_t mine = ::sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : 1;
  return std::max<int64_t>(1, mine / world.local_size());
}

/// Everything one run holds; made in order, so that each fault of the config shows before anything
/// is written.
class Trainer {
 public:
  Trainer(const Config& config, const TrainRequest& request, Collectives& world)
      : world_(world),
        options_(TrainOptions::parse(config)),
        threads_(train_threads(options_.threads, world)),
        objective_(
            make_objective(config.child("objective"), options_.seed, options_.deterministic)),
        data_(open_datasets(config, "data")),
        validation_data_(options_.validation_every > 0
                             ? open_datasets(config.child("validation"), "data")
                             : nullptr),
        groups_(parse_groups(config, "optimizer")),
        schedule_(Schedule::parse(config.child("schedule"), std::max<int64_t>(options_.steps, 1))),
        trainable_(select_trainable(objective_->parameters(), options_.trainable,
                                    config.where("trainable"))) {
    config.finish();
    at::set_num_threads(static_cast<int>(threads_));
    const std::vector<int64_t> group_of = assign_groups(trainable_, groups_);
    for (const NamedTensor& p : trainable_) p.tensor.requires_grad_(true);
    buffer_ =
        std::make_unique<FlatBuffer>(trainable_, group_of, objective_->make_aliases(), /*tail=*/1);
    optimizer_ = std::make_unique<Optimizer>(*buffer_, groups_, options_.deterministic);
    options_.loader.rank = world.rank();
    options_.loader.world = world.size();
    identity_.values = {{"seed", options_.seed},
                        {"steps", options_.steps},
                        {"batch.samples", options_.loader.batch_samples},
                        {"batch.parts", options_.loader.parts},
                        {"batch.shuffle", options_.loader.shuffle},
                        {"deterministic", options_.deterministic},
                        {"data", data_->fingerprint()}};
    identity_.frozen = hash_frozen(objective_->parameters(), trainable_);
    restore(request.resume);
    if (world_.rank() == 0) {
      folder_ = std::make_unique<RunFolder>(options_.dir, config.dump(),
                                            run_environment(world_.size(), threads_, options_.seed),
                                            !request.resume.empty(), first_step_);
    }
    world_.barrier();
  }

  TrainEnd run() {
    const StopRequest asked;
    int64_t trained = 0;
    for (const NamedTensor& p : trainable_) trained += p.tensor.numel();
    if (world_.rank() == 0) {
      log_info(
          "run={} samples={} trainable={} of {} tensors ({} parameters) steps={}..{} ranks={} "
          "threads={}{}",
          options_.dir.string(), data_->size(), trainable_.size(), objective_->parameters().size(),
          trained, first_step_, options_.steps, world_.size(), threads_,
          options_.deterministic ? " deterministic" : "");
    }
    if (first_step_ < options_.steps && !loop(asked)) return TrainEnd::kStopped;
    world_.set_phase("model", options_.deadlines.model);
    if (world_.rank() == 0) {
      objective_->save_model(options_.dir / "model");
      log_info("model={}", (options_.dir / "model").string());
    }
    world_.barrier();
    return TrainEnd::kDone;
  }

 private:
  void restore(const std::string& resume) {
    if (resume.empty()) return;
    world_.set_phase("resume", options_.deadlines.setup);
    std::string folder = resume;
    if (resume ==
        "auto") {  // rank 0 decides for all: another rank may see a file system that lags behind
      if (world_.rank() == 0)
        folder = newest_checkpoint(options_.dir / "checkpoints").value_or("").string();
      int64_t length = static_cast<int64_t>(folder.size());
      world_.broadcast(&length, sizeof length, 0);
      folder.resize(static_cast<size_t>(length));
      world_.broadcast(folder.data(), length, 0);
    }
    if (folder.empty()) {
      if (world_.rank() == 0)
        log_info("resume=auto: no complete checkpoint in {}, from the start",
                 (options_.dir / "checkpoints").string());
      return;
    }
    first_step_ = load_checkpoint(folder, identity_, *buffer_, *optimizer_);
    if (world_.rank() == 0) log_info("resumed={} step={}", folder, first_step_);
  }

  void checkpoint(int64_t step) {
    world_.set_phase("checkpoint", options_.deadlines.checkpoint);
    if (world_.rank() == 0) {
      save_checkpoint(options_.dir / "checkpoints", step, identity_, *buffer_, *optimizer_);
      prune_checkpoints(options_.dir / "checkpoints", options_.checkpoint_keep);
    }
    world_.barrier();
  }

  /// False: a rank was asked to stop.
  bool loop(const StopRequest& asked) {
    Loader loader(
        data_, options_.loader,
        [this](const Sample& sample, int64_t global) {
          return objective_->prepare(
              sample, Rng(options_.seed).fork("sample", static_cast<uint64_t>(global)),
              /*training=*/true);
        },
        first_step_);
    BatchGradient gradient(*objective_, *buffer_, world_, options_.deterministic);
    StepGuard guard(options_.max_bad_steps, (options_.dir / "checkpoints").string(),
                    world_.rank() == 0);
    RunLog log(world_, folder_.get(), first_step_, options_.steps);
    Straggler straggler(world_, options_.straggler);
    for (int64_t step = first_step_; step < options_.steps; ++step) {
      world_.set_phase(fmt::format("data {}", step), options_.deadlines.data);
      straggler.step_begins();
      const std::vector<PartBatches> parts = loader.next();
      straggler.data_here();
      world_.set_phase(fmt::format("step {}", step), options_.deadlines.step);
      double votes[1] = {asked.stop() ? 1.0 : 0.0};
      const BatchSums sums = gradient.run(parts, log.metrics(), votes);
      const bool stop = votes[0] > 0.0;  // any rank was asked to stop: all do, after the same step
      const double mean = sums.count > 0.0 ? sums.loss_sum / sums.count : 0.0;
      const double norm =
          sums.count > 0.0 ? gradient_norm(buffer_->gradient(), buffer_->size()) / sums.count : 0.0;
      if (guard.accept(step, mean, norm, sums.count)) {
        const double clip =
            options_.clip_norm > 0.0 && norm > options_.clip_norm ? options_.clip_norm / norm : 1.0;
        optimizer_->step(schedule_.factor(step), clip / sums.count, world_);
        log.applied(sums.loss_sum, sums.count);
        if (step == 0) guard.check_start(mean, objective_->chance_loss());
      }
      straggler.step_ends();
      const int64_t done = step + 1;
      const bool row_due = done % options_.log_every == 0 || done == options_.steps || stop;
      log.step({.step = step,
                .norm = norm,
                .stall_s = loader.figures().stall_s,
                .lr_factor = schedule_.factor(step),
                .rates = rates(step),
                .times = row_due ? straggler.report() : Json::object()},
               row_due);
      if (options_.validation_every > 0 &&
          (done % options_.validation_every == 0 || done == options_.steps))
        log.validation(step, validate(step));
      const bool due = options_.checkpoint_every > 0 && done % options_.checkpoint_every == 0;
      if (due || stop || done == options_.steps) checkpoint(done);
      if (stop && done < options_.steps) {
        if (world_.rank() == 0)
          log_warn("step={} stopped by a signal; go on with --resume auto", step);
        return false;
      }
    }
    log.finish();
    return true;
  }

  std::vector<std::pair<std::string, double>> rates(int64_t step) const {
    std::vector<std::pair<std::string, double>> out;
    for (size_t i = 0; i < groups_.size(); ++i)
      out.emplace_back(fmt::format("lr_{}_{}", i, group_type_name(groups_[i].type)),
                       groups_[i].lr * schedule_.factor(step));
    return out;
  }

  Json validate(int64_t step) {
    world_.set_phase(fmt::format("validation {}", step), options_.deadlines.validation);
    return run_validation(*objective_, *validation_data_,
                          {.max_samples = options_.validation_samples,
                           .batch_samples = options_.loader.batch_samples,
                           .max_bad_samples = options_.loader.max_bad_samples,
                           .per_sample = options_.deterministic},
                          world_);
  }

  Collectives& world_;
  TrainOptions options_;
  int64_t threads_;
  std::unique_ptr<Objective> objective_;
  std::shared_ptr<const Dataset> data_;
  std::shared_ptr<const Dataset> validation_data_;
  std::vector<GroupOptions> groups_;
  Schedule schedule_;
  std::vector<NamedTensor> trainable_;
  std::unique_ptr<FlatBuffer> buffer_;
  std::unique_ptr<Optimizer> optimizer_;
  RunIdentity identity_;
  std::unique_ptr<RunFolder> folder_;  // rank 0
  int64_t first_step_ = 0;
};

}  // namespace

TrainEnd train(const Config& config, const TrainRequest& request, Collectives& world) {
  Trainer trainer(config, request, world);
  return trainer.run();
}

}  // namespace euromodal
