// trainer.cpp — see trainer.h.
#include "training/trainer.h"

#include <algorithm>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <sched.h>

#include "backbone/device.h"
#include "core/log.h"
#include "core/time_split.h"
#include "training/answer_samples.h"
#include "training/checkpointer.h"
#include "training/dist/device_collectives.h"
#include "training/flops.h"
#include "training/frozen_memory.h"
#include "training/optimizer.h"
#include "training/parameter_groups.h"
#include "training/run_folder.h"
#include "training/run_log.h"
#include "training/sharded_blocks.h"
#include "training/stop_request.h"
#include "training/straggler.h"
#include "training/train_options.h"
#include "training/train_step.h"
#include "training/validation.h"
#include "training/weight_average.h"

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

/// `cuda` is the GPU of this rank's number on its node. Before any tensor work.
at::Device train_device(const std::string& word, const Collectives& world) {
  return open_device(word == "cuda" ? fmt::format("cuda:{}", world.local_rank()) : word);
}

/// Everything one run holds; made in order, so that each fault of the config shows before anything
/// is written.
class Trainer {
 public:
  Trainer(const Config& config, const TrainRequest& request, Collectives& world)
      : world_(world),
        options_(TrainOptions::parse(config)),
        deadline_(run_deadline(config.child("run"), request.started)),
        threads_(train_threads(options_.threads, world)),
        device_(train_device(options_.device, world)),
        objective_(build_objective(config)),
        data_(open_datasets(config, "data")),
        validation_data_(options_.validation_every > 0
                             ? open_datasets(config.child("validation"), "data")
                             : nullptr),
        samples_(config.has("samples")
                     ? std::make_unique<AnswerSamples>(config.child("samples"), *objective_)
                     : nullptr),
        groups_(parse_groups(config, "optimizer", options_.steps)),
        schedule_(Schedule::parse(config.child("schedule"), options_.steps)),
        trainable_(select_trainable(objective_->parameters(), options_.trainable,
                                    config.where("trainable"))) {
    config.finish();
    at::set_num_threads(static_cast<int>(threads_));
    const std::vector<int64_t> group_of = assign_groups(trainable_, groups_);
    for (const NamedTensor& p : trainable_) p.tensor.requires_grad_(true);
    identity_.frozen = hash_frozen(objective_->parameters(), trainable_);  // on the host, before
    if (device_.is_cuda() && world.size() > 1)
      device_collectives_ = make_device_collectives(world, {.device = device_.index()});
    if (options_.shard_frozen && device_collectives_) shard_blocks();
    move_parameters(objective_->parameters(), device_);
    if (options_.transform_on_device) objective_->transform_media_on(device_);
    const FlatOptions layout{.bucket_bytes = static_cast<int64_t>(options_.bucket_mb * 1e6),
                             .zero = options_.zero,
                             .rank = world.rank(),
                             .ranks = world.size(),
                             .device = device_collectives_.get()};
    buffer_ = std::make_unique<FlatBuffer>(trainable_, group_of, groups_,
                                           objective_->make_aliases(), layout);
    optimizer_ = std::make_unique<Optimizer>(*buffer_, groups_, options_.deterministic);
    guard_ = std::make_unique<StepGuard>(options_.guard, checkpoints().string(), world.rank() == 0);
    if (options_.ema_decay > 0.0)
      average_ = std::make_unique<WeightAverage>(*buffer_, options_.ema_decay);
    options_.loader.rank = world.rank();
    options_.loader.world = world.size();
    identity_.values = {{"seed", options_.seed},
                        {"steps", options_.steps},
                        {"batch.samples", options_.loader.batch_samples},
                        {"batch.tokens", options_.loader.batch_tokens},
                        {"batch.parts", options_.loader.parts},
                        {"batch.shuffle", options_.loader.shuffle},
                        {"deterministic", options_.deterministic},
                        {"data", data_->fingerprint()}};
    if (average_) identity_.values["ema.decay"] = options_.ema_decay;
    restore(request.resume);
    if (world_.rank() == 0) {
      folder_ = std::make_unique<RunFolder>(options_.dir, config.dump(),
                                            run_environment(world_.size(), threads_, options_.seed),
                                            !request.resume.empty(), first_step_);
      checkpointer_ = std::make_unique<Checkpointer>(checkpoints(), options_.checkpoint, identity_,
                                                     first_step_);
    }
    world_.barrier();
  }

