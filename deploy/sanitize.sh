#!/usr/bin/env bash
# Builds with sanitizers and runs the tests: deploy/sanitize.sh address [ctest arguments] for AddressSanitizer and
# UndefinedBehaviorSanitizer over every test, deploy/sanitize.sh thread for ThreadSanitizer over core, engine, store and agent.
# Nothing of ours is suppressed.
set -euo pipefail
cd "$(dirname "$0")/.."
jobs="${BITRUNG_BUILD_JOBS:-2}"
kind="${1:?address or thread}"
shift
case "$kind" in
  address)
    build="${BITRUNG_SANITIZE_BUILD:-build/asan}"
    cmake --preset asan -B "$build" > /dev/null
    cmake --build "$build" -j "$jobs"
    exec ctest --test-dir "$build" --output-on-failure -j "$jobs" "$@"
    ;;
  thread)
    build="${BITRUNG_SANITIZE_BUILD:-build/tsan}"
    # Programs that need no gRPC: it comes uninstrumented, and is taken for a source of races.
    tests=(bitrung_core_test bitrung_core_random_test bitrung_engine_test bitrung_db_test bitrung_disk_test agent_test bitrung_sim_test)
    cmake --preset tsan -B "$build" > /dev/null
    cmake --build "$build" -j "$jobs" -- "${tests[@]}" bitrung-sim
    export TSAN_OPTIONS="halt_on_error=1${TSAN_OPTIONS:+:$TSAN_OPTIONS}"
    names="$(IFS='|'; echo "${tests[*]}")"
    exec ctest --test-dir "$build" --output-on-failure -j "$jobs" -R "^($names|bitrung_sim_seeds)\$" "$@"
    ;;
  *)
    echo "usage: deploy/sanitize.sh address|thread [ctest arguments]" >&2
    exit 2
    ;;
esac
