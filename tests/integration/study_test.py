"""What a researcher asks: many ways down the bits, quantization afterwards, statistics, and a look inside."""
import json

from processes import BitrungTest

STUDY = """
experiment: study
defaults:
  model: resnet8
  dataset: synthetic
  synthetic: {train_images: 384, test_images: 96, seed: 1}
  epochs: 1
  batch_size: 32
  validation: 64
  augment: []
  schedule: constant
  optimizer: {learning_rate: 0.05}
replicate: {seed: [1, 2]}
jobs:
  all: {paths: {bits: [32, 4, 2]}, distill: {temperature: 2}}
  best: {paths: {bits: [32, 4, 2]}, search: best-path, distill: {temperature: 2}}
  alone: {sweep: {bits: [32, 2]}}
  modern: {bits: {weights: 2, activations: 2, first: 8, layers: {"layer3.*": 4}}, method: {weights: lsq, activations: pact}}
  binary: {bits: 1, method: react}
  taught: {bits: 4, teacher: [alone.bits=32, modern], distill: {kind: dkd, attention: 1, self_study: 0.0}}
  after: {quantize: alone.bits=32, method: linear, sweep: {bits: [8, 4]}, calibration: {batches: 2, batch_size: 32}}
  checked: {evaluate: after.bits=8}
"""


class StudyTest(BitrungTest):
    def setUp(self):
        super().setUp()
        self.file = self.directory / "study.yaml"
        self.file.write_text(STUDY)

    def json_of(self, *arguments):
        return json.loads(self.bitrung(*arguments, "--output", "json").stdout)

    def test_AStudy_RunsAndAnswers(self):
        plan = self.json_of("plan", self.file)
        done = json.loads(self.bitrung("run", self.file, "--slots", "2", "--output", "json", timeout=600).stdout)
        self.assertEqual(done["state"], "succeeded")
        jobs = {job["name"]: job for job in done["jobs"]}
        self.assertEqual(len(plan["jobs"]), len(jobs))
        names = set(jobs) | {alias for job in done["jobs"] for alias in job["aliases"]}

        # Four ways from 32 to 2 bits by two steps share their beginnings; the search has an edge for each pair.
        for seed in (1, 2):
            for path in ("32", "32-4", "32-2", "32-4-2"):
                self.assertIn(f"all.path={path}.seed={seed}", names)
            for edge in ("4.from=32", "2.from=32", "2.from=4"):
                self.assertIn(f"best.bits={edge}.seed={seed}", names)
        by_name = {name: job for job in done["jobs"] for name in [job["name"], *job["aliases"]]}
        # An edge of the search is the same training as the path whose teacher it chose.
        for seed in (1, 2):
            self.assertEqual(by_name[f"best.bits=4.from=32.seed={seed}"]["artifact_sha256"],
                             by_name[f"all.path=32-4.seed={seed}"]["artifact_sha256"])
            self.assertEqual(by_name[f"best.bits=2.from=4.seed={seed}"]["artifact_sha256"],
                             by_name[f"all.path=32-4-2.seed={seed}"]["artifact_sha256"])

        # Every final evaluation is there; an evaluated checkpoint is the same network with the same numbers.
        for seed in (1, 2):
            quantized, checked = by_name[f"after.bits=8.seed={seed}"], by_name[f"checked.seed={seed}"]
            self.assertEqual(checked["artifact_sha256"], quantized["artifact_sha256"])
            self.assertEqual(checked["test_accuracy"], quantized["test_accuracy"])
        self.assertEqual(self.query("select count(*) as n from report")[0]["n"],
                         sum(not job["cached"] for job in done["jobs"]))

        self.check_inspect()
        self.check_results()
        self.check_compare()
        self.check_export()

        # Again: everything is there, the choices too.
        again = json.loads(self.bitrung("run", self.file, "--slots", "2", "--output", "json").stdout)
        self.assertTrue(all(job["cached"] for job in again["jobs"]))
        self.assertEqual([job["test_accuracy"] for job in again["jobs"]], [job["test_accuracy"] for job in done["jobs"]])

    def check_inspect(self):
        report = self.json_of("inspect", "study/modern.seed=1", "--activations")["report"]
        self.assertEqual(report["evaluation"]["images"], 96)
        self.assertEqual(sum(map(sum, report["evaluation"]["confusion"])), 96)
        self.assertEqual(report["validation"]["images"], 64)
        # Each quantized tensor has one learned value: a step or a clip.
        self.assertEqual(report["network"]["parameters"], 77850 + sum(
            1 for layer in report["layers"] for part in ("weights", "activations")
            if layer[part] and layer[part]["bits"] < 32))
        wanted = {"conv1": 8, "layer1.0.conv1": 2, "layer3.0.conv2": 4, "layer2.0.downsample.0": 32, "fc": 32}
        for layer in report["layers"]:
            weights = layer["weights"]
            if layer["name"] in wanted:
                self.assertEqual(weights["bits"], wanted[layer["name"]], layer["name"])
            if weights["bits"] < 32:
                self.assertLessEqual(weights["levels"], 2 ** weights["bits"], layer["name"])
                self.assertGreater(weights["levels"], 1, layer["name"])
            activations = layer["activations"]
            if activations and activations["bits"] < 32:
                self.assertEqual(activations["method"], "pact")
                self.assertLessEqual(activations["levels"], 2 ** activations["bits"], layer["name"])
        text = self.bitrung("inspect", "study/binary.seed=1", "--layer", "layer1.*", "--output", "text").stdout
        self.assertIn("layer1.0.conv2", text)
        self.assertNotIn("layer2.0.conv1", text)

    def check_results(self):
        text = self.bitrung("results", "study", "--output", "text").stdout
        self.assertIn("±", text)
        grouped = self.bitrung("results", "study", "--group-by", "method.weights", "--output", "tsv").stdout
        self.assertIn("lsq", grouped)
        wrong = self.bitrung("results", "study", "--group-by", "metod.weights", expect=None)
        self.assertNotEqual(wrong.returncode, 0)
        self.assertIn("method.weights", wrong.stderr)
        for metric in ("top5", "nll", "brier", "ece"):
            self.bitrung("results", "study", "--metric", metric)

    def check_compare(self):
        compared = self.json_of("compare", "study/alone.bits=2", "study/modern")
        names = {option["name"] for option in compared["options"]}
        self.assertIn("method.weights", names)
        self.assertNotIn("seed", names)

    def check_export(self):
        packed = self.directory / "packed.safetensors"
        self.bitrung("export", "study/modern.seed=1", "--format", "packed", "--out", packed)
        full = self.directory / "full.safetensors"
        self.bitrung("export", "study/modern.seed=1", "--format", "safetensors", "--out", full)
        self.assertLess(packed.stat().st_size, full.stat().st_size / 4)
        pt = self.directory / "net.pt"
        self.bitrung("export", "study/alone.bits=32.seed=1", "--format", "pt", "--out", pt)
        back = self.directory / "back.safetensors"
        self.bitrung("import", pt, "--model", "resnet8", "--out", back, state=False)
        self.assertIn("resnet14", self.bitrung("import", pt, "--model", "resnet14", state=False, expect=None).stderr)
