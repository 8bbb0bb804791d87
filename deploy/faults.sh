#!/usr/bin/env bash
# A study under random faults, real processes: deploy/faults.sh --faults 500 [--seed N]. tests/crash/README.md says what it checks.
set -euo pipefail
cd "$(dirname "$0")/.."
build="${BITRUNG_BUILD:-build/release}"
export BITRUNG_BIN="${BITRUNG_BIN:-$PWD/$build/bin}"
export BITRUNG_FAIL_POINTS="${BITRUNG_FAIL_POINTS:-$PWD/$build/tests/crash/libbitrung_fail_points.so}"
export PYTHONDONTWRITEBYTECODE=1
exec /usr/bin/python3 tests/crash/faults_test.py "$@"
