# job.sh — what every cluster's sbatch file shares: checks, the chain of jobs, the run itself. Sourced, never started.
#
# A run longer than a job's wall limit is a chain: each job goes on with --resume auto, saves when Slurm warns it (SIGUSR1, some minutes before the
# limit), and hands over to its successor. The successor is submitted at the start, held back by --dependency=afterany, so that it exists even when
# this job dies with its node; it is withdrawn when the run is done, was wrongly called, or does not get on.
#
#   CONFIG    the run's YAML                                    RUN_DIR   its run.dir (checkpoints are looked for there)
#   PROGRAM   euromodal                                         LAUNCH    words of srun that the cluster needs (an array)
#   EXTRA     more words for `train` (an array, may be empty)   CHAIN     1: a chain (default); 0: this job alone
#
# How the program ends, and what the chain does:
#   0    done                              the successor is withdrawn
#   2    wrong use of the command line     the successor is withdrawn: it would fail in the same way
#   3    saved at the warning              the successor goes on
#   else a fault (node, network, deadline) the successor goes on, unless two jobs in a row wrote no new checkpoint
# srun tells the highest code of its tasks: after a deadline it may be 137 (those that were killed) and not the 42 of the rank that fired.

job_say() { echo "job ${SLURM_JOB_ID:-?}: $*"; }

# The step of the newest complete checkpoint; 0: none.
job_step() {
  local newest=0 folder step
  for folder in "$RUN_DIR"/checkpoints/step-*; do
    [ -e "$folder/DONE" ] || continue
    step=${folder##*/step-}; [[ $step =~ ^[0-9]+$ ]] || continue
    step=$((10#$step)); [ "$step" -gt "$newest" ] && newest=$step
  done
  echo "$newest"
}

job_check() {
  local name
  for name in CONFIG RUN_DIR PROGRAM; do
    [ -n "${!name:-}" ] || { job_say "$name is not set; see training/slurm/README.md" >&2; exit 2; }
  done
  [ -r "$CONFIG" ] || { job_say "CONFIG=$CONFIG cannot be read" >&2; exit 2; }
  command -v "$PROGRAM" > /dev/null || { job_say "PROGRAM=$PROGRAM cannot be started" >&2; exit 2; }
  [ -n "${SLURM_JOB_ID:-}" ] || { job_say "start with sbatch" >&2; exit 2; }
}

# A word of this job as Slurm has it (TimeLimit, Partition, ...): what the command line of sbatch said, which the file does not.
job_word() { scontrol show job --oneliner "$SLURM_JOB_ID" 2> /dev/null | tr ' ' '\n' | sed -n "s/^$1=//p" | head -n 1; }

# Submits the successor as this job was submitted; its id goes to $successor.
job_chain() {
  successor=
  [ "${CHAIN:-1}" = 1 ] || return 0
  local word value words=()
  for word in account=Account partition=Partition qos=QOS time=TimeLimit reservation=Reservation; do
    value=$(job_word "${word#*=}")
    case $value in ''|'(null)'|N/A|UNLIMITED) ;; *) words+=("--${word%%=*}=$value") ;; esac
  done
  # The environment travels (sbatch's --export=ALL): CONFIG, RUN_DIR and the rest, and CHAIN_STEP and STALLED.
  if ! successor=$(sbatch --parsable --export=ALL --dependency="afterany:$SLURM_JOB_ID" --nodes="$SLURM_JOB_NUM_NODES" --job-name="$SLURM_JOB_NAME" \
      ${words[@]+"${words[@]}"} "$JOB_FILE"); then
    successor=
    job_say "the successor cannot be submitted: the chain ends with this job" >&2
    return 0
  fi
  successor=${successor%%;*}   # --parsable says ID or ID;CLUSTER
  job_say "successor $successor waits"
}

job_withdraw() {
  [ -n "$successor" ] || return 0
  scancel "$successor" && job_say "successor $successor withdrawn: $*"
}

# SIGUSR1 comes to this shell (sbatch --signal=B:USR1@SECONDS) and goes on to every task: each saves after its step and leaves with code 3. srun passes
# it on; where a site's srun does not, the controller does. Twice is as good as once.
job_warned() {
  warned=1
  job_say "SIGUSR1: the wall limit is near; the run saves and leaves"
  kill -USR1 "$srun_pid"
  scancel --signal=USR1 "$SLURM_JOB_ID" 2> /dev/null
}

job_main() {
  set -uo pipefail
  job_check
  local before code after
  before=$(job_step)
  # What the predecessors found: how many jobs in a row have written nothing new. It travels in the environment and is corrected by the step that the
  # predecessor began with, so it is right also when that job could not say anything any more.
  stalled=${STALLED:-0}
  if [ -n "${CHAIN_STEP:-}" ]; then
    if [ "$before" -gt "$CHAIN_STEP" ]; then stalled=0; else stalled=$((stalled + 1)); fi
  fi
  if [ "$stalled" -ge 2 ]; then
    job_say "two jobs in a row wrote no new checkpoint (still at step $before): the chain stops; look at $RUN_DIR and the jobs' logs" >&2
    exit 1
  fi
  export CHAIN_STEP=$before STALLED=$stalled
  job_say "step $before, ${SLURM_JOB_NUM_NODES:-?} nodes, stalled jobs: $stalled"
  job_chain
  # Since Slurm 22.05 srun no longer takes --cpus-per-task from the job: a rank would get one core.
  [ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
  trap job_warned USR1
  # --kill-on-bad-exit: one rank's end (exit 42 of its watchdog too) ends all. --wait: as long as the others may take to write their flight records.
  srun --kill-on-bad-exit=1 --wait=60 ${LAUNCH[@]+"${LAUNCH[@]}"} "$PROGRAM" train --config "$CONFIG" --resume auto ${EXTRA[@]+"${EXTRA[@]}"} &
  srun_pid=$!
  # wait returns at the signal: then the step is waited for again (bash keeps its code, should it have ended in between).
  while :; do warned=0; wait "$srun_pid"; code=$?; [ "$warned" = 1 ] || break; done
  trap - USR1
  after=$(job_step)
  job_say "exit code $code, step $before -> $after"
  case $code in
    0) job_withdraw "the run is done" ;;
    2) job_withdraw "exit code 2 is wrong use; it would fail in the same way" ;;
    *) [ "$stalled" -ge 1 ] && [ "$after" -le "$before" ] && job_withdraw "two jobs in a row wrote no new checkpoint (step $after)" ;;
  esac
  [ "$code" = 3 ] && exit 0   # saved and handed over: no failure in the accounting
  exit "$code"
}
