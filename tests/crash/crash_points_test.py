"""fail_points.cc itself: a process dies exactly where it is told to, and not elsewhere."""
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

import crash_points
from crash_points import AFTER, BEFORE, RENAME, SYNC, WRITE

# Writes, syncs and renames a file, twice.
PROGRAM = """
import os
for name in ("first", "second"):
    fd = os.open(name + ".tmp", os.O_WRONLY | os.O_CREAT, 0o600)
    os.write(fd, b"content")
    os.fsync(fd)
    os.rename(name + ".tmp", name)
print("done")
"""


class CrashPointsTest(unittest.TestCase):
    def run_with(self, point, countdown=1):
        directory = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        program = pathlib.Path(os.path.realpath(sys.executable)).name
        crash_points.POINTS[program] = {"point": point}
        control = crash_points.Control(directory, program)
        control.arm("point", countdown)
        work = directory / "work"
        work.mkdir()
        done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=work, capture_output=True, text=True,
                              env=os.environ | {"LD_PRELOAD": os.environ["BITRUNG_FAIL_POINTS"], "FAIL_POINTS": str(directory)})
        left = {file.name: file.read_bytes() for file in work.iterdir()}
        return done.returncode, left, control.armed()

    def test_BeforeAWrite_NothingIsWritten(self):
        self.assertEqual(self.run_with((WRITE, BEFORE, "first.tmp", "")), (-9, {"first.tmp": b""}, False))

    def test_AfterAWrite_ItIsWritten(self):
        self.assertEqual(self.run_with((WRITE, AFTER, "first.tmp", "")), (-9, {"first.tmp": b"content"}, False))

    def test_BeforeAndAfterARename(self):
        self.assertEqual(self.run_with((RENAME, BEFORE, "first$", "")), (-9, {"first.tmp": b"content"}, False))
        self.assertEqual(self.run_with((RENAME, AFTER, "first$", "")), (-9, {"first": b"content"}, False))

    def test_Countdown_TakesTheSecondOne(self):
        self.assertEqual(self.run_with((SYNC, BEFORE, ".tmp", ""), 2), (-9, {"first": b"content", "second.tmp": b"content"}, False))

    def test_BehindASync_NotBefore(self):
        self.assertEqual(self.run_with((RENAME, BEFORE, "", "second.tmp")), (-9, {"first": b"content", "second.tmp": b"content"}, False))

    def test_APointThatIsNotReached_ChangesNothing(self):
        self.assertEqual(self.run_with((RENAME, BEFORE, "third", "")), (0, {"first": b"content", "second": b"content"}, True))


if __name__ == "__main__":
    unittest.main()