  TrainEnd run() {
    StopRequest asked({.dir = options_.dir, .deadline = deadline_, .leader = world_.rank() == 0});
    int64_t trained = 0;
    for (const NamedTensor& p : trainable_) trained += p.tensor.numel();
    if (world_.rank() == 0) {
      log_info(
          "run={} samples={} trainable={} of {} tensors ({} parameters) steps={}..{} ranks={} "
          "threads={} device={}{}",
          options_.dir.string(), data_->size(), trainable_.size(), objective_->parameters().size(),
          trained, first_step_, options_.steps, world_.size(), threads_, device_.str(),
          options_.deterministic ? " deterministic" : "");
    }
    if (first_step_ < options_.steps && !loop(asked)) return TrainEnd::kStopped;
    world_.set_phase("model", options_.deadlines.model);
    save_models();
    world_.barrier();
    return TrainEnd::kDone;
  }

 private:
  /// With parallel.shard_frozen the ranks of a node make theirs one after the other.
  std::unique_ptr<Objective> build_objective(const Config& config) {
    const auto make = [&] {
      return make_objective(config.child("objective"), options_.seed, options_.deterministic);
    };
    if (!options_.shard_frozen) return make();
    world_.set_phase("setup", options_.deadlines.setup);
    return frozen_memory_.make(world_.node(), make, [&](const Objective& objective) {
      const std::vector<NamedTensor> trainable =
          select_trainable(objective.parameters(), options_.trainable, config.where("trainable"));
      FrozenTensors frozen = frozen_tensors(objective.parameters(), trainable);
      check<ConfigError>(!frozen.own.empty() || frozen.mapped_bytes > 0,
                         "{}: shard_frozen shares what is frozen, but 'trainable' takes every "
                         "tensor; set it to false, or train fewer",
                         config.where("parallel"));
      if (world_.rank() == 0)
        log_info("shard_frozen: ranks={} shared_mb={:.1f} mapped_mb={:.1f}", world_.node().size(),
                 static_cast<double>(frozen.own_bytes) / 1e6,
                 static_cast<double>(frozen.mapped_bytes) / 1e6);
      return std::move(frozen.own);
    });
  }

  /// parallel.shard_frozen on GPUs: the backbone's blocks never lie whole on one of them.
  void shard_blocks() {
    Llama* backbone = objective_->backbone();
    Collectives& node = world_.node();
    if (backbone == nullptr || node.size() == 1) return;
    sharded_ = std::make_shared<ShardedBlocks>(
        frozen_blocks(objective_->parameters(), trainable_, backbone->config().num_layers),
        node.rank(), node.size(), device_,
        [&](int64_t bytes) { return device_collectives_->peer_slices(bytes); });
    backbone->set_block_hooks(sharded_);
    if (world_.rank() == 0)
      log_info(
          "shard_frozen: of the backbone's blocks {:.1f} MB on each GPU, {:.1f} MB for those in "
          "use",
          static_cast<double>(sharded_->own_bytes()) / 1e6,
          static_cast<double>(sharded_->place_bytes()) / 1e6);
  }

  fs::path checkpoints() const { return options_.dir / "checkpoints"; }
  RunParts parts() const { return {*buffer_, *optimizer_, *guard_, average_.get()}; }

  /// Every rank: model/, and model_ema/ where an average is kept beside it.
  void save_models() {
    const auto save = [&](const char* name) {
      if (world_.rank() != 0) return;
      objective_->save_model(options_.dir / name);
      log_info("model={}", (options_.dir / name).string());
    };
    if (sharded_) {  // no pass follows
      objective_->backbone()->set_block_hooks(nullptr);
      sharded_->give_back();
    }
    if (average_) average_->swap(*buffer_, world_);
    if (average_ && !options_.ema_is_model) {
      save("model_ema");
      average_->swap(*buffer_, world_);
    }
    save("model");  // the last: a run with a model is done
  }

