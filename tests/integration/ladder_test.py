"""The whole way: one file in, a table of accuracies out."""
import json
import time

from processes import EXAMPLES, SMALL, BitrungTest, sha256_of

KEYS = {"name", "aliases", "state", "model", "dataset", "method", "bits", "teacher", "seed", "epochs", "attempts", "cached",
        "test_accuracy", "validation_accuracy", "test_loss", "duration_seconds", "images_per_second", "artifact_sha256",
        "error", "backend", "backend_reason"}
LADDER = EXAMPLES / "bit-ladder.yaml"


class LadderTest(BitrungTest):
    def run_ladder(self, *extra, state=None, **options):
        done = self.bitrung("run", LADDER, *SMALL, "--slots", "2", "--output", "json", *extra, state=state, **options)
        return json.loads(done.stdout), done

    def test_Ladder_RunsEndToEnd_AndIsCachedAndReproducible(self):
        first, done = self.run_ladder()
        self.assertEqual(first["experiment"], "bit-ladder")
        self.assertEqual(first["state"], "succeeded")
        jobs = {job["name"]: job for job in first["jobs"]}
        self.assertEqual(len(jobs), 11)
        for name, job in jobs.items():
            self.assertEqual(set(job), KEYS, name)
            self.assertEqual(job["state"], "succeeded", name)
            self.assertEqual(job["attempts"], 1, name)
            self.assertFalse(job["cached"], name)
            self.assertIsNone(job["error"], name)
            for key in ("test_accuracy", "validation_accuracy"):
                self.assertGreaterEqual(job[key], 0, name)
                self.assertLessEqual(job[key], 100, name)
            self.assertGreater(job["images_per_second"], 0, name)
            self.assertRegex(job["artifact_sha256"], "^[0-9a-f]{64}$")
        # Each rung is taught by the one above; the first is the individual training.
        rungs = [32, 16, 8, 4, 2, 1]
        root = jobs["alone.bits=32"]
        self.assertEqual(root["aliases"], ["assisted.bits=32"])
        self.assertIsNone(root["teacher"])
        above = root["name"]
        for bits in rungs[1:]:
            job = jobs[f"assisted.bits={bits}"]
            self.assertEqual(job["teacher"], above)
            self.assertEqual(job["bits"], {"weights": bits, "activations": bits})
            above = job["name"]

        # The artifacts lie where they are said to, under their own digests.
        for job in first["jobs"]:
            path = self.state / "artifacts" / job["artifact_sha256"][:2] / job["artifact_sha256"]
            self.assertEqual(sha256_of(path), job["artifact_sha256"])

        # One-line questions to the database.
        rows = self.query("select * from results")
        self.assertEqual(len(rows), 11)
        self.assertEqual({row["state"] for row in rows}, {"succeeded"})
        for row in self.query("select * from ladders"):
            self.assertIn("assisted", row["job"])
        points = self.query("select count(*) as n from metrics where series = 'train_loss'")[0]["n"]
        self.assertGreaterEqual(points, 11)
        self.check_consistent()

        # The same again in the same place: everything is there already.
        begin = time.monotonic()
        again, _ = self.run_ladder()
        self.assertTrue(all(job["cached"] for job in again["jobs"]))
        self.assertEqual([job["test_accuracy"] for job in again["jobs"]], [job["test_accuracy"] for job in first["jobs"]])
        print(f"\ncached run: {time.monotonic() - begin:.1f} s")

        # And in another place: the same bytes.
        other, _ = self.run_ladder(state=self.directory / "other")
        self.assertEqual({job["name"]: job["artifact_sha256"] for job in other["jobs"]},
                         {job["name"]: job["artifact_sha256"] for job in first["jobs"]})

        # What people look at afterwards, without a server running.
        table = self.bitrung("results", "bit-ladder", "--output", "text").stdout
        for word in ("alone", "assisted", "32", "16"):
            self.assertIn(word, table)
        status = self.bitrung("status", "bit-ladder", "--output", "tsv").stdout
        self.assertEqual(status.count("succeeded"), 11, status)
        explained = self.bitrung("explain", f"bit-ladder/{root['name']}").stdout
        self.assertIn("cached", explained)
        metrics = self.bitrung("metrics", f"1/{root['name']}", "--name", "test_accuracy", "--output", "json").stdout
        self.assertIn("test_accuracy", metrics)
        listed = self.bitrung("list", "--output", "tsv").stdout
        self.assertEqual(listed.count("bit-ladder"), 2, listed)

    def test_Plan_RunsAndCreatesNothing(self):
        done = self.bitrung("plan", LADDER, *SMALL, "--output", "json")
        plan = json.loads(done.stdout)
        self.assertEqual(len(plan["jobs"]), 11)
        self.assertFalse(self.state.exists())

    def test_FailedJob_SkipsItsStudentsOnly_AndExitsWithSix(self):
        # A learning rate that diverges in one entry; the other entry goes on.
        file = self.directory / "diverges.yaml"
        file.write_text(
            "experiment: diverges\n"
            "defaults: {model: resnet8, dataset: synthetic, epochs: 1, batch_size: 64, validation: 64,\n"
            "           synthetic: {train_images: 512, test_images: 128, seed: 1}}\n"
            "jobs:\n"
            "  good: {bits: 4}\n"
            "  bad: {bits: 32, batch_size: 16, optimizer: {learning_rate: 1000, weight_decay: 1}}\n"
            "  student: {bits: 4, teacher: bad}\n")
        done = self.bitrung("run", file, "--output", "json", expect=6)
        jobs = {job["name"]: job for job in json.loads(done.stdout)["jobs"]}
        self.assertEqual({name: job["state"] for name, job in jobs.items()},
                         {"good": "succeeded", "bad": "failed", "student": "skipped"})
        self.assertIn("step", jobs["bad"]["error"])
        self.assertEqual(jobs["bad"]["attempts"], 1)
        self.assertIn("bad", self.bitrung("explain", "diverges/student").stdout)
