// stages.cpp — see stages.h.
#include "training/stages.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <set>

#include "core/log.h"
#include "training/dry_run.h"
#include "training/parameter_groups.h"
#include "training/train_options.h"

namespace euromodal {
namespace {

namespace fs = std::filesystem;

struct Stage {
  std::string name;
  fs::path dir;
  std::vector<std::string> overrides;  // that make the file's config this stage's
  fs::path outcome;                    // the folder that later stages know it by
};

/// Where a dry run leaves the models that later stages begin with.
class StageScratch {
 public:
  StageScratch() {
    std::string name = (fs::temp_directory_path() / "euromodal-dry-run-XXXXXX").string();
    check(::mkdtemp(name.data()) != nullptr, "{}: cannot be made: {}", name, std::strerror(errno));
    path_ = name;
  }
  ~StageScratch() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  StageScratch(const StageScratch&) = delete;
  StageScratch& operator=(const StageScratch&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

/// Runs `work`; a ConfigError says which stage it is about.
template <typename Work>
auto stage_named(const std::string& name, const Work& work) {
  try {
    return work();
  } catch (const ConfigError& e) {
    throw ConfigError("stage {}: {}", name, e.what());
  }
}

bool stage_name_ok(const std::string& name) {
  return !name.empty() && std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '_' || c == '-';
  });
}

/// `scratch`: the folder of a dry run, for stages that have left no model yet.
std::vector<Stage> stage_list(const Config& config, const std::vector<std::string>& overrides,
                              const std::optional<fs::path>& scratch = std::nullopt) {
  const fs::path dir = config.child("run").path("dir");
  std::vector<Stage> out;
  std::set<std::string> names;
  std::vector<std::string> folders;  // ${stage.NAME} of the stages before
  for (const Config& entry : config.list("stages")) {
    Stage stage;
    stage.name = entry.str("name");
    check<ConfigError>(stage_name_ok(stage.name), "{}: expected letters, digits, - and _, got '{}'",
                       entry.where("name"), stage.name);
    check<ConfigError>(names.insert(stage.name).second, "{}: there is a stage {} already",
                       entry.where("name"), stage.name);
    check<ConfigError>(!entry.has("run") || !entry.child("run").has("dir"),
                       "{}: a stage has its own folder below the shared run.dir; leave it out",
                       entry.where("run"));
    stage.dir = dir / stage.name;
    stage.overrides = overrides;
    stage.overrides.push_back(fmt::format("@stages.{}", out.size()));
    stage.overrides.push_back("run.dir=" + Json(stage.dir.string()).dump());
    stage.overrides.insert(stage.overrides.end(), folders.begin(), folders.end());
    stage.outcome = scratch && !fs::exists(stage.dir / "model") ? *scratch / stage.name : stage.dir;
    folders.push_back(fmt::format("${{stage.{}}}={}", stage.name, stage.outcome.string()));
    out.push_back(std::move(stage));
  }
  check<ConfigError>(!out.empty(), "{}: expected at least one stage", config.where("stages"));
  return out;
}

/// What can be read of a stage before the stages before it have left their models.
void stage_check(const Config& config) {
  const TrainOptions options = TrainOptions::parse(config);
  parse_groups(config, "optimizer", options.steps);
  Schedule::parse(config.child("schedule"), options.steps);
}

/// Index of the stage to begin with; rank 0 looks, all follow.
int64_t stage_first(const std::vector<Stage>& stages, const std::string& resume,
                    Collectives& world) {
  int64_t first = 0;
  if (world.rank() == 0) {
    const auto done = [](const Stage& stage) { return fs::exists(stage.dir / "model"); };
    if (resume.empty()) {
      for (const Stage& stage : stages)
        check<ConfigError>(!fs::exists(stage.dir / "config.yaml"),
                           "{}: already holds a run; go on with --resume auto, or choose another "
                           "run.dir",
                           stage.dir.string());
    } else if (resume == "auto") {
      while (first + 1 < static_cast<int64_t>(stages.size()) && done(stages[first])) ++first;
    } else {
      const fs::path folder = fs::weakly_canonical(resume).parent_path().parent_path();
      const auto found = std::find_if(stages.begin(), stages.end(), [&](const Stage& stage) {
        return fs::weakly_canonical(stage.dir) == folder;
      });
      check<ConfigError>(found != stages.end(),
                         "--resume {}: is no checkpoint of a stage of this run", resume);
      first = found - stages.begin();
    }
  }
  world.broadcast(&first, sizeof first, 0);
  return first;
}

}  // namespace

TrainEnd train_file(const fs::path& file, const std::vector<std::string>& overrides,
                    const TrainRequest& request, Collectives& world) {
  const Config config = Config::load(file, overrides);
  if (!config.has("stages")) return train(config, request, world);
  const std::vector<Stage> stages = stage_list(config, overrides);
  for (const Stage& stage : stages)
    stage_named(stage.name, [&] { stage_check(Config::load(file, stage.overrides)); });

  TrainRequest next = request;
  for (auto i = static_cast<size_t>(stage_first(stages, request.resume, world)); i < stages.size();
       ++i) {
    const Stage& stage = stages[i];
    if (world.rank() == 0) log_info("stage={} ({} of {})", stage.name, i + 1, stages.size());
    const TrainEnd end = stage_named(
        stage.name, [&] { return train(Config::load(file, stage.overrides), next, world); });
    if (end != TrainEnd::kDone) return end;
    next.resume = request.resume.empty() ? "" : "auto";
  }
  return TrainEnd::kDone;
}

Json dry_run_file(const fs::path& file, const std::vector<std::string>& overrides, int ranks) {
  const Config whole = Config::load(file, overrides);
  if (!whole.has("stages")) return dry_run(whole, ranks);
  const StageScratch scratch;
  const std::vector<Stage> stages = stage_list(whole, overrides, scratch.path());
  std::vector<Config> configs;
  for (const Stage& stage : stages) {
    configs.push_back(Config::load(file, stage.overrides));
    stage_named(stage.name, [&] { stage_check(configs.back()); });
  }
  Json out = {{"ranks", ranks}, {"stages", Json::array()}};
  for (size_t i = 0; i < stages.size(); ++i) {
    const Stage& stage = stages[i];
    const bool wanted =
        stage.outcome != stage.dir &&
        std::any_of(configs.begin() + static_cast<int64_t>(i) + 1, configs.end(),
                    [&](const Config& later) {
                      return later.dump().find(stage.outcome.string()) != std::string::npos;
                    });
    Json row = {{"stage", stage.name}};
    row.update(stage_named(stage.name, [&] {
      return dry_run(configs[i], ranks,
                     wanted ? std::optional(stage.outcome / "model") : std::nullopt);
    }));
    out["stages"].push_back(std::move(row));
  }
  return out;
}

}  // namespace euromodal