  void restore(const std::string& resume) {
    if (resume.empty()) return;
    world_.set_phase("resume", options_.deadlines.setup);
    std::string folder = resume;
    if (resume ==
        "auto") {  // rank 0 decides for all: another rank may see a file system that lags behind
      if (world_.rank() == 0) folder = newest_checkpoint(checkpoints()).value_or("").string();
      int64_t length = static_cast<int64_t>(folder.size());
      world_.broadcast(&length, sizeof length, 0);
      folder.resize(static_cast<size_t>(length));
      world_.broadcast(folder.data(), length, 0);
    }
    if (folder.empty()) {
      if (world_.rank() == 0)
        log_info("resume=auto: no complete checkpoint in {}, from the start",
                 checkpoints().string());
      return;
    }
    first_step_ = load_checkpoint(folder, identity_, parts());
    if (world_.rank() == 0) log_info("resumed={} step={}", folder, first_step_);
  }

  /// Every rank; `last`: waits until it is on disk.
  void checkpoint(int64_t step, const Json& figures, bool last) {
    world_.set_phase("checkpoint", options_.deadlines.checkpoint);
    const TimeScope scope("checkpoint");
    RunState state = gather_state(parts(), step, figures, world_);
    if (checkpointer_) checkpointer_->save(std::move(state));
    if (!last) return;
    if (checkpointer_) checkpointer_->wait();
    world_.barrier();
  }

  /// Rank 0 knows the figures and what was best so far; all ranks follow it.
  bool is_best(const Json& figures) {
    if (options_.checkpoint.best_metric.empty()) return false;
    char best = checkpointer_ && checkpointer_->improves(figures) ? 1 : 0;
    world_.broadcast(&best, 1, 0);
    return best != 0;
  }

  /// The first step of a pretrained model: its loss on text alone, over all ranks.
  void check_start(double loss, RunLog& log) {
    const auto chance = objective_->chance_loss();
    if (!chance) return;
    log.note("chance_loss", *chance);
    const auto [sum, count] = log.metrics().sum("loss_text");
    double text[2] = {sum, count};
    world_.all_reduce_sum(text, 2);
    guard_->check_start(loss, text[1] > 0.0 ? std::optional(text[0] / text[1]) : std::nullopt,
                        *chance);
  }

  /// False: a rank was asked to stop.
  bool loop(StopRequest& asked) {
    Loader loader(
        data_, options_.loader,
        [this](const Sample& sample, int64_t global) {
          return objective_->prepare(
              sample, Rng(options_.seed).fork("sample", static_cast<uint64_t>(global)),
              /*training=*/true);
        },
        first_step_);
    const int64_t bytes = state_bytes(parts());
    RunLog log(world_, folder_.get(),
               {.first_step = first_step_,
                .steps = options_.steps,
                .peak_flops = peak_flops(),
                .time_split = options_.time_split,
                .tensorboard = options_.tensorboard,
                .shared_memory = options_.shard_frozen || world_.local_size() > 1});
    TrainStep train_step(parts(), *objective_, world_,
                         {.gradient = {.deterministic = options_.deterministic,
                                       .overlap = options_.overlap,
                                       .parts = options_.loader.parts},
                          .guard = options_.guard,
                          .clip_norm = options_.clip_norm},
                         [&](const StepOutcome& known) {
                           if (known.step == 0) check_start(known.loss(), log);
                           if (known.figures.verdict == StepVerdict::kApply)
                             log.applied(known.figures.loss_sum, known.count);
                         });
    Straggler straggler(world_, options_.straggler);
    for (int64_t step = first_step_; step < options_.steps; ++step) {
      world_.set_phase(fmt::format("data {}", step), options_.deadlines.data);
      straggler.step_begins();
      if (checkpointer_) checkpointer_->poll();
      StopVotes votes = asked.votes(checkpointer_ ? checkpointer_->expected_seconds(bytes) : 0.0);
      const std::vector<PartBatches> batch = [&] {
        const TimeScope scope("data");
        return loader.next();
      }();
      straggler.data_here();
      world_.set_phase(fmt::format("step {}", step), options_.deadlines.step);
      // Requests of any rank are those of all, after the same step.
      train_step.run(step, batch, lr_factors(step), log.metrics(), votes.of);
      const int64_t done = step + 1;
      const bool end = done == options_.steps, last = end || votes.leave(),
                 row_due = last || done % options_.log_every == 0,
                 validation_due = options_.validation_every > 0 &&
                                  (end || done % options_.validation_every == 0),
                 samples_due = samples_ && (end || samples_->due(done)),
                 save_due =
                     last || votes.save() ||
                     (options_.checkpoint.every > 0 && done % options_.checkpoint.every == 0);
      if (step == 0 || row_due || validation_due || samples_due || save_due) train_step.settle();
      straggler.step_ends();
      log.step({.step = step,
                .norm = train_step.last().figures.norm,
                .data = loader.figures(),
                .lr_factor = schedule_.factor(step),
                .rates = rates(step),
                .bad_steps = guard_->bad_steps(),
                .spikes = guard_->spikes(),
                .times = row_due ? straggler.report() : Json::object()},
               row_due);
      Json figures = Json::object();
      bool best = false;
      if (validation_due) {
        figures = validate(step);
        log.validation(step, figures);
        best = is_best(figures);
      }
      if (samples_due) {
        world_.set_phase(fmt::format("samples {}", step), options_.deadlines.validation);
        const TimeScope scope("samples");
        const TimeSplit inside;  // its parts are none of the step's
        log.samples(samples_->run(step, *objective_));
      }
      if (save_due || best) checkpoint(done, figures, last);
      asked.honoured(votes);
      if (votes.leave() && !end) {
        if (world_.rank() == 0)
          log_warn("step={} stopped by {}; go on with --resume auto", step, votes.reason());
        return false;
      }
    }
    log.finish();
    return true;
  }

