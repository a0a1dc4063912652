// launcher.h — who started this process and as which rank, from the environment alone: known before
// MPI starts (messages of a rank that hangs in MPI_Init) and checked against what MPI then sees.
//
//   Open MPI mpirun      OMPI_COMM_WORLD_RANK / _SIZE
//   srun --mpi=pmix      PMIX_RANK                (size: SLURM_STEP_NUM_TASKS)
//   srun --mpi=pmi2, MPICH mpirun, ParaStation    PMI_RANK / PMI_SIZE
//   Cray PALS            PALS_RANKID              (size: PMI_SIZE)
//   srun without PMI     SLURM_PROCID / SLURM_STEP_NUM_TASKS: more than one task is a fault
#pragma once
#include <string>

namespace euromodal {

struct Launch {
  std::string launcher;  // empty: started alone
  int rank = 0;
  int size = 1;  // 1 also where the environment does not say
};

Launch find_launch();
/// True when find_launch() names a launcher.
bool launched_by_mpi();
/// DistError when the launcher started several ranks but MPI sees one: each of them would train
/// alone. Says what to do; `library` is MPI's own version text.
void check_launch(const Launch& launch, int mpi_size, const std::string& library);

}  // namespace euromodal
