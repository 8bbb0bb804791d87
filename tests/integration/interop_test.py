"""Networks to and from other programs: PyTorch reads and writes them, NumPy computes with packed ones.

What needs PyTorch (Debian: python3-torch, deploy/setup.sh --bench) is skipped with a message where it is missing.
"""
import collections
import json
import pathlib
import re
import struct
import subprocess
import tempfile
import unittest

import numpy as np

from processes import BIN, ROOT, BitrungTest

try:
    import torch
except ImportError:
    torch = None

METHODS = {  # Entry: its options.
    "dorefa-1": "{bits: 1, method: dorefa}",
    "dorefa-2": "{bits: 2, method: dorefa}",
    "dorefa-4": "{bits: 4, method: dorefa}",
    "dorefa-8": "{bits: 8, method: dorefa}",
    "dorefa-all": "{bits: {weights: 3, activations: 5, first: 8, shortcut: 8, last: 8}, method: dorefa}",
    "paper-1": "{bits: 1, method: dorefa-paper}",
    "paper-2": "{bits: 2, method: dorefa-paper}",
    "linear-4": "{bits: 4, method: {weights: linear, activations: linear, range: asymmetric, granularity: channel}}",
    "linear-3": "{bits: 3, method: {weights: linear, activations: linear, range: symmetric}}",
    "pact-2": "{bits: 2, method: pact}",
    "wrpn-2": "{bits: 2, method: wrpn}",
    "affine-4": "{bits: 4, method: affine}",
    "lsq-2": "{bits: 2, method: lsq}",
    "lsq-plus-2": "{bits: 2, method: lsq-plus}",
    "apot-2": "{bits: 2, method: apot}",
    "apot-4": "{bits: 4, method: apot}",
    "xnor-1": "{bits: 1, method: xnor}",
    "ir-net-1": "{bits: 1, method: ir-net}",
    "recu-1": "{bits: 1, method: recu}",
    "react-1": "{bits: 1, method: react}",
}
FILE = """
experiment: interop
defaults:
  model: resnet8
  dataset: synthetic
  synthetic: {train_images: 256, test_images: 64, seed: 1}
  epochs: 1
  batch_size: 64
  validation: 0
jobs:
"""


