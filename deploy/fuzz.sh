#!/usr/bin/env bash
# Fuzzes every target with libFuzzer, or the named ones: deploy/fuzz.sh SECONDS [TARGET…]. tests/fuzz/README.md says what they are.
# What is found and the grown corpora lie in build/fuzz/found.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds="${1:?seconds for each target}"
shift
targets=("$@")
if [ "${#targets[@]}" -eq 0 ]; then
  for file in tests/fuzz/corpus/*; do targets+=("$(basename "$file")"); done
fi
build="${BITRUNG_FUZZ_BUILD:-build/fuzz}"
cmake --preset fuzz -B "$build" > /dev/null
cmake --build "$build" -j "${BITRUNG_BUILD_JOBS:-2}" -- "${targets[@]/#/bitrung-fuzz-}"
failed=()
for target in "${targets[@]}"; do
  found="$build/found/$target"
  mkdir -p "$found"
  arguments=(-max_total_time="$seconds" -timeout=30 -rss_limit_mb=3000 -print_final_stats=1 -artifact_prefix="$found/")
  [ -f "tests/fuzz/$target.dict" ] && arguments+=(-dict="tests/fuzz/$target.dict")
  corpora=("tests/fuzz/corpus/$target")
  [ "$target" = pytorch_file ] && corpora+=(tests/fuzz/corpus/tensor_file tests/unit/client/interop/fixtures)
  echo "== $target"
  mkdir -p "$found/corpus"
  "$build/bin/bitrung-fuzz-$target" "${arguments[@]}" "$found/corpus" "${corpora[@]}" 2> "$found/log" || failed+=("$target")
  grep -E "stat::number_of_executed_units|stat::average_exec|SUMMARY|Test unit written" "$found/log" || true
done
if [ "${#failed[@]}" -gt 0 ]; then
  echo "failed: ${failed[*]}" >&2
  exit 1
fi
