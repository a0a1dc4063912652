#!/usr/bin/env bash
# The real job files of training/slurm with stand-ins for sbatch, srun, scontrol, scancel and module: slurm_test.sh SOURCE SCRATCH. The stand-in of srun
# "trains": it writes the checkpoint that the case asks for and ends with the case's code.
set -uo pipefail
source=$1 scratch=$2
rm -rf "$scratch"; mkdir -p "$scratch/bin"
failures=0
expect() { # what, pattern, file
  grep -qE -- "$2" "$3" || { echo "FAILED: $1: no '$2' in:"; cat "$3"; failures=$((failures + 1)); }
}
expect_no() { ! grep -qE -- "$2" "$3" 2> /dev/null || { echo "FAILED: $1: '$2' in:"; cat "$3"; failures=$((failures + 1)); }; }
expect_code() { [ "$2" = "$3" ] || { echo "FAILED: $1: exit code $2, expected $3"; failures=$((failures + 1)); }; }

cat > "$scratch/bin/sbatch" <<'FAKE'
#!/bin/bash
echo "sbatch $* CHAIN_STEP=${CHAIN_STEP:-} STALLED=${STALLED:-}" >> "$CALLS"
[ -z "${SBATCH_FAILS:-}" ] || exit 1
echo "$((SLURM_JOB_ID + 1));cluster"
FAKE
cat > "$scratch/bin/scancel" <<'FAKE'
#!/bin/bash
echo "scancel $*" >> "$CALLS"
FAKE
cat > "$scratch/bin/scontrol" <<'FAKE'
#!/bin/bash
echo "JobId=7 JobName=drill Account=proj QOS=normal TimeLimit=02:00:00 Partition=big Reservation=(null)"
FAKE
cat > "$scratch/bin/srun" <<'FAKE'
#!/bin/bash
echo "srun $*" >> "$CALLS"
env | grep -E '^(NCCL|SRUN|UCX|OMPI|OMP)_' | sort > "$CALLS.env"
step() { mkdir -p "$RUN_DIR/checkpoints/step-$(printf %08d "$1")"; touch "$RUN_DIR/checkpoints/step-$(printf %08d "$1")/DONE"; }
[ -z "${WRITES:-}" ] || step "$WRITES"
if [ -n "${WAITS:-}" ]; then   # as the trainer does: save at the signal, leave with 3
  trap 'step 500; echo "task saved" >> "$CALLS"; exit 3' USR1
  echo ready >> "$CALLS"
  for i in $(seq 200); do sleep 0.1; done
  exit 99
fi
exit "${ENDS:-0}"
FAKE
chmod +x "$scratch"/bin/*
export PATH="$scratch/bin:$PATH" PROGRAM=true CONFIG="$scratch/run.yaml" SLURM_SUBMIT_DIR="$source" SLURM_JOB_NUM_NODES=16 SLURM_JOB_NAME=drill SLURM_CPUS_PER_TASK=72
module() { echo "module $*" >> "$CALLS"; }; export -f module
echo 'run: {}' > "$CONFIG"

# job CASE FILE [NAME=VALUE...]: runs one job of the chain; its output lies in $out, its calls of Slurm in $CALLS.
job() {
  local name=$1 file=$2; shift 2
  export CALLS="$scratch/$name.calls" RUN_DIR="$scratch/$name.run"; out="$scratch/$name.out"; : > "$CALLS"
  mkdir -p "$RUN_DIR"
  env SLURM_JOB_ID=7 "$@" bash "$source/training/slurm/$file" > "$out" 2>&1
}
done_step() { mkdir -p "$scratch/$1.run/checkpoints/step-$(printf %08d "$2")"; touch "$scratch/$1.run/checkpoints/step-$(printf %08d "$2")/DONE"; }

for file in jupiter.sbatch marenostrum5.sbatch; do
  site=${file%.sbatch}
  job "$site-done" $file ENDS=0 WRITES=100
  expect_code "$file done" $? 0
  expect "the successor waits for this job" "sbatch --parsable --export=ALL --dependency=afterany:7 --nodes=16 --job-name=drill --account=proj --partition=big --qos=normal --time=02:00:00 .*/$file CHAIN_STEP=0 STALLED=0" "$CALLS"
  expect "$file resumes" "srun --kill-on-bad-exit=1 .*--gpu-bind=none .*true train --config .*run.yaml --resume auto" "$CALLS"
  expect "the chain ends when the run is done" "scancel 8$" "$CALLS"
  expect "progress is named" "exit code 0, step 0 -> 100" "$out"
  expect "NVLink switch reductions are off" "NCCL_NVLS_ENABLE=0" "$CALLS.env"
  expect "cores of a rank" "SRUN_CPUS_PER_TASK=72" "$CALLS.env"
  expect "modules" "module load " "$CALLS"
