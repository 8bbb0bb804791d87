"""Cores that the slots of a worker share: who gets how many, and that the trainers are bound to them."""
import json
import os
import pathlib
import unittest

from processes import BitrungTest, descendants_named, kill

STUDY = """
experiment: {name}
defaults:
  model: resnet8
  dataset: synthetic
  synthetic: {{train_images: 1024, test_images: 128, seed: 1}}
  epochs: 1000
  batch_size: 64
  validation: 0
jobs: {{{jobs}}}
"""


class CoresTest(BitrungTest):
    def setUp(self):
        super().setUp()
        allowed = sorted(os.sched_getaffinity(0))
        if len(allowed) < 2:
            self.skipTest("needs two cores")
        self.cores = allowed[:2]
        os.sched_setaffinity(0, self.cores)  # What is started inherits it.
        self.addCleanup(os.sched_setaffinity, 0, allowed)
        self.server, self.address = self.start_server()
        self.worker = self.start_worker(self.address, "w")

    def ask(self, *arguments):
        return json.loads(self.bitrung(*arguments, "--server", self.address, "--output", "json", state=False).stdout)

    def submit(self, name, *jobs):
        file = self.directory / f"{name}.yaml"
        # Equal jobs would be one.
        file.write_text(STUDY.format(name=name, jobs=", ".join(f"{job}: {{seed: {ord(job)}}}" for job in jobs)))
        self.bitrung("submit", file, "--server", self.address, state=False)

    def wait_until_running(self, expected):
        """Waits until these attempts run and no other, by the name of the job; checks their threads."""
        def rows():
            found = self.query("select job.name as name, attempt.threads as threads from attempt join job on job.id = job_id"
                               " where attempt.state = 'running'")
            return found if {row["name"] for row in found} == set(expected) else None
        found = self.wait_until(rows, f"{', '.join(expected)} run")
        self.assertEqual({row["name"]: row["threads"] for row in found}, expected)

    def bound_to(self):
        """Sets of cores of the trainers, each the same for all threads of its process."""
        sets = []
        for pid in descendants_named(self.worker.pid, "bitrung-trainer"):
            of_threads = {line.split()[1] for status in pathlib.Path(f"/proc/{pid}/task").glob("*/status")
                          for line in status.read_text().splitlines() if line.startswith("Cpus_allowed_list")}
            self.assertEqual(len(of_threads), 1, f"the threads of trainer {pid} are bound to different cores")
            sets.append(frozenset(core for part in of_threads.pop().split(",")
                                  for core in range(int(part.split("-")[0]), int(part.split("-")[-1]) + 1)))
        return sets

    def explained(self, job):
        return "\n".join(self.ask("explain", job)["lines"])

    def cancel(self, experiment):
        self.bitrung("cancel", experiment, "--server", self.address, state=False)

    def shared(self):
        worker, = self.ask("workers")["workers"]
        return worker["shared_cores"], worker["free_cores"]

    def test_JobsThatWait_GetACoreEach_AndALoneOneGetsAll(self):
        one, other = (frozenset([core]) for core in self.cores)
        self.submit("many", "a", "b", "c")
        self.wait_until_running({"a": 1, "b": 1})
        self.assertEqual(set(self.bound_to()), {one, other})
        self.assertEqual(self.shared(), (2, 0))
        self.assertIn("with 1 of its 2 cores", self.explained("many/a"))
        self.assertIn("worker w shares 2 cores: a has 1, b has 1", self.explained("many/c"))
        self.cancel("many")
        self.wait_until(lambda: not self.query("select 1 from attempt where state in ('offered', 'running')"), "both have stopped")

        self.submit("alone", "d")
        self.wait_until_running({"d": 2})
        self.assertIn(one | other, self.bound_to())
        self.assertIn("with all its 2 cores: no other job waited for them", self.explained("alone/d"))

        # A server that comes back knows who has what.
        kill(self.server.pid)
        self.server.wait()
        self.server, self.address = self.start_server()
        self.submit("later", "e")
        self.wait_until(lambda: "/d has 2" in self.explained("later/e"), "the worker is back")
        self.assertEqual(self.shared(), (2, 0))
        self.cancel("alone")
        self.wait_until_running({"e": 2})
        self.assertEqual(self.query("select max(attempt) as n from attempt")[0]["n"], 1)


if __name__ == "__main__":
    unittest.main()
