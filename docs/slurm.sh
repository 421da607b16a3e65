#!/bin/bash
# Pretrain on whole machines: sbatch --nodes 8 docs/slurm.sh [settings of zoo pretrain]
#SBATCH --job-name=qzoo
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=128
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@300
set -euo pipefail

# Five minutes before the end: the steps get SIGTERM, the ranks save, and the job waits for its next turn.
requeue() {
  scancel --signal=TERM "$SLURM_JOB_ID"
  wait "$training" || true
  scontrol requeue "$SLURM_JOB_ID"
  exit 0
}
trap requeue TERM

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export OMP_NUM_THREADS=1                  # the ranks' own threads replay and unpack
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=240 # seconds to save in, before torchrun kills

srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=1 torchrun \
  --nnodes "$SLURM_NNODES" --nproc-per-node 8 --max-restarts 3 \
  --rdzv-backend c10d --rdzv-endpoint "$head:29500" --rdzv-id "$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}" \
  -m zoo pretrain --name resnet101.scaledql_mixed40 --dataset mixed40 --arch resnet101 --steps 10000000 \
  --store blocks --cache "${TMPDIR:-/tmp}/qzoo-frames" --out runs --checkpoint-every 10m --resume "$@" &
training=$!
wait "$training"
