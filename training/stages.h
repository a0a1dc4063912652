// stages.h — several runs in one YAML, one after the other:
//
//   run: {dir: out, seed: 1}
//   ...                                  # everything outside is shared
//   stages:
//     - {name: align, steps: 1000, trainable: ["adapter.*"], objective: {model: {...}}}
//     - name: full
//       steps: 500
//       objective: {model: {folder: "${stage.align}/model"}}
//
// A stage's keys stand over the shared ones, maps merged deeply (lists are replaced). Each stage
// has its own folder run.dir/NAME; `${stage.NAME}` in a value is the folder of a stage before.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "core/json.h"
#include "training/trainer.h"

namespace euromodal {

/// Trains what `file` with `overrides` (core/config.h) describes: one run, or its stages. Options,
/// groups and schedules of every stage are checked before the first begins. A ConfigError of a
/// stage names it. `request.resume`: "auto" skips stages that are done (their model is written) and
/// goes on in the first that is not; a checkpoint's folder chooses the stage it lies in.
TrainEnd train_file(const std::filesystem::path& file, const std::vector<std::string>& overrides,
                    const TrainRequest& request, Collectives& world);

/// dry_run() (training/dry_run.h) of the one run that the file describes; of stages an object
/// {"ranks", "stages": [{"stage": NAME, ...}, ...]} in their order. A stage that begins with the
/// model of one before takes the one that is there, else that one as it would start, which lies in
/// a temporary folder meanwhile.
Json dry_run_file(const std::filesystem::path& file, const std::vector<std::string>& overrides,
                  int ranks);

}  // namespace euromodal
