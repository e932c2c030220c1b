#!/bin/bash
#SBATCH --job-name=distill
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8         # one process for each GPU
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@600         # 10 minutes before the end: longer than a step and a checkpoint take
#SBATCH --requeue
#SBATCH --open-mode=append

# Train on several machines, and queue the job again until the run is finished:
#
#     sbatch docs/slurm.sh CONFIG --run_dir /shared/runs/mine [--key value ...]
#
# Every task is one process of the run, without torchrun: a signal of SLURM reaches the process itself, and
# its exit code reaches SLURM. docs/clusters.md explains.

MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export MASTER_ADDR MASTER_PORT
export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK

interrupted=no
interrupt() {
    interrupted=yes
    scancel --signal=USR1 "$SLURM_JOB_ID"   # the tasks, not this script: they save and leave
}
trap interrupt USR1

srun --kill-on-bad-exit=1 bash -c '
    export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS
    export LOCAL_RANK=$SLURM_LOCALID LOCAL_WORLD_SIZE=$SLURM_NTASKS_PER_NODE
    exec python train.py "$@"
' train "$@" &

# A signal ends `wait` before the tasks have ended.
while wait $!; code=$?; kill -0 $! 2>/dev/null; do :; done

if [ "$interrupted" = yes ] && [ "$code" -ne 0 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
