"""A full disk: one clear message, nothing recorded is lost, and the study continues when there is room again."""
import json
import os
import subprocess
import unittest

from processes import EXAMPLES, BitrungTest

STUDY = ["run", EXAMPLES / "bit-ladder.yaml", "--slots", "2", "--output", "json",
         "--set", "defaults.synthetic={train_images: 256, test_images: 128, seed: 1}",
         "--set", "defaults.epochs=1", "--set", "defaults.validation=64", "--set", "defaults.batch_size=32"]


class FullDiskTest(BitrungTest):
    def setUp(self):
        super().setUp()
        self.disk = self.directory / "disk"
        self.disk.mkdir()
        if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=5M", "tmpfs", self.disk],
                                               capture_output=True).returncode != 0:
            self.skipTest("a small file system needs the right to mount one")
        self.addCleanup(subprocess.run, ["umount", "--lazy", self.disk], check=True)
        self.state = self.disk / "state"

    def test_FullDisk_StopsWithOneMessage_AndContinuesWhenThereIsRoom(self):
        done = self.bitrung(*STUDY, expect=1, timeout=200)
        self.assertEqual(done.stdout, "")
        self.assertRegex(done.stderr.strip().splitlines()[-1], "disk is full|No space left on device")

        subprocess.run(["mount", "-o", "remount,size=200M", self.disk], check=True)
        before = self.query("select id, attempt, artifact_sha256 from job where state = 'succeeded'")
        results = json.loads(self.bitrung(*STUDY, timeout=300).stdout)
        self.assertEqual({job["state"] for job in results["jobs"]}, {"succeeded"})
        self.assertEqual(len(self.query("select 1 from experiment")), 1)
        for row in before:
            self.assertEqual(self.query("select id, attempt, artifact_sha256 from job where id = ?", row["id"])[0], row)
        self.check_consistent()


if __name__ == "__main__":
    unittest.main()
