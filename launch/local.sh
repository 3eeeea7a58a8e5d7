#!/bin/sh
# Several processes on this machine, each with its own CPU devices: what several hosts do, where there is but one.
#
#   launch/local.sh PROCESSES DEVICES --config=configs/scenes.py --workdir=DIR [more flags of semdiff.main]
#
# Run from the root of the repository, in its environment. Ctrl-C saves and stops, as on one process.
# PORT and PYTHON, from the environment, name another port of process 0 and another Python.
set -eu
if [ $# -lt 3 ]; then
    sed -n '4s/^# */usage: /p' "$0" >&2
    exit 2
fi
processes=$1
export JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES="$2"
shift 2

children=
trap 'kill $children 2>/dev/null || true' INT TERM
process=0
while [ "$process" -lt "$processes" ]; do
    "${PYTHON:-python}" -m semdiff.main --coordinator="127.0.0.1:${PORT:-12345}" \
        --processes="$processes" --process="$process" "$@" &
    children="$children $!"
    process=$((process + 1))
done
status=0
for child in $children; do
    wait "$child" || status=$?
done
wait
exit "$status"
