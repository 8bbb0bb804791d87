"""Workers that know more than the server: a restored backup, and an old copy put in the place of the state."""
import shutil
import subprocess
import unittest

from processes import EXAMPLES, SMALL, BitrungTest, command, kill

LADDER = EXAMPLES / "bit-ladder.yaml"
SMALL = [*SMALL, "--set", "defaults.epochs=5"]


class OldStateTest(BitrungTest):
    def setUp(self):
        super().setUp()
        self.address = f"unix:{self.directory}/server.sock"
        self.server, _ = self.start_server(address=self.address)
        self.worker = self.start_worker(self.address, "w", "--slots", "1")
        self.bitrung("submit", LADDER, *SMALL, "--server", self.address, state=False)

    def wait_for(self, sql, what):
        return self.wait_until(lambda: self.query(sql), what)

    def kill_server(self):
        kill(self.server.pid)
        self.server.wait()

    def replace_state(self, by):
        """What was the state lies beside it afterwards."""
        newest = self.directory / "newest"
        self.state.rename(newest)
        by(self.state)
        self.server, _ = self.start_server(address=self.address)
        return newest

    def finish(self, job):
        """The worker goes on: the job succeeds, and nothing of it is lost. The rest is cancelled."""
        self.wait_for(f"select 1 from job where id = {job} and state = 'succeeded'", f"job {job} succeeds")
        self.bitrung("cancel", "bit-ladder", "--server", self.address, state=False)
        self.bitrung("wait", "bit-ladder", "--server", self.address, state=False, expect=None)
        self.assertIn(job, self.check_consistent())

    def test_RestoredBackup_GivesUpWhatWasAtWork_AndTheWorkerGoesOn(self):
        self.wait_for("select 1 from job where state = 'running' and resume_sha256 is not null", "a checkpoint")
        backup = self.directory / "backup"
        done = self.command_of_server("backup", "--state-dir", self.state, "--out", backup)
        live = self.query("select job_id, attempt from attempt where state in ('offered', 'running')", state=backup)
        self.assertEqual(len(live), 1, done)
        # History goes on: the attempt of the backup ends, and another one runs.
        self.wait_for(f"select 1 from job where state = 'running' and resume_sha256 is not null "
                      f"and id <> {live[0]['job_id']}", "the next job's checkpoint")
        self.kill_server()
        self.replace_state(lambda state: self.command_of_server("restore", "--from", backup, "--state-dir", state))
        self.finish(live[0]["job_id"])
        ended = self.query("select state, error from attempt where job_id = ? and attempt = ?",
                           live[0]["job_id"], live[0]["attempt"])[0]
        self.assertEqual(ended["state"], "lost")
        self.assertIn("given up by a restore", ended["error"])

    def test_OldCopyOfTheState_IsRefusedByTheServerItself_AndTheWorkerKeepsItsResults(self):
        # The copy is made while the first job runs; both histories then go on under term 2.
        self.wait_for("select 1 from job where state = 'running'", "a job runs")
        self.kill_server()
        old = self.directory / "old"
        shutil.copytree(self.state, old)
        self.server, _ = self.start_server(address=self.address)
        first = self.query("select id from job where state = 'running'")[0]["id"]
        second = self.wait_for(f"select id from job where state = 'running' and resume_sha256 is not null and id <> {first}",
                               "the next job")[0]["id"]
        self.kill_server()
        newest = self.replace_state(lambda state: shutil.copytree(old, state))
        self.worker.errors.wait_for("which this server has never offered: the server works on an old copy", 60)
        self.assertEqual(self.query("select state from job where id = ?", first), [{"state": "running"}])

        self.kill_server()
        shutil.rmtree(self.state)
        newest.rename(self.state)
        self.server, _ = self.start_server(address=self.address)
        self.finish(second)
        self.assertEqual(self.query("select count(*) as n from attempt where attempt > 1")[0]["n"], 0)

    def command_of_server(self, *arguments):
        done = subprocess.run(command("bitrung-server", *arguments), capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout


if __name__ == "__main__":
    unittest.main()
