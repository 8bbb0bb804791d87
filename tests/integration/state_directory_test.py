"""The state directory under a real server: one server at a time, backup and restore, a disk that fails or is full."""
import json
import os
import resource
import subprocess
import unittest

from processes import EXAMPLES, SMALL, BitrungTest, command, kill

LADDER = EXAMPLES / "bit-ladder.yaml"
STORAGE_FAILED = 74


class StateDirectoryTest(BitrungTest):
    def server(self, *arguments, expect=0):
        """A command of the server that ends; returns the finished process."""
        done = subprocess.run(command("bitrung-server", *arguments), capture_output=True, text=True, timeout=60,
                              cwd=self.directory)
        self.assertEqual(done.returncode, expect, done.stdout + done.stderr)
        return done

    def submit(self, address, name, expect=0):
        study = self.directory / f"{name}.yaml"
        study.write_text(LADDER.read_text().replace("experiment: bit-ladder", f"experiment: {name}"))
        return self.bitrung("submit", study, *SMALL, "--server", address, state=False, expect=expect)

    def names(self, address):
        listed = json.loads(self.bitrung("list", "--server", address, "--output", "json", state=False).stdout)
        return {each["experiment"] for each in listed["experiments"]}

    def stop(self, server):
        server.terminate()
        self.assertEqual(server.wait(timeout=60), 0)


class OneServer(StateDirectoryTest):
    def expect_refused(self, state, address):
        refused = self.server("--state-dir", state, "--listen", address, expect=1)
        self.assertRegex(refused.stderr, r"^bitrung-server: another (bitrung-)?server (works on|uses) [^\n]*; stop it[^\n]*\n$")

    def test_SecondServer_IsRefusedByAnyPathToTheDirectory_AndHarmsNothing(self):
        server, address = self.start_server()
        self.submit(address, "before")
        link = self.directory / "link"
        link.symlink_to(self.state)
        (self.state / "inner").mkdir()
        for path in (self.state, link, self.state / "inner" / "..", f"{self.state}/./"):
            self.expect_refused(path, address)
        # The first lock is a file that people remove; the second one is the store's.
        (self.state / "server.lock").unlink()
        self.expect_refused(link, f"unix:{self.directory}/other.sock")
        self.submit(address, "after")
        self.assertEqual(self.names(address), {"before", "after"})
        self.stop(server)

    def test_AfterKill9_TheNextServerStartsAtOnce_AlsoByAnotherPath(self):
        server, address = self.start_server()
        self.submit(address, "before")
        kill(server.pid)
        server.wait()
        link = self.directory / "link"
        link.symlink_to(self.state)
        self.state = link
        second, address = self.start_server()
        self.assertEqual(self.names(address), {"before"})
        self.expect_refused(self.directory / "state", address)
        self.stop(second)


class Backup(StateDirectoryTest):
    def test_BackupOfALiveServer_IsRestored_AndTheOldCopyIsRefused(self):
        server, address = self.start_server()
        self.submit(address, "before")
        backup = self.directory / "backup"
        done = self.server("backup", "--state-dir", self.state, "--out", backup)
        self.assertIn("restore it with: bitrung-server restore", done.stdout)
        self.submit(address, "after")
        self.stop(server)

        refused = self.server("--state-dir", backup, "--listen", f"unix:{self.directory}/b.sock", expect=1)
        self.assertIn("is the database of a backup made at", refused.stderr)
        lost = self.directory / "lost"
        self.state.rename(lost)
        self.server("restore", "--from", backup, "--state-dir", self.state)
        restored, address = self.start_server()
        self.assertEqual(self.names(address), {"before"})
        self.submit(address, "anew")
        terms = [self.query("select value from meta where key = 'term'", state=state)[0]["value"]
                 for state in (lost, self.state)]
        self.assertEqual(terms[0], 1)
        self.assertGreater(terms[1], 1_000_000_000_000)
        self.stop(restored)

    def test_WrongUse_SaysWhatIsWrong_InOneLine(self):
        server, _ = self.start_server()
        here = self.directory
        (here / "file").write_text("x")
        self.server("backup", "--state-dir", self.state, "--out", here / "backup")
        for arguments, text in [
            (("backup", "--state-dir", here / "absent", "--out", here / "new"), "there is no directory"),
            (("backup", "--state-dir", here, "--out", here / "new"), "not a server's state directory"),
            (("backup", "--state-dir", self.state, "--out", here / "backup"), "is made under a new name"),
            (("backup", "--state-dir", self.state, "--out", self.state / "new"), "lost together with it"),
            (("backup", "--state-dir", self.state, "--out", here / "no" / "new"), "to put the backup into"),
            (("restore", "--from", here / "absent", "--state-dir", here / "new"), "there is no directory"),
            (("restore", "--from", self.state, "--state-dir", here / "new"), "is not a whole backup"),
            (("restore", "--from", here / "backup", "--state-dir", self.state), "never replaces anything"),
            (("restore", "--from", here / "backup", "--state-dir", here / "file"), "is not a directory"),
        ]:
            done = self.server(*arguments, expect=1)
            self.assertIn(text, done.stderr)
            self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
            self.assertFalse((here / "new").exists())
        self.server("backup", "--state-dir", self.state, expect=2)
        self.server("--listen", "unix:x.sock", expect=2)
        for each in ("backup", "restore"):
            self.assertIn("Examples:", self.server(each, "--help").stdout)
        self.stop(server)


