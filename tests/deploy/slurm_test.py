"""deploy/slurm/worker.sbatch in a real Slurm: workers let themselves in, train, and finish cleanly before the time limit."""
import json
import os
import pathlib
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "integration"))
from processes import BIN, EXAMPLES, SMALL, BitrungTest  # noqa: E402
from slurm import Cluster, free_ports  # noqa: E402

LADDER = EXAMPLES / "bit-ladder.yaml"


@unittest.skipIf(os.geteuid() != 0, "Slurm's daemons and the devices of GPUs that are none want root")
class SlurmTest(BitrungTest):
    def setUp(self):
        super().setUp()
        self.cluster = Cluster(self.directory / "slurm")
        self.addCleanup(self.cluster.stop)
        self.cluster.start()
        self.address = f"127.0.0.1:{free_ports(1)[0]}"
        self.init_server(address=self.address)
        self.start_server(address=self.address)
        # The login node: a home with a saved login of an operator, and the programs in the path.
        self.home = self.directory / "home"
        self.home.mkdir()
        login = self.directory / "op.login"
        self.remote("token", "create", "op", "--role", "operator", "--out", login)
        self.person("login", login)
        self.workers = self.directory / "workers"

    def remote(self, *arguments, **options):
        return self.bitrung(*arguments, "--server", self.address, "--login", self.state / "admin.login", state=False, **options)

    def person(self, *arguments, **options):
        return self.bitrung(*arguments, state=False, cwd=self.home, env={"HOME": str(self.home), "XDG_CONFIG_HOME": ""}, **options)

    def submit_workers(self, *options, stop_before):
        """Submits the script; returns the number of the Slurm job."""
        environment = {"HOME": str(self.home), "XDG_CONFIG_HOME": "", "PATH": f"{BIN}:{os.environ['PATH']}",
                       "BITRUNG_WORKERS": str(self.workers), "BITRUNG_STOP_BEFORE": str(stop_before)}
        done = self.cluster.run("sbatch", "--parsable", f"--output={self.directory}/worker-%j.log", f"--chdir={self.directory}",
                                *options, ROOT / "deploy/slurm/worker.sbatch", env=environment)
        return done.stdout.strip()

    def wait_until_it_ends(self, job, seconds):
        log = self.directory / f"worker-{job}.log"
        self.cluster.wait(lambda: self.cluster.state_of(job)[0] not in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING"),
                          f"Slurm job {job} ends", seconds)
        return self.cluster.state_of(job), log.read_text()

    def attempts(self):
        return self.query("select worker_name, state, failure_class from attempt")

    def test_TwoNodes_TwoSlotsEach_AndACleanEnd(self):
        self.remote("submit", LADDER, *SMALL, "--set", "defaults.epochs=400")
        # By the worker's own clock, after 25 seconds. Slurm sends its signal up to a minute early, so after 55 at the soonest.
        job = self.submit_workers("--nodes=2", "--gpus-per-node=2", "--time=2", "--signal=USR2@5", stop_before=95)
        self.wait_until(lambda: len(self.query("select 1 from job where state = 'running'")) == 4, "four slots work", 60)
        workers = json.loads(self.remote("workers", "-o", "json").stdout)["workers"]
        self.assertEqual({worker["name"]: len(worker["slots"]) for worker in workers}, {"node1": 2, "node2": 2})
        state, log = self.wait_until_it_ends(job, 90)
        self.assertEqual(state, ("COMPLETED", "0:0"), log)
        self.assertIn("--stop-after is over", log)
        self.assertEqual({(row["state"], row["failure_class"]) for row in self.attempts()}, {("failed", "preempted")}, log)
        self.assertEqual(self.query("select max(retries_used) as n from job")[0]["n"], 0)
        kept = self.query("select count(*) as n from job where resume_sha256 is not null and state = 'ready'")[0]["n"]
        self.assertEqual(kept, 4, "checkpoints are kept")

        # The next allocation, on one node: the same identity, and the same trainings go on. Slurm's signal ends it.
        job = self.submit_workers("--nodes=1", "--gpus-per-node=1", "--time=10", "--nodelist=node1", stop_before=30)
        self.wait_until(lambda: self.query("select 1 from attempt where attempt = 2 and state = 'running' and resumed_epoch > 0"),
                        "a training goes on", 60)
        self.cluster.run("scancel", "--signal=USR2", job)
        state, log = self.wait_until_it_ends(job, 60)
        self.assertEqual(state, ("COMPLETED", "0:0"), log)
        self.assertEqual({(row["state"], row["failure_class"]) for row in self.attempts()}, {("failed", "preempted")}, log)
        self.assertEqual(len(list(self.workers.iterdir())), 2)
        self.check_consistent()


if __name__ == "__main__":
    unittest.main()
