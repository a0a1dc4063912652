// run_log.cpp — see run_log.h.
#include "training/run_log.h"

#include <algorithm>
#include <cmath>

#include "core/log.h"

namespace euromodal {

RunLog::RunLog(Collectives& world, RunFolder* folder, int64_t first_step, int64_t steps)
    : world_(world),
      folder_(folder),
      first_step_(first_step),
      steps_(steps),
      progress_("train", steps, "steps", world.rank() == 0),
      start_(Clock::now()),
      last_row_(start_) {}

double RunLog::seconds(Clock::time_point since) {
  return std::chrono::duration<double>(Clock::now() - since).count();
}

void RunLog::applied(double loss_sum, double count) {
  loss_sum_ += loss_sum;
  loss_count_ += count;
}

void RunLog::step(const Step& figures, bool row_due) {
  if (!row_due) {
    progress_.update(figures.step + 1);
    return;
  }
  row(figures);
  progress_.update(figures.step + 1,
                   fmt::format("loss={:.4f}", loss_sum_ / std::max(loss_count_, 1.0)));
  stalled_ = figures.stall_s;
  loss_sum_ = loss_count_ = 0.0;
  last_row_ = Clock::now();
}

void RunLog::row(const Step& figures) {
  const auto sums = metrics_.reduce(world_);
  if (world_.rank() != 0) return;
  const double interval = seconds(last_row_), elapsed = seconds(start_),
               stall = figures.stall_s - stalled_,
               done = static_cast<double>(figures.step + 1 - first_step_),
               left = static_cast<double>(steps_ - figures.step - 1),
               loss = loss_sum_ / std::max(loss_count_, 1.0);
  Json row;
  row["step"] = figures.step;
  row["loss"] = loss;
  row["lr_factor"] = figures.lr_factor;
  for (const auto& [name, rate] : figures.rates) row[name] = rate;
  row["grad_norm"] = figures.norm;
  for (const auto& [name, value] : sums) {
    if (value.second > 0.0) row[name] = value.first / value.second;
  }
  const auto rate = [&](const char* name) {
    return sums.contains(name) ? sums.at(name).first / interval : 0.0;
  };
  row["tokens_per_s"] = rate("tokens");
  row["samples_per_s"] = rate("samples");
  row["data_stall_s"] = stall;
  row.update(figures.times);
  row["memory_mb"] = peak_memory_mb();
  row["elapsed_s"] = elapsed;
  row["eta_s"] = elapsed / done * left;
  folder_->log(row);
  log_debug("step={} loss={:.4f} grad_norm={:.3f} samples_s={:.1f} stall_s={:.2f}", figures.step,
            loss, figures.norm, row["samples_per_s"].get<double>(), stall);
}

void RunLog::validation(int64_t step, const Json& figures) {
  if (world_.rank() != 0) return;
  Json out = {{"step", step}};
  out.update(figures);
  folder_->log(out);
  std::string text;
  for (const auto& [key, value] : figures.items())
    text += fmt::format(" {}={:.4f}", key, value.is_number() ? value.get<double>() : std::nan(""));
  log_info("step={}{}", step, text);
}

}  // namespace euromodal
