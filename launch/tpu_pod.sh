#!/bin/sh
# The same command on every worker of a TPU slice; jax learns of the others from the TPU's metadata.
#
#   TPU=NAME ZONE=ZONE launch/tpu_pod.sh --config=configs/ade20k.py --config.data.root=ROOT --workdir=DIR
#
# Every worker has the repository at ~/semdiff with its environment in .venv and the TPU's library in it
# (docs/scaling.md). ROOT and DIR must be the same folders on every worker: a mounted disk or bucket.
set -eu
if [ -z "${TPU:-}" ] || [ -z "${ZONE:-}" ] || [ $# -lt 2 ]; then
    sed -n '4s/^# */usage: /p' "$0" >&2
    exit 2
fi
flags=
for flag; do
    flags="$flags '$flag'"
done
exec gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all \
    --command="cd ~/semdiff && .venv/bin/python -m semdiff.main --coordinator=auto$flags"
