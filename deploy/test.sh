#!/usr/bin/env bash
# Sets up, builds and runs all tests. Arguments go to ctest, e.g. deploy/test.sh -L fast
set -euo pipefail
cd "$(dirname "$0")/.."
deploy/setup.sh
jobs="${BITRUNG_BUILD_JOBS:-2}"
cmake --preset release
cmake --build --preset release -j "$jobs"
ctest --preset release -j "$jobs" "$@"
