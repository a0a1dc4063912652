// trainer.cpp — see trainer.h.
#include "training/trainer.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <csignal>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <sched.h>

#include "core/log.h"
#include "core/progress.h"
#include "training/checkpoint.h"
#include "training/optimizer.h"
#include "training/parameter_groups.h"
#include "training/run_folder.h"
#include "training/run_metrics.h"
#include "training/train_options.h"
#include "training/validation.h"

namespace euromodal {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

double train_seconds(Clock::time_point since) {
  return std::chrono::duration<double>(Clock::now() - since).count();
}

std::atomic<bool> train_stop{false};  // set by signals only

/// SIGTERM, SIGINT and SIGUSR1 ask for a checkpoint and a clean end; the old handlers come back
/// afterwards.
class TrainSignals {
 public:
  TrainSignals() {
    train_stop = false;
    for (size_t i = 0; i < std::size(kSignals); ++i) {
      struct sigaction action {};
      action.sa_handler = [](int) { train_stop = true; };
      ::sigaction(kSignals[i], &action, &before_[i]);
    }
  }
  ~TrainSignals() {
    for (size_t i = 0; i < std::size(kSignals); ++i) ::sigaction(kSignals[i], &before_[i], nullptr);
  }
  TrainSignals(const TrainSignals&) = delete;
  TrainSignals& operator=(const TrainSignals&) = delete;

