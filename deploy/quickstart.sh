#!/usr/bin/env bash
# Sets up, builds and runs the bit ladder on the synthetic data set: 11 small trainings and their table, a few minutes on
# two cores. Arguments go to `bitrung run`, e.g. deploy/quickstart.sh --set defaults.epochs=1
set -euo pipefail
cd "$(dirname "$0")/.."
deploy/setup.sh
jobs="${BITRUNG_BUILD_JOBS:-2}"
mkdir -p build
log=build/quickstart.log
echo "building (a few minutes the first time; log in $log) …" >&2
if ! { cmake --preset release &&
       cmake --build --preset release -j "$jobs" --target bitrung bitrung-server bitrung-worker bitrung-trainer; } >"$log" 2>&1
then
  tail -n 40 "$log" >&2
  echo "deploy/quickstart.sh: the build failed; the whole log is in $log" >&2
  exit 1
fi
exec build/release/bin/bitrung run deploy/examples/bit-ladder.yaml --output text "$@"
