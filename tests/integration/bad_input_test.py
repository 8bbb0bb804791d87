"""Bad input: one clear message, the right exit code, nothing crashes, nothing recorded is lost."""
import os

from processes import BitrungTest

BASE = "experiment: e\ndefaults: {model: resnet8, dataset: synthetic}\njobs:\n  a: {}\n"


class BadInputTest(BitrungTest):
    def check(self, text, expect, *words, arguments=()):
        """The file with this text is refused with the code and a single message that holds the words."""
        file = self.directory / "bad.yaml"
        if isinstance(text, bytes):
            file.write_bytes(text)
        else:
            file.write_text(text)
        for command in ("plan", "run"):
            done = self.bitrung(command, file, *arguments, expect=expect)
            self.assertEqual(done.stdout, "")
            self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)
            for word in words:
                self.assertIn(word, done.stderr)
        self.assertFalse((self.state / "bitrung.db").exists())

    def test_ExperimentFiles(self):
        cases = [
            ("", "bad.yaml"),
            ("just text", "bad.yaml"),
            (b"\x00\xff\xfe binary", "bad.yaml"),
            (BASE.replace("model:", "modle:"), "modle", "model"),
            (BASE + "  b: {epochs: many}\n", "bad.yaml:5", "many"),
            (BASE + "  b: {bits: 0}\n", "bits", "0"),
            (BASE + "  b: {bits: 9}\n", "bits", "9"),
            (BASE + "  b: {bits: 33}\n", "bits", "33"),
            (BASE + "  b: {bits: four}\n", "bits", "four"),
            (BASE + "  b: {teacher: c}\n  c: {teacher: b}\n", "cycle", "b", "c"),
            (BASE + "  b: {teacher: nobody}\n", "nobody"),
            (BASE + "  b: {dataset: cifar100, teacher: a}\n", "100", "10"),
            (BASE + "  a: {}\n", "a"),
        ]
        for text, *words in cases:
            with self.subTest(text=text[:80]):
                self.check(text, 2, *words)

    def test_OverflowingSweep_IsRefusedByTheLimit(self):
        values = [",".join(map(str, range(1, 1001)))] * 2
        self.check(BASE + "  b: {sweep: {seed: [%s], epochs: [%s]}}\n" % tuple(values), 5, "1,000,000", "100,000")
        # 10^21 would not fit into 64 bits.
        keys = ("seed", "epochs", "batch_size", "optimizer.learning_rate", "optimizer.weight_decay", "priority", "timeout")
        many = "".join(f"{key}: [{values[0]}], " for key in keys)
        self.check(BASE + "  b: {sweep: {%s}}\n" % many.rstrip(", "), 5, "100,000")

    def test_HugeFile_IsRefusedUnread(self):
        self.check("# " + "x" * 100_000_000, 5, "bad.yaml", "limit")

    def test_MissingFile(self):
        done = self.bitrung("run", self.directory / "nothing.yaml", expect=3)
        self.assertIn("nothing.yaml", done.stderr)

    def test_MissingAndTruncatedDataset(self):
        (self.directory / "cifar.yaml").write_text(BASE.replace("synthetic", "cifar10"))
        data = self.directory / "data"
        data.mkdir()
        done = self.bitrung("run", self.directory / "cifar.yaml", "--data-dir", data, expect=None, timeout=60)
        self.assertEqual(done.returncode, 3)
        self.assertIn("data fetch cifar10", done.stderr)
        for name in ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"):
            (data / f"{name}.bin").write_bytes(bytes(3073 * 10_000))
        with open(data / "data_batch_3.bin", "r+b") as file:
            file.truncate(1_000_000)
        done = self.bitrung("run", self.directory / "cifar.yaml", "--data-dir", data, expect=None, timeout=60)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("data_batch_3.bin", done.stderr)
        self.assertIn("1000000", done.stderr.replace(",", ""))

    def test_UnreachableServer(self):
        login = self.init_server()
        done = self.bitrung("list", "--server", "127.0.0.1:1", "--login", login, state=False, expect=7, timeout=60)
        self.assertIn("127.0.0.1:1", done.stderr)

    def test_NothingThere(self):
        done = self.bitrung("results", "x", expect=None)
        self.assertIn(done.returncode, (3, 7))
        self.assertIn("bitrung run", done.stderr)

    def test_UnknownCommandAndOption(self):
        self.assertIn("results", self.bitrung("result", state=False, expect=2).stderr)
        self.bitrung("list", "--frobnicate", expect=2)

    def test_StateDirectoryThatCannotBeWritten(self):
        blocker = self.directory / "file"
        blocker.write_text("x")
        (self.directory / "ok.yaml").write_text(BASE)
        done = self.bitrung("run", self.directory / "ok.yaml", state=blocker / "state", expect=1, timeout=60)
        self.assertIn(str(blocker), done.stderr)

    def test_TeacherFileThatDoesNotFit(self):
        teacher = self.directory / "teacher.safetensors"
        teacher.write_bytes(b"not a tensor file")
        self.check(BASE + f"  b: {{teacher: {{artifact: {teacher}, model: resnet8}}}}\n", 2, "teacher.safetensors")