class Disk(StateDirectoryTest):
    def test_AFileMayNotGrow_TheServerStopsWithOneLineAndItsCode_AndNothingAcknowledgedIsLost(self):
        server, address = self.start_server()
        self.submit(address, "acknowledged")
        size = (self.state / "bitrung.db-wal").stat().st_size
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (size, size))
        refused = self.submit(address, "refused", expect=None)
        self.assertNotEqual(refused.returncode, 0)
        self.assertEqual(server.wait(timeout=60), STORAGE_FAILED)
        said = server.errors.wait_for("bitrung-server:")
        self.assertRegex(said, r"^bitrung-server: stopped, nothing is acknowledged any more: \w+ on \S*bitrung\.db: .*")
        with self.assertRaisesRegex(AssertionError, "ended before"):
            server.errors.wait_for("bitrung-server:")
        second, address = self.start_server()
        self.assertEqual(self.names(address), {"acknowledged"})
        self.submit(address, "refused")
        self.stop(second)


class FullDisk(StateDirectoryTest):
    """40 MiB: 2 MiB is the line for new experiments, and the reserve has 512 KiB."""

    def setUp(self):
        super().setUp()
        self.disk = self.directory / "disk"
        self.disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=40M", "tmpfs", self.disk]
        if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
            self.skipTest("a small file system needs the right to mount one")
        self.addCleanup(subprocess.run, ["umount", "--lazy", self.disk], check=True)
        self.state = self.disk / "state"

    def fill(self, but):
        """Another program fills the disk but for some bytes."""
        info = os.statvfs(self.disk)
        with open(self.disk / "filler", "ab") as filler:
            filler.write(b"\0" * max(0, info.f_bavail * info.f_frsize - but))

    def test_FullDisk_RefusesNewSubmits_WhileWhatRunsGoesOn(self):
        server, address = self.start_server()
        self.submit(address, "running")
        reserve = self.state / "reserve"
        self.assertGreater(reserve.stat().st_blocks, 0)

        self.fill(but=1 << 20)
        refused = self.submit(address, "refused", expect=5)
        self.assertRegex(refused.stderr, r"the server's disk is full: .* has [01]\.\d MiB free, and below 2\.0 MiB no new "
                                         r"experiment is accepted, .*; free [12]\.\d MiB there")
        self.assertTrue(reserve.exists())

        # Nothing is left but the reserve: changes are recorded in its place.
        self.fill(but=0)
        self.bitrung("cancel", "running", "--server", address, state=False)
        self.assertFalse(reserve.exists())
        states = {row["state"] for row in self.query("select distinct state from job")}
        self.assertEqual(states, {"cancelled"})
        self.submit(address, "refused", expect=5)

        self.fill(but=0)
        backup = self.server("backup", "--state-dir", self.state, "--out", self.disk / "backup", expect=1)
        self.assertIn("make room or choose another directory", backup.stderr)
        self.assertEqual([path.name for path in self.disk.iterdir() if path.name.startswith("backup")], [])

        (self.disk / "filler").unlink()
        self.submit(address, "refused")
        self.assertTrue(reserve.exists())
        self.stop(server)


if __name__ == "__main__":
    unittest.main()
