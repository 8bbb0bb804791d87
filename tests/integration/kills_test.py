"""What `bitrung run` does about its own server and worker: kill -9 of each, and Ctrl-C. tests/crash has the faults of a service."""
import json
import os
import signal

from processes import BitrungTest, Lines, children_of, descendants_named, kill, name_of

# Long enough for a kill to hit a job after its first checkpoint.
STUDY = """
experiment: kills
defaults:
  model: resnet8
  dataset: synthetic
  synthetic: {train_images: 512, test_images: 128, seed: 1}
  validation: 64
  epochs: 5
  batch_size: 32
  augment: []
  schedule: cosine
jobs:
  alone: {sweep: {bits: [32, 8, 4, 2, 1]}}
"""
JOBS = 5


class KillsTest(BitrungTest):
    def setUp(self):
        super().setUp()
        self.file = self.directory / "study.yaml"
        self.file.write_text(STUDY)

    def start_study(self):
        process = self.start("bitrung", "run", self.file, "--slots", "2", "--output", "json", "--state-dir", self.state)
        process.errors = Lines(process.stderr)
        return process

    def wait_for_work(self, succeeded):
        """Until that many jobs have succeeded and another one is at work with a checkpoint."""
        def fact():
            if not (self.state / "bitrung.db").exists():
                return False
            try:
                done = self.query("select count(*) as n from job where state = 'succeeded'")[0]["n"]
                live = self.query("select id as job_id from job where state = 'running' and resume_sha256 is not null")
            except Exception:  # The schema is being made.
                return False
            return done >= succeeded and live
        self.wait_until(fact, f"{succeeded} jobs succeeded and one runs")

    def crash_a_trainer(self, process):
        """Kills trainers until one of them was at work: one that has just finished its job, or waits for one, is no fault."""
        killed_in = set()

        def fact():
            if self.query("select 1 from attempt where failure_class = 'trainer_crashed'"):
                return True
            live = {(row["id"], row["attempt"]) for row in self.query(
                "select id, attempt from job where state = 'running' and resume_sha256 is not null")}
            if live - killed_in:
                killed_in.update(live)
                for trainer in descendants_named(process.pid, "bitrung-trainer"):
                    kill(trainer)
            return False
        self.wait_for_work(0)
        self.wait_until(fact, "a dead trainer is noticed")

    def finish_study(self, process):
        out = process.stdout.read()
        self.assertEqual(process.wait(timeout=300), 0, process.errors.seen)
        results = json.loads(out)
        self.assertEqual({job["state"] for job in results["jobs"]}, {"succeeded"})
        self.assertEqual(len(self.check_consistent()), JOBS)
        return results["jobs"]

    def test_Kill9OfTrainerWorkerAndServer_EachIsStartedAgain_AndTheStudyCompletes(self):
        process = self.start_study()
        self.crash_a_trainer(process)
        for program, succeeded in (("bitrung-worker", 1), ("bitrung-server", 2)):
            self.wait_for_work(succeeded)
            killed = descendants_named(process.pid, program)[0]
            kill(killed)
            self.wait_until(lambda: [pid for pid in descendants_named(process.pid, program) if pid != killed],
                            f"{program} is started again")
        self.finish_study(process)

    def test_CtrlC_StopsCleanly_AndTheSameCommandContinues(self):
        process = self.start_study()
        self.wait_for_work(1)
        os.kill(process.pid, signal.SIGINT)
        process.errors.wait_for("continues", 60)
        self.assertEqual(process.wait(timeout=60), 130)
        self.assertEqual([name_of(pid) for pid in children_of(process.pid)], [])
        done = self.query("select id as job_id from job where state = 'succeeded'")
        self.assertEqual(self.query("select 1 from job where state = 'failed'"), [])

        jobs = self.finish_study(self.start_study())
        self.assertEqual(len(self.query("select 1 from experiment")), 1)
        self.assertFalse(any(job["cached"] for job in jobs))
        for row in done:
            self.assertEqual(self.query("select attempt from job where id = ?", row["job_id"])[0]["attempt"], 1)
        # Stopping used up no retry.
        self.assertEqual(self.query("select sum(retries_used) as n from job")[0]["n"], 0)
