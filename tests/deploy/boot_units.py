#!/usr/bin/env python3
"""Boots a Debian like this one in a container, with systemd and the units of deploy/systemd, and uses them as an administrator does.

  tests/deploy/boot_units.py [--bin DIR]

Needs root and the package systemd-container; nothing of the machine is changed: what the container writes is in memory. It prints each
step and ends with 0 if all were as expected. By hand and not with the other tests, since a container cannot boot within most others.
"""
import argparse
import contextlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAMS = ("bitrung", "bitrung-server", "bitrung-worker", "bitrung-trainer")

CHECKS_UNIT = """
[Unit]
Description=checks of the units
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/bash /checks
StandardOutput=file:/result
StandardError=file:/result
ExecStopPost=/bin/systemctl --no-block poweroff
"""

STUDY = """
experiment: booted
defaults: {dataset: synthetic, synthetic: {train_images: 1024, test_images: 256}, model: resnet8, validation: 0, epochs: 2, bits: 4}
jobs: {alone: {}}
"""

# Each line that says "step" is told; the first command that fails ends it.
CHECKS = r"""
set -eEuo pipefail
trap 'echo "FAILED at line $LINENO: $BASH_COMMAND"; journalctl --no-pager -u bitrung-server -u bitrung-worker | tail -40' ERR
step() { echo "step: $*"; }
until_true() { for _ in $(seq 300); do if "$@"; then return; fi; sleep 0.1; done; echo "never true: $*"; return 1; }
state() { systemctl show -P ActiveState "$1"; }
pid() { systemctl show -P MainPID "$1"; }
client="env HOME=/root bitrung"

step the server starts from what init made
bitrung-server init --state-dir /var/lib/bitrung --address 127.0.0.1:7420
systemctl enable --now bitrung-server
until_true test -S /run/bitrung/server.sock
until_true bash -c 'journalctl -u bitrung-server | grep -q "listening on"'
test "$(state bitrung-server)" = active

step it is another user, without any capability, and its state is its own
test "$(stat -c %u /proc/$(pid bitrung-server))" -ne 0
grep -q "^CapEff:[[:space:]]*0000000000000000" /proc/$(pid bitrung-server)/status
grep -q "^NoNewPrivs:[[:space:]]*1" /proc/$(pid bitrung-server)/status
grep -q "^Seccomp:[[:space:]]*2" /proc/$(pid bitrung-server)/status
test "$(stat -Lc '%a %u' /var/lib/bitrung)" = "700 $(stat -c %u /proc/$(pid bitrung-server))"

step a worker enrols and starts
login=/root/admin.login
cp /var/lib/bitrung/admin.login $login
$client enrol node1 --out /root/node1.enrolment --server 127.0.0.1:7420 --login $login
bitrung-worker enrol /root/node1.enrolment --state-dir /var/lib/bitrung-worker
mkdir -p /var/lib/bitrung-data
systemctl enable --now bitrung-worker
until_true bash -c "$client workers --server 127.0.0.1:7420 --login $login | grep -q node1"
test "$(stat -c %u /proc/$(pid bitrung-worker))" -ne 0
$client workers --server 127.0.0.1:7420 --login $login

step a study trains
$client run /study.yaml --server 127.0.0.1:7420 --login $login

step a killed server comes back by itself, and its worker with it
before=$(pid bitrung-server)
kill -9 "$before"
until_true bash -c "test \$(systemctl show -P MainPID bitrung-server) -ne 0 && test \$(systemctl show -P MainPID bitrung-server) -ne $before"
until_true bash -c "$client workers --server 127.0.0.1:7420 --login $login 2>/dev/null | grep -q connected"
$client results booted --server 127.0.0.1:7420 --login $login

step a worker that is stopped in mid-training keeps the epochs it has done
$client submit /study.yaml --set defaults.epochs=200 --set experiment=long --server 127.0.0.1:7420 --login $login
until_true bash -c "test -n \"\$(find /var/lib/bitrung-worker/ -name 'resume-*.safetensors' | head -1)\""
systemctl stop bitrung-worker
test "$(systemctl show -P Result bitrung-worker)" = success
systemctl start bitrung-worker
until_true bash -c "$client explain long/alone --server 127.0.0.1:7420 --login $login | grep -qi 'running'"
$client explain long/alone --server 127.0.0.1:7420 --login $login
until_true bash -c "test \"\$(sqlite3 -readonly /var/lib/bitrung/bitrung.db 'select max(resumed_epoch) from attempt')\" -gt 0"
$client cancel long --server 127.0.0.1:7420 --login $login

step both stop cleanly
systemctl stop bitrung-worker bitrung-server
test "$(systemctl show -P Result bitrung-worker)" = success
test "$(systemctl show -P Result bitrung-server)" = success
echo ALL AS EXPECTED
"""


@contextlib.contextmanager
def copy_of_this_machine():
    """A directory that shows / and keeps in memory what is written there."""
    with tempfile.TemporaryDirectory(prefix="bitrung-boot-") as directory:
        memory, shown = pathlib.Path(directory) / "memory", pathlib.Path(directory) / "root"
        memory.mkdir()
        shown.mkdir()
        mounted = []
        try:
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4g", "tmpfs", memory], check=True)
            mounted.append(memory)
            (memory / "written").mkdir()
            (memory / "work").mkdir()
            subprocess.run(["mount", "-t", "overlay", "overlay", "-o", f"lowerdir=/,upperdir={memory}/written,workdir={memory}/work", shown],
                           check=True)
            mounted.append(shown)
            yield shown
        finally:
            for place in reversed(mounted):
                subprocess.run(["umount", place], check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, default=pathlib.Path(os.environ.get("BITRUNG_BIN", ROOT / "build/release/bin")),
                        help="where the programs are (default: BITRUNG_BIN or build/release/bin)")
    options = parser.parse_args()
    if os.geteuid() != 0 or shutil.which("systemd-nspawn") is None:
        sys.exit("needs root and systemd-nspawn (apt-get install systemd-container)")
    with copy_of_this_machine() as root:
        for name in PROGRAMS:
            shutil.copy2(options.bin / name, root / "usr/bin" / name)
        units = root / "etc/systemd/system"
        for unit in (ROOT / "deploy/systemd").glob("*.service"):
            shutil.copy2(unit, units / unit.name)
        (units / "checks.service").write_text(CHECKS_UNIT)
        (units / "default.target").unlink(missing_ok=True)
        (units / "default.target").symlink_to("/lib/systemd/system/multi-user.target")
        # Nothing else that this machine starts: the container has its own life.
        for unit in root.glob("etc/systemd/system/*.wants/*"):
            unit.unlink()
        (units / "multi-user.target.wants").mkdir(exist_ok=True)
        (units / "multi-user.target.wants/checks.service").symlink_to("/etc/systemd/system/checks.service")
        (root / "etc/machine-id").write_text("")
        (root / "checks").write_text(CHECKS)
        (root / "study.yaml").write_text(STUDY)
        subprocess.run(["systemd-nspawn", "--quiet", "--directory", root, "--register=no", "--keep-unit", "--private-network", "--boot",
                        "--machine=bitrung-boot"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=900)
        result = (root / "result").read_text() if (root / "result").exists() else "the container did not come up"
    print(result)
    return 0 if re.search(r"^ALL AS EXPECTED$", result, re.MULTILINE) else 1


if __name__ == "__main__":
    sys.exit(main())
