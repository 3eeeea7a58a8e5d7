#!/bin/sh
# One task per GPU on SLURM; jax learns of the others from SLURM's variables.
#
#   sbatch --nodes=2 launch/slurm.sh --config=configs/ade20k.py --config.data.root=ROOT --workdir=DIR
#
# Submit from the root of the repository, in its environment (with the CUDA plugin: docs/scaling.md). ROOT and DIR must
# be the same folders on every node. A job that is preempted, or submitted again, resumes.
#SBATCH --job-name=semdiff
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -eu
exec srun --kill-on-bad-exit=1 "${PYTHON:-python}" -m semdiff.main --coordinator=auto "$@"