def write_safetensors(path, tensors):
    """Tensors by name, 32-bit floats."""
    header, data = {}, b""
    for name, tensor in tensors.items():
        raw = np.ascontiguousarray(tensor, "<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def read_safetensors(path):
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    header.pop("__metadata__", None)
    types = {"F32": "<f4", "F64": "<f8", "I64": "<i8"}
    return {name: np.frombuffer(data[8 + size + entry["data_offsets"][0]:8 + size + entry["data_offsets"][1]],
                                types[entry["dtype"]]).reshape(entry["shape"]) for name, entry in header.items()}


def documented_reader():
    """The reader that the documentation prints, so that it is known to work."""
    page = (ROOT / "client/interop/PACKED.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL).group(1)
    scope = {}
    exec(compile(code, "PACKED.md", "exec"), scope)  # pylint: disable=exec-used
    return scope


READER = documented_reader()


def convolution(x, w, stride, padding):
    """(N,C,H,W) and (O,C,k,k) of any numeric type, e.g. integers."""
    k = w.shape[2]
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(2, 3))[:, :, ::stride, ::stride]
    n, c, h, v = windows.shape[:4]
    rows = windows.transpose(0, 2, 3, 1, 4, 5).reshape(n * h * v, c * k * k)
    return (rows @ w.reshape(len(w), -1).T).reshape(n, h, v, len(w)).transpose(0, 3, 1, 2)


class Packed:
    """A packed network, computed with twice: with the decoded values, and with integers that are scaled afterwards."""

    def __init__(self, path, integers):
        self.description, self.tensors = READER["read_packed"](str(path))
        self.layers = {layer["name"]: layer for layer in self.description["layers"]}
        self.integers = integers
        self.integer_layers = 0  # How often a layer was computed so.

    # ---- grids

    def levels(self, grid):
        """What codes stand for as integers, the factor behind them, and what must be taken off before the factor."""
        count = 2 ** grid["bits"]
        scale = self.tensors[grid["scale"]].astype(np.float64)
        if grid["codebook"]:
            book = self.tensors[grid["codebook"]].astype(np.float64)
            # Sums of powers of two over their largest sum.
            unit = next(u for u in range(1, 4096) if np.allclose(book * u, np.rint(book * u), rtol=0, atol=1e-9))
            return np.rint(book * unit).astype(np.int64)[None, :], scale / unit, 0
        zero = np.atleast_1d(self.tensors[grid["zero_point"]].astype(np.float64))
        twice = np.rint(2 * zero)
        if np.any(twice != 2 * zero):  # An offset that was learned.
            return np.arange(count)[None, :], scale, float(zero)
        return (2 * np.arange(count)[None, :] - twice[:, None]).astype(np.int64), scale / 2, 0

    def codes(self, layer, x):
        """x: (N,C,H,W) or (N,C)."""
        grid = layer["input"]
        if grid["relu"]:
            x = np.maximum(x, 0)
        thresholds = self.tensors[grid["thresholds"]]
        if thresholds.ndim == 1:
            return np.searchsorted(thresholds, x, side="right")
        return np.stack([np.searchsorted(thresholds[c], x[:, c], side="right") for c in range(x.shape[1])], axis=1)

    @staticmethod
    def of_channels(values, axis, dims):
        return np.asarray(values).reshape(-1, *(1,) * (dims - 1 - axis)) if np.ndim(values) else values

    def values(self, layer, codes):
        grid = layer["input"]
        if grid["codebook"]:
            levels = self.tensors[grid["codebook"]].astype(np.float64)[codes]
        else:
            levels = codes - self.of_channels(self.tensors[grid["zero_point"]].astype(np.float64), 1, codes.ndim)
        return self.of_channels(self.tensors[grid["scale"]].astype(np.float64), 1, codes.ndim) * levels

    # ---- layers

    def apply(self, layer, codes, x):
        """codes: of the layer's input, or None; x: the same as values."""
        if self.integers and codes is not None and layer["weights"] is not None:
            weight_levels, weight_scale, weight_offset = self.levels(layer["weights"])
            input_levels, input_scale, input_offset = self.levels(layer["input"])
            assert np.ndim(input_scale) == 0 and len(input_levels) == 1 and weight_offset == 0
            weight_codes = READER["codes_of"](layer, self.tensors)
            if len(weight_levels) == 1:
                w = weight_levels[0][weight_codes]
            else:
                w = np.stack([weight_levels[o][weight_codes[o]] for o in range(len(weight_codes))])
            assert w.dtype == np.int64 and input_levels.dtype == np.int64
            y = self.multiply(layer, input_levels[0][codes], w)
            assert y.dtype == np.int64
            if input_offset != 0:  # Of each input that is not padding.
                y = y - input_offset * self.multiply(layer, np.ones(codes.shape, np.int64), w)
            y = y * (self.of_channels(weight_scale, 1, y.ndim) * input_scale)
            self.integer_layers += 1
        else:
            y = self.multiply(layer, x, READER["weights_of"](layer, self.tensors).astype(np.float64))
        if layer["weights"] is not None and layer["weights"]["output_scale"]:
            y = y * self.of_channels(self.tensors[layer["weights"]["output_scale"]].astype(np.float64), 1, y.ndim)
        if layer["kind"] == "linear":
            y = y + self.tensors[layer["name"] + ".bias"]
        return y

    @staticmethod
    def multiply(layer, x, w):
        return x @ w.T if layer["kind"] == "linear" else convolution(x, w, layer["stride"], layer["padding"])

    def norm(self, name, x):
        part = lambda p: self.tensors[f"{name}.{p}"].astype(np.float64).reshape(-1, 1, 1)
        return (x - part("running_mean")) / np.sqrt(part("running_var") + 1e-5) * part("weight") + part("bias")

    def quantize(self, layer, x):
        if layer["input"] is None:
            return None, np.maximum(x, 0)
        codes = self.codes(layer, x)
        return codes, self.values(layer, codes)

    def after_sum(self, prefix, x):
        if f"{prefix}.prelu_slope" not in self.tensors:
            return x
        part = lambda p: self.tensors[f"{prefix}.prelu_{p}"].astype(np.float64).reshape(-1, 1, 1)
        u = x - part("shift_in")
        return np.where(u > 0, u, part("slope") * u) + part("shift_out")

    def block(self, name, x):
        one, two = self.layers[f"{name}.conv1"], self.layers[f"{name}.conv2"]
        down = self.layers.get(f"{name}.downsample.0")
        if self.description["shortcut"] == "block":
            codes, y = self.quantize(one, self.norm(f"{name}.bn1", x))
            residual = x if down is None else self.apply(down, None, y)
            y = self.after_sum(f"{name}.act1", self.apply(one, codes, y))
            codes, z = self.quantize(two, self.norm(f"{name}.bn2", y))
            return self.after_sum(f"{name}.act2", self.apply(two, codes, z) + residual)
        residual = x
        if down is not None:
            n, c, h, w = x.shape
            pooled = x.reshape(n, c, h // 2, 2, w // 2, 2).mean((3, 5))
            residual = self.norm(f"{name}.downsample.1", self.apply(down | {"stride": 1}, None, pooled))
        y = self.after_sum(f"{name}.act1", self.norm(f"{name}.bn1", self.apply(one, *self.quantize(one, x))) + residual)
        return self.after_sum(f"{name}.act2", self.norm(f"{name}.bn2", self.apply(two, *self.quantize(two, y))) + y)

    def forward(self, images):
        x = self.apply(self.layers["conv1"], None, images)
        if self.description["shortcut"] == "convolution":
            x = self.norm("bn1", x)
        for name in sorted({layer.rsplit(".", 1)[0] for layer in self.layers if layer.endswith(".conv1")}):
            x = self.block(name, x)
        x = np.maximum(self.norm("bn", x), 0).mean((2, 3))
        last = self.layers["fc"]
        codes, x = (None, x) if last["input"] is None else self.quantize(last, x)
        return self.apply(last, codes, x)


class InteropTest(BitrungTest):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="bitrung-interop-")
        cls.addClassCleanup(cls.folder.cleanup)
        cls.shared = pathlib.Path(cls.folder.name)
        (cls.shared / "interop.yaml").write_text(FILE + "".join(f"  {n}: {o}\n" for n, o in METHODS.items()))
        done = subprocess.run([BIN / "bitrung", "run", "interop.yaml", "--state-dir", "state", "--quiet"], cwd=cls.shared,
                              capture_output=True, text=True, timeout=800, check=False)
        if done.returncode != 0:
            raise AssertionError(f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
        cls.images = np.random.default_rng(1).normal(size=(4, 3, 32, 32)).astype(np.float32)
        write_safetensors(cls.shared / "images.safetensors", {"images": cls.images})
        cls.made = {}  # What several tests look at is made once.

    def export(self, source, form, out):
        """source: a job, or a file (which needs no server)."""
        self.bitrung("export", source, "--format", form, "--out", out, state=self.shared / "state")
        return out

    def checkpoint(self, name):
        """The artifact of a job."""
        row, = self.query("select artifact_sha256 as digest from results where name = ?", name, state=self.shared / "state")
        digest = row["digest"]
        path = self.shared / f"{name}.safetensors"
        path.write_bytes((self.shared / "state/artifacts" / digest[:2] / digest).read_bytes())
        return path

    def packed(self, name):
        if ("packed", name) not in self.made:
            self.made["packed", name] = self.export(self.checkpoint(name), "packed", self.shared / f"{name}.packed")
        return self.made["packed", name]

    def trainer_forward(self, name, precision):
        if (precision, name) not in self.made:
            out = self.shared / f"{name}.{precision}"
            done = subprocess.run([BIN / "bitrung-forward", self.checkpoint(name), self.shared / "images.safetensors", out,
                                   precision], capture_output=True, text=True, timeout=120, check=False)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.made[precision, name] = read_safetensors(out)
        return self.made[precision, name]

    # ---- packed

    def test_Packed_EveryLayer_ComputesInIntegersWhatTheTrainerComputes(self):
        for name in METHODS:
            with self.subTest(name):
                trainer = self.trainer_forward(name, "float")
                packed = Packed(self.packed(name), integers=True)
                seen = 0
                for layer in packed.layers.values():
                    if layer["input"] is None:
                        continue
                    seen += 1
                    codes = packed.codes(layer, trainer[layer["name"] + ".real"])
                    self.assertLess(codes.max(), 2 ** layer["input"]["bits"])
                    values = packed.values(layer, codes)
                    quantized = trainer[layer["name"] + ".quantized"]
                    # A code that is one off would differ by a whole level.
                    self.assertLess(np.abs(values - quantized).max(), 1e-5 * np.abs(quantized).max() + 1e-12, layer["name"])
                    output = trainer[layer["name"] + ".output"]
                    found = packed.apply(layer, codes, values)
                    self.assertLess(np.abs(found - output).max(), 2e-5 * np.abs(output).max() + 1e-12, layer["name"])
                self.assertGreaterEqual(seen, 6)

    def test_Packed_WholeNetwork_IntegersEqualFakeQuantization(self):
        for name in METHODS:
            with self.subTest(name):
                path = self.packed(name)
                integers = Packed(path, integers=True)
                exact = integers.forward(self.images)
                fake = Packed(path, integers=False).forward(self.images)
                self.assertEqual(integers.integer_layers, sum(1 for l in integers.layers.values() if l["weights"] and l["input"]))
                self.assertLess(np.abs(exact - fake).max(), 1e-9 * np.abs(fake).max())
                # The trainer computes in 32 bits. An activation on the edge between two levels may fall on the other side
                # there and change all behind it a little, but not in every image.
                trainer = self.trainer_forward(name, "float")["logits"]
                errors = np.abs(exact - trainer).max(1) / np.abs(trainer).max()
                self.assertLess(errors.min(), 1e-4, errors)
                self.assertLess(errors.max(), 0.25, errors)

    def test_Packed_SizeIsThatOfItsBits(self):
        description, tensors = READER["read_packed"](str(self.export("interop/dorefa-2", "packed", self.directory / "x")))
        coded = [layer for layer in description["layers"] if layer["weights"]]
        self.assertEqual(len(coded), 6)
        for layer in coded:
            self.assertEqual(layer["weights"]["bits"], 2)
            self.assertEqual(tensors[layer["weights"]["codes"]].nbytes, int(np.prod(layer["shape"])) * 2 // 8)
            self.assertNotIn(layer["name"] + ".weight", tensors)

    # ---- PyTorch

    @unittest.skipIf(torch is None, "python3-torch is missing: deploy/setup.sh --bench installs it")
    def test_Pt_IsReadByPyTorchAndGivesTheSameLogits(self):
        from reference_network import ReferenceNetwork
        for name, bits in {"dorefa-1": 1, "dorefa-2": 2, "dorefa-4": 4, "dorefa-8": 8}.items():
            with self.subTest(name):
                path = self.export(f"interop/{name}", "pt", self.directory / f"{name}.pt")
                state = torch.load(path, weights_only=True)
                self.assertIsInstance(state, collections.OrderedDict)
                net = ReferenceNetwork(8, (bits, bits)).eval()
                net.load_state_dict(state)  # Strict: every name and shape.
                with torch.no_grad():
                    logits = net.double()(torch.from_numpy(self.images).double()).numpy()
                # In double precision, where no activation falls on the other side of an edge by chance.
                trainer = self.trainer_forward(name, "double")["logits"]
                self.assertLess(np.abs(logits - trainer).max(), 1e-9 * np.abs(trainer).max())

    @unittest.skipIf(torch is None, "python3-torch is missing: deploy/setup.sh --bench installs it")
    def test_Import_OfPyTorchsFile_TeachesAStudent(self):
        from reference_network import ReferenceNetwork
        torch.manual_seed(1)
        net = ReferenceNetwork(14, (32, 32))
        torch.save({"epoch": 3, "model_state_dict": torch.nn.DataParallel(net).state_dict()}, self.directory / "net.pt")
        done = self.bitrung("import", "net.pt", "--output", "json", state=False)
        imported = json.loads(done.stdout)
        self.assertEqual((imported["model"], imported["classes"]), ("resnet14", 10))
        written = read_safetensors(self.directory / "net.safetensors")
        for key, value in net.state_dict().items():
            self.assertTrue(np.array_equal(written[key], value.numpy()), key)

        (self.directory / "student.yaml").write_text(
            FILE.replace("interop", "student") +
            "  student: {bits: 4, teacher: {artifact: net.safetensors, model: resnet14}, distill: {weight: 0.5}}\n")
        self.bitrung("run", "student.yaml")
        # A file of another network is refused before anything is written.
        done = self.bitrung("import", "net.pt", "--model", "resnet20", "--out", "x.safetensors", expect=2, state=False)
        self.assertIn("does not fit resnet20", done.stderr)
        self.assertFalse((self.directory / "x.safetensors").exists())

    @unittest.skipIf(torch is None, "python3-torch is missing: deploy/setup.sh --bench installs it")
    def test_Import_OfAPickledProgram_RunsNothing(self):
        class Program:
            def __reduce__(self):
                return open, ("was-run", "w")

        torch.save({"state_dict": {"conv1.weight": Program()}}, self.directory / "evil.pt")
        done = self.bitrung("import", "evil.pt", expect=2, state=False)
        self.assertRegex(done.stderr, r'it wants "(io|_io|builtins|__builtin__).open"')
        self.assertFalse((self.directory / "was-run").exists())


if __name__ == "__main__":
    unittest.main()