done

job fault jupiter.sbatch ENDS=42 WRITES=100
expect_code "a fault is the job's code" $? 42
expect_no "a fault leaves the chain alone" "scancel" "$CALLS"

job usage jupiter.sbatch ENDS=2
expect_code "wrong use" $? 2
expect "wrong use ends the chain" "scancel 8$" "$CALLS"

job first jupiter.sbatch ENDS=1
expect_no "one job without progress goes on" "scancel" "$CALLS"
done_step second 40
job second jupiter.sbatch ENDS=1 CHAIN_STEP=40 STALLED=0
expect "the second one in a row is counted" "step 40, 16 nodes, stalled jobs: 1" "$out"
expect "two jobs in a row without progress end the chain" "scancel 8$" "$CALLS"
done_step third 40
job third jupiter.sbatch ENDS=0 CHAIN_STEP=40 STALLED=1   # the second died with its node, before it could withdraw its successor
expect_code "the third job stops" $? 1
expect "it says why" "two jobs in a row wrote no new checkpoint" "$out"
expect_no "it neither trains nor submits" "srun|sbatch" "$CALLS"
done_step grown 90
job grown jupiter.sbatch ENDS=1 CHAIN_STEP=40 STALLED=1
expect "progress resets the count" "stalled jobs: 0" "$out"
expect_no "and the chain goes on" "scancel" "$CALLS"
mkdir -p "$scratch/torn.run/checkpoints/step-00000099"   # no DONE: does not count
job torn jupiter.sbatch ENDS=1 WRITES=60
expect "a checkpoint without DONE is none" "step 0 -> 60" "$out"

job alone jupiter.sbatch ENDS=3 CHAIN=0
expect_no "CHAIN=0" "sbatch" "$CALLS"
job refused jupiter.sbatch ENDS=0 SBATCH_FAILS=1
expect_code "a refused successor does not stop this job" $? 0
expect "it is said" "cannot be submitted" "$out"
expect_no "nothing to withdraw" "scancel" "$CALLS"
job noconfig jupiter.sbatch CONFIG=/nowhere.yaml
expect_code "no config" $? 2
expect_no "nothing is started" "srun|sbatch" "$CALLS"

export CALLS="$scratch/signal.calls" RUN_DIR="$scratch/signal.run"; : > "$CALLS"; mkdir -p "$RUN_DIR"
env SLURM_JOB_ID=7 WAITS=1 bash "$source/training/slurm/jupiter.sbatch" > "$scratch/signal.out" 2>&1 &
pid=$!
for _ in $(seq 200); do grep -q ready "$CALLS" && break; sleep 0.05; done
kill -USR1 $pid; wait $pid
expect_code "saved at the warning" $? 0
expect "the warning reaches the task" "task saved" "$CALLS"
expect "also through the controller" "scancel --signal=USR1 7$" "$CALLS"
expect_no "the successor stays" "scancel 8" "$CALLS"
expect "code and progress" "exit code 3, step 0 -> 500" "$scratch/signal.out"

[ $failures = 0 ] && echo "slurm: all well"
exit $((failures > 0))
