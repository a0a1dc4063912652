// run_log.cpp — see run_log.h.
#include "training/run_log.h"

#include <algorithm>
#include <cmath>

#include "core/log.h"

namespace euromodal {

RunLog::RunLog(Collectives& world, RunFolder* folder, const Options& options)
    : world_(world),
      folder_(folder),
      options_(options),
      progress_("train", options.steps, "steps", world.rank() == 0, options.first_step),
      start_(Clock::now()),
      last_row_(start_) {
  if (options_.time_split) split_.emplace();
  if (folder_ != nullptr && options_.tensorboard)
    events_ = std::make_unique<EventFile>(folder_->dir() / "tensorboard", options_.first_step);
}

double RunLog::seconds(Clock::time_point since) {
  return std::chrono::duration<double>(Clock::now() - since).count();
}

void RunLog::applied(double loss_sum, double count) {
  loss_sum_ += loss_sum;
  loss_count_ += count;
  last_loss_ = loss_sum / count;
}

void RunLog::step(const Step& figures, bool row_due) {
  ++steps_since_;
  if (row_due) {
    row(figures);
    data_ = figures.data;
    loss_sum_ = loss_count_ = 0.0;
    steps_since_ = 0;
    notes_.clear();
    last_row_ = Clock::now();
  }
  progress_.update(figures.step + 1, fmt::format("loss={:.4f}", last_loss_));
}

void RunLog::row(const Step& figures) {
  if (split_) {
    for (const auto& [name, spent] : split_->take())
      metrics_.add("time_" + name + "_s", spent, static_cast<double>(steps_since_));
  }
  const LoaderFigures data = figures.data - data_;
  metrics_.add("bad_samples", static_cast<double>(data.bad_samples), 0.0);
  if (options_.shared_memory) metrics_.add("memory_pss_mb", proportional_memory_mb(), 1.0);
  const auto sums = metrics_.reduce(world_);
  if (world_.rank() != 0) return;
  const double interval = seconds(last_row_), elapsed = seconds(start_),
               done = static_cast<double>(figures.step + 1 - options_.first_step),
               left = static_cast<double>(options_.steps - figures.step - 1),
               loss = loss_sum_ / std::max(loss_count_, 1.0);
  Json row;
  row["step"] = figures.step;
  row["loss"] = loss;
  row["lr_factor"] = figures.lr_factor;
  for (const auto& [name, rate] : figures.rates) row[name] = rate;
  row["grad_norm"] = figures.norm;
  row["bad_steps"] = figures.bad_steps;
  row["spikes"] = figures.spikes;
  for (const auto& [name, value] : sums) {
    if (value.second > 0.0) row[name] = value.first / value.second;
  }
  const auto rate = [&](const char* name) {
    return sums.contains(name) ? sums.at(name).first / interval : 0.0;
  };
  row["tokens_per_s"] = rate("tokens");
  row["samples_per_s"] = rate("samples");
  if (rate("flops") > 0.0) {
    row["tflops"] = rate("flops") / 1e12;
    if (options_.peak_flops > 0.0) row["mfu"] = rate("flops") / options_.peak_flops;
  }
  row["bad_samples"] = sums.at("bad_samples").first;  // of all ranks
  row["data_stall_s"] = data.stall_s;
  row["data_stall_share"] = data.stall_s / std::max(interval, 1e-9);
  row["data_ready_steps"] =
      data.ready_steps / static_cast<double>(std::max<int64_t>(data.steps, 1));
  row.update(figures.times);
  row["memory_mb"] = peak_memory_mb();
  row["memory_now_mb"] = memory_mb_now();
  row["elapsed_s"] = elapsed;
  row["eta_s"] = elapsed / done * left;
  for (const auto& [name, value] : notes_) row[name] = value;
  write(row);
  log_debug("step={} loss={:.4f} grad_norm={:.3f} samples_s={:.1f} stall_s={:.2f}", figures.step,
            loss, figures.norm, row["samples_per_s"].get<double>(), data.stall_s);
}

void RunLog::validation(int64_t step, const Json& figures) {
  if (world_.rank() != 0) return;
  Json out = {{"step", step}};
  out.update(figures);
  write(out);
  std::string text;
  for (const auto& [key, value] : figures.items())
    text += fmt::format(" {}={:.4f}", key, value.is_number() ? value.get<double>() : std::nan(""));
  log_info("step={}{}", step, text);
}

void RunLog::samples(const std::vector<Json>& rows) {
  if (world_.rank() != 0) return;
  for (const Json& row : rows) {
    folder_->log_sample(row);
    log_info("step={} sample={} reference={} answer={}", row["step"].get<int64_t>(),
             row["id"].get<std::string>(), row["reference"].dump(), row["answer"].dump());
  }
}

void RunLog::write(const Json& row) {
  folder_->log(row);
  if (!events_) return;
  std::vector<std::pair<std::string, float>> scalars;
  for (const auto& [name, value] : row.items()) {
    if (name == "step" || !value.is_number()) continue;
    const std::string_view prefix = "validation_";
    scalars.emplace_back(
        name.starts_with(prefix) ? "validation/" + name.substr(prefix.size()) : "train/" + name,
        static_cast<float>(value.get<double>()));
  }
  events_->scalars(row["step"].get<int64_t>(), scalars);
}

}  // namespace euromodal
