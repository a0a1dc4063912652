// run_folder.cpp — see run_folder.h.
#include "training/run_folder.h"

#include <chrono>
#include <sstream>

#include <ATen/Version.h>
#include <ATen/cpu/Utils.h>
#include <torch/version.h>
#include <unistd.h>

#include "core/files.h"

namespace euromodal {

namespace fs = std::filesystem;

namespace {

/// Makes the folder; it must not hold a run that is not to go on.
const fs::path& run_folder_ready(const fs::path& dir, const std::string& resolved_config,
                                 const Json& environment, bool resume) {
  check<ConfigError>(resume || !fs::exists(dir / "config.yaml"),
                     "{}: already holds a run; go on with --resume auto, or choose another run.dir",
                     dir.string());
  std::error_code error;
  fs::create_directories(dir, error);
  check<ConfigError>(!error, "{}: cannot be made: {}", dir.string(), error.message());
  write_text_atomic(dir / "config.yaml", resolved_config);
  write_text_atomic(dir / "environment.json", environment.dump(1) + "\n");
  return dir;
}

}  // namespace

RunFolder::RunFolder(const fs::path& dir, const std::string& resolved_config,
                     const Json& environment, bool resume, int64_t first_step)
    : dir_(run_folder_ready(dir, resolved_config, environment, resume)),
      metrics_(dir / "metrics.jsonl", first_step),
      samples_(dir / "samples.jsonl", first_step) {}

RunFolder::Rows::Rows(fs::path file, int64_t first_step) : file_(std::move(file)) {
  std::string kept;
  if (fs::exists(file_)) {  // rows of steps that are run again are dropped
    std::istringstream lines(read_text(file_));
    for (std::string line; std::getline(lines, line);) {
      const Json row = Json::parse(line, nullptr, /*allow_exceptions=*/false);
      if (row.is_object() && row.contains("step") && row["step"].is_number_integer() &&
          row["step"].get<int64_t>() < first_step)
        kept += line + "\n";
    }
  }
  write_text_atomic(file_, kept);
  out_.open(file_, std::ios::app);
  check(out_.good(), "{}: cannot be written", file_.string());
}

void RunFolder::Rows::write(const Json& row) {
  out_ << row.dump() << "\n" << std::flush;
  check(out_.good(), "{}: cannot be written (is the disk full?)", file_.string());
}

Json run_environment(int ranks, int64_t threads, uint64_t seed) {
  char host[256] = {};
  ::gethostname(host, sizeof host - 1);
  const auto now = std::chrono::duration_cast<std::chrono::seconds>(
                       std::chrono::system_clock::now().time_since_epoch())
                       .count();
  return {{"program", EUROMODAL_VERSION},
          {"git", EUROMODAL_GIT},
          {"libtorch", TORCH_VERSION},
          {"compiler", __VERSION__},
          {"cpu", at::get_cpu_capability()},
          {"host", host},
          {"ranks", ranks},
          {"threads", threads},
          {"seed", seed},
          {"started_unix_s", now}};
}

}  // namespace euromodal
