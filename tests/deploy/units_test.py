"""The units of deploy/systemd: understood by systemd, and closed as far as they are meant to be."""
import os
import pathlib
import re
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("BITRUNG_BIN", ROOT / "build/release/bin")).resolve()
# Exposure from 0 (closed) to 10, as systemd counts it; a worker needs devices, and memory that CUDA writes and executes.
HIGHEST = {"bitrung-server": 2.0, "bitrung-worker": 4.5}


class UnitsTest(unittest.TestCase):
    def test_Units_AreUnderstood(self):
        with tempfile.TemporaryDirectory() as directory:
            for name in HIGHEST:
                text = (ROOT / "deploy" / "systemd" / f"{name}.service").read_text()
                self.assertIn(f"ExecStart=/usr/bin/{name} ", text)
                unit = pathlib.Path(directory) / f"{name}.service"
                unit.write_text(text.replace("/usr/bin/", f"{BIN}/"))
                done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, timeout=60)
                # Other units of the machine may have faults of their own.
                said = [line for line in done.stderr.splitlines() if name in line]
                self.assertEqual(said, [], done.stderr)

    def test_Units_AreClosed(self):
        for name, highest in HIGHEST.items():
            done = subprocess.run(["systemd-analyze", "security", "--offline=true", "--no-pager",
                                   ROOT / "deploy" / "systemd" / f"{name}.service"], capture_output=True, text=True, timeout=60)
            exposure = float(re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout).group(1))
            self.assertLessEqual(exposure, highest, done.stdout)

    def test_TheOptionsOfTheUnits_Exist(self):
        for name in HIGHEST:
            text = (ROOT / "deploy" / "systemd" / f"{name}.service").read_text()
            line = next(line for line in text.splitlines() if line.startswith("ExecStart="))
            known = subprocess.run([BIN / name, "--help"], capture_output=True, text=True, timeout=60).stdout
            for option in re.findall(r"--[a-z-]+", line):
                self.assertIn(option, known, f"{name} has no {option}")


if __name__ == "__main__":
    unittest.main()
