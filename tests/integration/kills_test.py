"""kill -9 of the trainer, of the worker and of the server, each in the middle of the ladder; and Ctrl-C."""
import json
import os
import signal

from processes import EXAMPLES, SMALL, BitrungTest, Lines, children_of, descendants_named, kill, name_of

LADDER = EXAMPLES / "bit-ladder.yaml"
# Long enough for a kill to hit a job after its first checkpoint.
SMALL = [*SMALL, "--set", "defaults.epochs=5"]


class KillsTest(BitrungTest):
    def start_ladder(self, *extra):
        process = self.start("bitrung", "run", LADDER, *SMALL, "--slots", "2", "--output", "json", "--state-dir", self.state,
                             *extra)
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

    def finish_ladder(self, process):
        out = process.stdout.read()
        self.assertEqual(process.wait(timeout=300), 0, process.errors.seen)
        results = json.loads(out)
        self.assertEqual({job["state"] for job in results["jobs"]}, {"succeeded"})
        self.assertEqual(len(results["jobs"]), 11)
        winners = self.check_consistent()
        self.assertEqual(len(winners), 11)
        return {job["name"]: job for job in results["jobs"]}

    def undisturbed(self):
        state = self.directory / "undisturbed"
        out = self.bitrung("run", LADDER, *SMALL, "--slots", "2", "--output", "json", state=state).stdout
        return {job["name"]: job["artifact_sha256"] for job in json.loads(out)["jobs"]}

    def test_Kill9OfTrainerWorkerAndServer_StudyCompletes_NothingLostOrTwice(self):
        process = self.start_ladder()

        self.wait_for_work(1)
        before = self.query("select id as job_id, attempt, artifact_sha256 from job where state = 'succeeded'")
        for trainer in descendants_named(process.pid, "bitrung-trainer"):
            kill(trainer)
        self.wait_until(lambda: self.query("select 1 from attempt where failure_class = 'trainer_crashed'"),
                        "the dead trainer is noticed")

        self.wait_for_work(3)
        worker = descendants_named(process.pid, "bitrung-worker")[0]
        kill(worker)
        self.wait_until(lambda: self.query("select 1 from attempt where failure_class = 'lost_worker'"),
                        "the dead worker is noticed")

        self.wait_for_work(5)
        acknowledged = self.query("select job_id, attempt, point_watermark from attempt")
        server = descendants_named(process.pid, "bitrung-server")[0]
        kill(server)
        self.wait_until(lambda: [pid for pid in descendants_named(process.pid, "bitrung-server") if pid != server],
                        "the server is started again")

        jobs = self.finish_ladder(process)
        # What had succeeded was not done again.
        for row in before:
            now = self.query("select attempt, artifact_sha256 from job where id = ?", row["job_id"])[0]
            self.assertEqual((now["attempt"], now["artifact_sha256"]), (row["attempt"], row["artifact_sha256"]))
        # Points that were acknowledged are there.
        for row in acknowledged:
            now = self.query("select point_watermark from attempt where job_id = ? and attempt = ?", row["job_id"],
                             row["attempt"])[0]
            self.assertGreaterEqual(now["point_watermark"], row["point_watermark"])
        for row in self.query("select a.job_id, a.attempt, a.point_watermark, (select coalesce(sum(point_count), 0) from series s "
                              "where s.job_id = a.job_id and s.attempt = a.attempt) as points from attempt a"):
            self.assertEqual(row["points"], row["point_watermark"], row)
        # Kills changed no weight of any network.
        self.assertEqual({name: job["artifact_sha256"] for name, job in jobs.items()}, self.undisturbed())

    def test_CtrlC_StopsCleanly_AndTheSameCommandContinues(self):
        process = self.start_ladder()
        self.wait_for_work(2)
        os.kill(process.pid, signal.SIGINT)
        process.errors.wait_for("continues", 60)
        self.assertEqual(process.wait(timeout=60), 130)
        self.assertEqual([name_of(pid) for pid in children_of(process.pid)], [])
        done = self.query("select id as job_id from job where state = 'succeeded'")
        self.assertEqual(self.query("select 1 from job where state = 'failed'"), [])

        again = self.start_ladder()
        jobs = self.finish_ladder(again)
        self.assertEqual(len(self.query("select 1 from experiment")), 1)
        self.assertFalse(any(job["cached"] for job in jobs.values()))
        for row in done:
            self.assertEqual(self.query("select attempt from job where id = ?", row["job_id"])[0]["attempt"], 1)
        # Stopping used up no retry.
        self.assertEqual(self.query("select sum(retries_used) as n from job")[0]["n"], 0)
