// train.cpp — `euromodal train`: under mpirun or srun every rank runs this; alone it is one rank.
#include "cli/commands.h"
#include "cli/options.h"
#include "core/log.h"
#include "training/deadlines.h"
#include "training/dist/watched_world.h"
#include "training/stages.h"

namespace euromodal::cli {

int run_train(int argc, char** argv) {
  std::string config_file, log_level = "info";
  std::vector<std::string> overrides;
  TrainRequest request;
  int64_t dry_run_ranks = 0;
  Options options("train", "trains what a YAML file describes, under mpirun or srun, or alone");
  options.text("--config", &config_file, "FILE", "the run's YAML (docs/training.md)",
               /*required=*/true);
  options.each("--set", "KEY=VALUE",
               "replaces or adds one value, e.g. optimizer.0.lr=0.01; may be repeated",
               [&](const std::string& text) { overrides.push_back(text); });
  options.text("--resume", &request.resume, "auto|DIR",
               "goes on from the newest complete checkpoint of the run (or starts), or from DIR");
  options.i64("--dry-run", &dry_run_ranks,
              "two steps as one rank of N without the others: prints what is sent and held, writes "
              "nothing",
              1, 1'000'000);
  options.text("--log-level", &log_level, "WORD", "debug, info, warn, error or off");
  options.note(
      "exit codes: 0 done; 1 fault; 2 wrong use; 3 stopped by a signal or the time limit, go on "
      "with "
      "--resume auto;\n42 a deadline passed without progress (RUN/flight says where: euromodal "
      "inspect RUN/flight)");
  if (!options.parse(argc, argv)) return 0;
  if (options.given("--resume") && request.resume.empty())
    throw UsageError("--resume: expected auto or a checkpoint's folder, got nothing");
  set_log_level(parse_log_level(log_level));
  if (dry_run_ranks > 0) {
    fmt::print("{}\n",
               dry_run_file(config_file, overrides, static_cast<int>(dry_run_ranks)).dump(1));
    return 0;
  }
  const Config config = Config::load(config_file, overrides);
  const Config run = config.child("run");
  const PhaseDeadlines deadlines = PhaseDeadlines::parse(run);
  Watchdog watchdog({.folder = run.path("dir") / "flight",
                     .setup_deadline_s = deadlines.setup,
                     .end = &end_process});
  try {
    const auto world = make_watched_world(watchdog, {.setup_deadline_s = deadlines.setup});
    if (world->size() > 1) set_log_prefix(fmt::format("rank {}", world->rank()));
    const TrainEnd end = train_file(config_file, overrides, request, *world);
    world->set_phase("shutdown", deadlines.shutdown);
    return end == TrainEnd::kDone ? 0 : kStoppedExit;
  } catch (const std::exception& e) {
    watchdog.fault(e);
    throw;
  }
}

}  // namespace euromodal::cli
