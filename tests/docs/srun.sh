#!/bin/bash
# Plays Slurm's srun on this machine: starts a process for each task, with the variables that srun sets.
nodes=1 tasks=1
while [[ $1 == --* ]]; do
  case $1 in
    --nodes=*) nodes=${1#*=} ;;
    --ntasks-per-node=*) tasks=${1#*=} ;;
    *) echo "srun: unexpected option $1" >&2; exit 2 ;;
  esac
  shift
done
total=$((nodes * tasks))
export SLURM_JOB_ID=$$ SLURM_STEP_ID=0 SLURM_STEP_NODELIST=localhost SLURM_NTASKS=$total SLURM_STEP_NUM_TASKS=$total
export SLURM_STEP_TASKS_PER_NODE="$tasks(x$nodes)"
for ((task = 0; task < total; task++)); do
  SLURM_PROCID=$task SLURM_NODEID=$((task / tasks)) SLURM_LOCALID=$((task % tasks)) "$@" &
  pids+=($!)
done
code=0
for pid in "${pids[@]}"; do wait "$pid" || code=$?; done
exit "$code"
