"""A server as a service: logins, two workers, cancel, retry, drain, restarts."""
import json
import os
import signal
import socket

from processes import EXAMPLES, SMALL, BitrungTest, descendants_named, kill

LADDER = EXAMPLES / "bit-ladder.yaml"


class ServiceTest(BitrungTest):
    def remote(self, address, *arguments, **options):
        login = ["--login", self.state / "admin.login"] if not address.startswith("unix:") else []
        return self.bitrung(*arguments, "--server", address, *login, state=False, **options)

    def test_TwoWorkers_ShareALadder_OverTls(self):
        self.init_server()
        _, address = self.start_server(address="127.0.0.1:0")
        for name in ("left", "right"):
            self.start_worker(address, name, "--slots", "1")
        self.wait_until(lambda: len(self.query("select 1 from worker")) == 2, "both workers")
        submitted = json.loads(self.remote(address, "submit", LADDER, *SMALL, "--output", "json").stdout)
        self.remote(address, "wait", "bit-ladder")
        results = json.loads(self.remote(address, "results", "bit-ladder", "--output", "json").stdout)
        self.assertEqual({job["state"] for job in results["jobs"]}, {"succeeded"})
        used = {row["worker_name"] for row in self.query("select distinct worker_name from attempt")}
        self.assertEqual(used, {"left", "right"})
        self.check_consistent()
        self.assertTrue(submitted)

        # Without a login nobody gets in; with one of another server neither.
        self.bitrung("list", "--server", address, state=False, expect=4)
        other = self.init_server(self.directory / "other")
        self.bitrung("list", "--server", address, "--login", other, state=False, expect=7)

    def test_ServerRestart_RunningAttemptsGoOn(self):
        server, address = self.start_server()
        self.start_worker(address, "w", "--slots", "1")
        self.remote(address, "submit", LADDER, *SMALL, "--set", "defaults.epochs=6")
        self.wait_until(lambda: self.query("select 1 from job where state = 'running'"), "a job runs")
        kill(server.pid)
        server.wait()
        _, address = self.start_server()
        self.wait_until(lambda: self.query("select count(*) as n from job where state = 'succeeded'")[0]["n"] >= 1, "one succeeds")
        attempts = self.query("select max(attempt) as n from attempt")[0]["n"]
        self.assertEqual(attempts, 1, "the restart cost an attempt")
        self.assertEqual(self.query("select value from meta where key = 'term'")[0]["value"], 2)
        self.remote(address, "cancel", "bit-ladder")
        self.remote(address, "wait", "bit-ladder", expect=None)
        states = {row["state"] for row in self.query("select distinct state from job")}
        self.assertTrue(states <= {"succeeded", "cancelled", "skipped"}, states)

    def test_CancelAndRetryOfASubtree(self):
        _, address = self.start_server()
        self.remote(address, "submit", LADDER, *SMALL)
        name = self.query("select name from job where name like 'assisted.bits=8%'")[0]["name"]
        self.remote(address, "cancel", "bit-ladder", name)
        below = self.query("select name, state from job where name like 'assisted.%'")
        states = {row["name"].split(".")[1]: row["state"] for row in below}
        self.assertEqual(states["bits=16"], "blocked")
        self.assertEqual(states["bits=8"], "cancelled")
        self.assertEqual({states[f"bits={bits}"] for bits in (4, 2, 1)}, {"skipped"})
        self.assertIn("skipped", self.remote(address, "explain", f"bit-ladder/{name.replace('bits=8', 'bits=2')}").stdout)
        self.remote(address, "retry", "bit-ladder", name)
        self.assertEqual(self.query("select count(*) as n from job where state in ('cancelled', 'skipped')")[0]["n"], 0)
        self.start_worker(address, "w", "--slots", "2")
        self.remote(address, "wait", "bit-ladder")
        self.check_consistent()

    def test_DrainedWorker_GetsNothing(self):
        _, address = self.start_server()
        self.start_worker(address, "w", "--slots", "1")
        self.wait_until(lambda: self.query("select 1 from worker where name = 'w'"), "the worker")
        self.remote(address, "drain", "w")
        self.remote(address, "submit", LADDER, *SMALL)
        explained = self.remote(address, "explain", "bit-ladder/" + self.query("select name from job")[0]["name"]).stdout
        self.assertIn("draining", explained)
        self.assertEqual(self.query("select * from attempt"), [])
        self.remote(address, "drain", "w", "--off")
        self.wait_until(lambda: self.query("select 1 from job where state = 'running'"), "a job runs")
        self.remote(address, "cancel", "bit-ladder")

    def test_WorkerStoppedByTerm_UsesUpNoRetry(self):
        _, address = self.start_server()
        worker = self.start_worker(address, "w", "--slots", "1")
        self.remote(address, "submit", LADDER, *SMALL, "--set", "defaults.epochs=50")
        self.wait_until(lambda: self.query("select 1 from job where state = 'running'"), "a job runs")
        worker.send_signal(signal.SIGTERM)
        self.assertEqual(worker.wait(timeout=40), 0)
        row = self.query("select * from attempt")[0]
        self.assertEqual((row["state"], row["failure_class"]), ("failed", "preempted"))
        job = self.query("select state, retries_used, resume_sha256 from job where attempt = 1")[0]
        self.assertEqual((job["state"], job["retries_used"]), ("ready", 0))
        self.assertIsNotNone(job["resume_sha256"])

    def test_PortInUse_AndSecondServer_AreOneLine(self):
        self.init_server()
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            server = self.start("bitrung-server", "--state-dir", self.state, "--listen", f"127.0.0.1:{port}")
            code, _, err = self.finish(server, 60)
            self.assertEqual(code, 1)
            self.assertIn(str(port), err.strip().splitlines()[-1])
        self.start_server()
        second = self.start("bitrung-server", "--state-dir", self.state, "--listen", f"unix:{self.directory}/s.sock")
        code, _, err = self.finish(second, 60)
        self.assertEqual(code, 1)
        self.assertIn("another bitrung-server", err)
