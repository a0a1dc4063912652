// launcher.cpp — see launcher.h.
#include "training/dist/launcher.h"

#include <algorithm>
#include <cstdlib>

#include "core/error.h"

namespace euromodal {
namespace {

/// The variable as a number; -1 when it is not set.
int launcher_number(const char* name) {
  const char* text = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): nobody sets variables
  return text == nullptr ? -1 : std::atoi(text);
}

}  // namespace

Launch find_launch() {
  // In this order: a launcher of the first rows may itself run inside one of the last.
  struct Row {
    const char *launcher, *rank, *size;
    bool own_size;  // the size variable alone tells this launcher
  };
  static constexpr Row kRows[] = {
      {"mpirun (Open MPI)", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", true},
      {"a PALS launcher", "PALS_RANKID", "PMI_SIZE", false},
      {"a PMIx launcher", "PMIX_RANK", "SLURM_STEP_NUM_TASKS", false},
      {"a PMI launcher", "PMI_RANK", "PMI_SIZE", true}};
  for (const Row& row : kRows) {
    const int rank = launcher_number(row.rank), size = launcher_number(row.size);
    if (rank >= 0 || (row.own_size && size >= 0))
      return {row.launcher, std::max(rank, 0), std::max(size, 1)};
  }
  // Inside an allocation a process that stands alone has SLURM_PROCID too: only several tasks
  // count.
  const int tasks = launcher_number("SLURM_STEP_NUM_TASKS");
  if (tasks > 1) return {"srun without PMI", std::max(launcher_number("SLURM_PROCID"), 0), tasks};
  return {};
}

bool launched_by_mpi() { return !find_launch().launcher.empty(); }

void check_launch(const Launch& launch, int mpi_size, const std::string& library) {
  check<DistError>(mpi_size > 1 || launch.size <= 1,
                   "{} started {} ranks but MPI sees 1 ({}): every rank would train alone. What to "
                   "do: start with the mpirun of this MPI, or with srun --mpi=pmix (or pmi2; srun "
                   "--mpi=list names what there is)",
                   launch.launcher, launch.size, library.substr(0, library.find('\n')));
}

}  // namespace euromodal