 private:
  static constexpr int kSignals[] = {SIGTERM, SIGINT, SIGUSR1};
  struct sigaction before_[3]{};
};

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
    const TrainSignals signals;
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
    if (first_step_ < options_.steps && !loop()) return TrainEnd::kStopped;
    world_.set_phase("model", options_.step_deadline_s);
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
    world_.set_phase("resume", options_.step_deadline_s);
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
    world_.set_phase("checkpoint", options_.step_deadline_s);
    if (world_.rank() == 0) {
      save_checkpoint(options_.dir / "checkpoints", step, identity_, *buffer_, *optimizer_);
      prune_checkpoints(options_.dir / "checkpoints", options_.checkpoint_keep);
    }
    world_.barrier();
  }

  /// Forward and backward of one part; its gradient and loss are added to the flat buffer. Returns
  /// the number of targets.
  double run_part(const PartBatches& part) {
    double count = 0.0;
    for (const Batch& batch : part.batches) {
      const LossSums sums = objective_->loss(batch, /*training=*/true);
      metrics_.add("tokens", static_cast<double>(batch.ids_T.numel()), 0.0);
      metrics_.add("samples", static_cast<double>(batch.examples.size()), 0.0);
      if (!sums.loss_sum.defined()) continue;
      // A batch may reach nothing that is trained (text alone, when only adapters are): its loss
      // counts, its gradient is zero.
      if (sums.loss_sum.requires_grad()) {
        sums.loss_sum.backward();
        buffer_->gather_gradient();
      }
      buffer_->tail()[0] += sums.loss_sum.item<float>();
      count += sums.count;
      metrics_.add(sums.metrics);
    }
    return count;
  }

  /// Gradients and loss of the whole global batch, in the flat buffer of every rank. Returns the
  /// number of targets of all ranks.
  double run_batch(const std::vector<PartBatches>& parts, bool* stop) {
    double figures[2] = {0.0, train_stop ? 1.0 : 0.0};
    buffer_->zero_gradient();
    if (options_.deterministic) {
      const auto size = static_cast<size_t>(buffer_->gradient_size());
      part_gradients_.resize(parts.size());
      std::vector<const float*> addends;
      std::vector<int64_t> ids;
      for (size_t i = 0; i < parts.size(); ++i) {
        if (i > 0) buffer_->zero_gradient();
        figures[0] += run_part(parts[i]);
        part_gradients_[i].assign(buffer_->gradient(), buffer_->gradient() + size);
        addends.push_back(part_gradients_[i].data());
        ids.push_back(parts[i].part);
      }
      world_.ordered_sum(addends, ids, buffer_->gradient_size(), buffer_->gradient());
    } else {
      for (const PartBatches& part : parts) figures[0] += run_part(part);
      world_.all_reduce_sum(buffer_->gradient(), buffer_->gradient_size());
    }
    buffer_->add_aliases();
    world_.all_reduce_sum(figures, 2);
    *stop = figures[1] > 0.0;  // any rank was asked to stop: all do, after the same step
    return figures[0];
  }

  /// False: a rank was asked to stop.
  bool loop() {
    Loader loader(
        data_, options_.loader,
        [this](const Sample& sample, int64_t global) {
          return objective_->prepare(
              sample, Rng(options_.seed).fork("sample", static_cast<uint64_t>(global)),
              /*training=*/true);
        },
        first_step_);
    Progress progress("train", options_.steps, "steps", world_.rank() == 0);
    Clock::time_point logged = Clock::now();
    const Clock::time_point start = logged;
    double loss_sum = 0.0, loss_count = 0.0, stalled = 0.0;
    for (int64_t step = first_step_; step < options_.steps; ++step) {
      world_.set_phase(fmt::format("step {}", step), options_.step_deadline_s);
      bool stop = false;
      const double count = run_batch(loader.next(), &stop);
      const double step_loss = buffer_->tail()[0];
      const double norm =
          count > 0.0 ? gradient_norm(buffer_->gradient(), buffer_->size()) / count : 0.0;
      if (count == 0.0) {
        if (world_.rank() == 0) log_warn("step={} skipped: every sample of the batch is bad", step);
      } else if (!std::isfinite(step_loss) || !std::isfinite(norm)) {
        skip(step, step_loss / count, norm);
      } else {
        const double clip =
            options_.clip_norm > 0.0 && norm > options_.clip_norm ? options_.clip_norm / norm : 1.0;
        optimizer_->step(schedule_.factor(step), clip / count, world_);
        loss_sum += step_loss;
        loss_count += count;
        if (step == 0) check_start(step_loss / count);
      }
      const int64_t done = step + 1;
      if (done % options_.log_every == 0 || done == options_.steps || stop) {
        const double stall = loader.figures().stall_s;
        log_step(step, {.loss = loss_sum / std::max(loss_count, 1.0),
                        .norm = norm,
                        .seconds = train_seconds(logged),
                        .elapsed = train_seconds(start),
                        .stall = stall - stalled});
        progress.update(done, fmt::format("loss={:.4f}", loss_sum / std::max(loss_count, 1.0)));
        stalled = stall;
        loss_sum = loss_count = 0.0;
        logged = Clock::now();
      } else {
        progress.update(done);
      }
      if (options_.validation_every > 0 &&
          (done % options_.validation_every == 0 || done == options_.steps))
        validate(step);
      const bool due = options_.checkpoint_every > 0 && done % options_.checkpoint_every == 0;
      if (due || stop || done == options_.steps) checkpoint(done);
      if (stop && done < options_.steps) {
        if (world_.rank() == 0)
          log_warn("step={} stopped by a signal; go on with --resume auto", step);
        return false;
      }
    }
    progress.finish();
    return true;
  }

  struct StepFigures {
    double loss, norm, seconds, elapsed, stall;
  };

  void log_step(int64_t step, const StepFigures& f) {
    const auto sums = metrics_.reduce(world_);
    if (world_.rank() != 0) return;
    const double done = static_cast<double>(step + 1 - first_step_),
                 left = static_cast<double>(options_.steps - step - 1);
    Json row;
    row["step"] = step;
    row["loss"] = f.loss;
    row["lr_factor"] = schedule_.factor(step);
    for (size_t i = 0; i < groups_.size(); ++i)
      row[fmt::format("lr_{}_{}", i, group_type_name(groups_[i].type))] =
          groups_[i].lr * schedule_.factor(step);
    row["grad_norm"] = f.norm;
    for (const auto& [name, value] : sums) {
      if (value.second > 0.0) row[name] = value.first / value.second;
    }
    const auto rate = [&](const char* name) {
      return sums.contains(name) ? sums.at(name).first / f.seconds : 0.0;
    };
    row["tokens_per_s"] = rate("tokens");
    row["samples_per_s"] = rate("samples");
    row["data_stall_s"] = f.stall;
    row["memory_mb"] = peak_memory_mb();
    row["elapsed_s"] = f.elapsed;
    row["eta_s"] = f.elapsed / done * left;
    folder_->log(row);
    log_debug("step={} loss={:.4f} grad_norm={:.3f} samples_s={:.1f} stall_s={:.2f}", step, f.loss,
              f.norm, row["samples_per_s"].get<double>(), f.stall);
  }

  void validate(int64_t step) {
    world_.set_phase(fmt::format("validation {}", step), options_.step_deadline_s);
    const Json row = run_validation(*objective_, *validation_data_,
                                    {.max_samples = options_.validation_samples,
                                     .batch_samples = options_.loader.batch_samples,
                                     .max_bad_samples = options_.loader.max_bad_samples,
                                     .per_sample = options_.deterministic},
                                    world_);
    if (world_.rank() != 0) return;
    Json out = {{"step", step}};
    out.update(row);
    folder_->log(out);
    std::string text;
    for (const auto& [key, value] : row.items())
      text +=
          fmt::format(" {}={:.4f}", key, value.is_number() ? value.get<double>() : std::nan(""));
    log_info("step={}{}", step, text);
  }

  void skip(int64_t step, double loss, double norm) {
    ++bad_steps_;
    if (world_.rank() == 0)
      log_warn(
          "step={} skipped: loss {} and gradient norm {} are not both finite ({} of at most {})",
          step, loss, norm, bad_steps_, options_.max_bad_steps);
    check(bad_steps_ <= options_.max_bad_steps,
          "step {}: {} steps had a loss or gradient that is not finite, more than max_bad_steps "
          "{}; last checkpoint: {}",
          step, bad_steps_, options_.max_bad_steps, (options_.dir / "checkpoints").string());
  }

  void check_start(double loss) const {
    const auto chance = objective_->chance_loss();
    if (chance && loss > 0.9 * *chance && world_.rank() == 0) {
      log_warn(
          "step=0 loss {:.2f} is what a model that knows nothing has ({:.2f}): were the pretrained "
          "weights loaded from the right folder?",
          loss, *chance);
    }
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
  RunMetrics metrics_;
  std::vector<std::vector<float>> part_gradients_;
  int64_t first_step_ = 0, bad_steps_ = 0;
};

}  // namespace

TrainEnd train(const Config& config, const TrainRequest& request, Collectives& world) {
  Trainer trainer(config, request, world);
  return trainer.run();
}

}  // namespace euromodal