  /// By group: its own schedule, else the run's.
  std::vector<double> lr_factors(int64_t step) const {
    std::vector<double> out;
    for (const GroupOptions& group : groups_)
      out.push_back(group.schedule.value_or(schedule_).factor(step));
    return out;
  }

  std::vector<std::pair<std::string, double>> rates(int64_t step) const {
    std::vector<std::pair<std::string, double>> out;
    const std::vector<double> factors = lr_factors(step);
    for (size_t i = 0; i < groups_.size(); ++i)
      out.emplace_back(fmt::format("lr_{}_{}", i, group_type_name(groups_[i].type)),
                       groups_[i].lr * factors[i]);
    return out;
  }

  /// Of all ranks together, operations per second.
  double peak_flops() {
    double peak =
        options_.peak_tflops > 0.0
            ? options_.peak_tflops * 1e12
            : measure_peak_flops(objective_->parameters().front().tensor.scalar_type(), device_);
    world_.all_reduce_sum(&peak, 1);
    return peak;
  }

  Json validate(int64_t step) {
    world_.set_phase(fmt::format("validation {}", step), options_.deadlines.validation);
    const TimeScope scope("validation");
    const TimeSplit inside;  // its parts are none of the step's
    return run_validation(
        *objective_, *validation_data_,
        {.max_samples = options_.validation_samples,
         .batch_samples = std::max<int64_t>(options_.loader.batch_samples, options_.loader.parts),
         .max_bad_samples = options_.loader.max_bad_samples,
         .per_sample = options_.deterministic},
        world_);
  }

  Collectives& world_;
  TrainOptions options_;
  std::optional<std::chrono::steady_clock::time_point> deadline_;
  int64_t threads_;
  at::Device device_;
  std::unique_ptr<DeviceCollectives> device_collectives_;  // several ranks on GPUs
  FrozenMemory frozen_memory_;                             // outlives the tensors in it
  std::shared_ptr<ShardedBlocks> sharded_;                 // null: each rank holds its blocks
  std::unique_ptr<Objective> objective_;
  std::shared_ptr<const Dataset> data_;
  std::shared_ptr<const Dataset> validation_data_;
  std::unique_ptr<AnswerSamples> samples_;  // null: none are wanted
  std::vector<GroupOptions> groups_;
  Schedule schedule_;
  std::vector<NamedTensor> trainable_;
  std::unique_ptr<FlatBuffer> buffer_;
  std::unique_ptr<Optimizer> optimizer_;
  std::unique_ptr<StepGuard> guard_;
  std::unique_ptr<WeightAverage> average_;  // null: none is kept
  RunIdentity identity_;
  std::unique_ptr<RunFolder> folder_;           // rank 0
  std::unique_ptr<Checkpointer> checkpointer_;  // rank 0
  int64_t first_step_ = 0;
};

}  // namespace

TrainEnd train(const Config& config, const TrainRequest& request, Collectives& world) {
  Trainer trainer(config, request, world);
  return trainer.run();
}

}  // namespace euromodal
