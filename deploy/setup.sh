#!/usr/bin/env bash
# Installs what bitrung needs to build, run and test on Debian 12. Prints nothing when nothing is missing.
#
#   deploy/setup.sh            everything needed to build, run and test
#   deploy/setup.sh --bench    also what the benchmarks compare with (eager PyTorch)
#   deploy/setup.sh --develop  also formatter, linter and the fuzzing compiler
set -euo pipefail

build=(g++ cmake ninja-build ccache mold pkg-config
       libtorch-dev libgrpc++-dev protobuf-compiler protobuf-compiler-grpc libprotobuf-dev
       libabsl-dev libsqlite3-dev libboost1.81-dev libssl-dev libcurl4-openssl-dev libarchive-dev
       libgoogle-perftools-dev libspdlog-dev libfmt-dev libcli11-dev libyaml-cpp-dev nlohmann-json3-dev)
run=(libopenblas0-pthread ca-certificates)
test=(libgtest-dev libgmock-dev python3 python3-numpy sqlite3 git systemd slurmctld slurmd slurm-client)
bench=(python3-torch python3-pil libtcmalloc-minimal4)
develop=(clang clang-format clang-tidy libclang-rt-14-dev)

wanted=("${build[@]}" "${run[@]}" "${test[@]}")
for argument in "$@"; do
  case "$argument" in
    --bench) wanted+=("${bench[@]}") ;;
    --develop) wanted+=("${develop[@]}") ;;
    -h|--help) sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "deploy/setup.sh: unknown option \"$argument\"; see deploy/setup.sh --help" >&2; exit 2 ;;
  esac
done

if [[ ! -r /etc/debian_version ]]; then
  echo "deploy/setup.sh: this is not Debian; install by hand: ${wanted[*]}" >&2
  exit 1
fi

missing=()
for package in "${wanted[@]}"; do
  if [[ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" != installed ]]; then
    missing+=("$package")
  fi
done
[[ ${#missing[@]} -eq 0 ]] && exit 0

as_root=()
if [[ $EUID -ne 0 ]]; then
  if ! command -v sudo >/dev/null; then
    echo "deploy/setup.sh: needs root to install: ${missing[*]}; run it as root or install sudo" >&2
    exit 1
  fi
  as_root=(sudo)
fi

echo "installing ${#missing[@]} packages: ${missing[*]}" >&2
log="$(mktemp)"
trap 'rm -f "$log"' EXIT
run_apt() {
  if ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o Dpkg::Use-Pty=0 "$@" >"$log" 2>&1; then
    cat "$log" >&2
    echo "deploy/setup.sh: apt-get $1 failed; see the lines above" >&2
    exit 1
  fi
}
run_apt update
run_apt install -y --no-install-recommends "${missing[@]}"
