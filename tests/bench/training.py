#!/usr/bin/python3
"""Training images per second of bitrung-trainer beside eager PyTorch, alternating in one run, at equal threads.

    deploy/setup.sh --bench && tests/bench/training.py [--threads 1] [--depth 8] [--bits 32 4 2 1] [--rounds 5]

Prints medians and the median of the pairwise ratios. The machine should have nothing else to do.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
BIN = pathlib.Path(os.environ.get("BITRUNG_BIN", HERE.parents[1] / "build/release/bin"))


def spec(options, bits):
    return {"kind": "train", "numerics": 3, "model": f"resnet{options.depth}", "shortcut": "block", "dataset": "synthetic",
            "synthetic": {"train_images": options.images, "test_images": 128, "seed": 1}, "train_images": 0,
            "method": {"weights": "dorefa", "activations": "dorefa"},
            "bits": {"weights": bits, "activations": bits, "first": 32, "shortcut": 32, "last": 32, "gradients": 32,
                     "layers": []},
            # The first epoch is the warm-up; both rates are of the training steps with their data, not of evaluations.
            "epochs": 2, "batch_size": options.batch_size, "seed": 1,
            "optimizer": {"kind": "sgd", "learning_rate": 0.1, "momentum": 0.9, "nesterov": False, "weight_decay": 1e-4},
            "schedule": {"kind": "constant", "warmup_epochs": 0}, "augment": ["crop", "flip"], "backend": options.backend, "validation": 0,
            "init": "scratch"}


def ours(options, bits, directory):
    job = pathlib.Path(directory) / "job.json"
    job.write_text(json.dumps(spec(options, bits)))
    done = subprocess.run([BIN / "bitrung-trainer", "--threads", str(options.threads), "--job", job, "--work-dir", directory],
                          capture_output=True, text=True, check=True)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    return next(event for event in events if event["event"] == "succeeded")["result"]["images_per_second"]


def eager(options, bits):
    done = subprocess.run(["/usr/bin/python3", HERE / "eager_pytorch.py", "--depth", str(options.depth), "--bits", str(bits),
                           "--images", str(options.images), "--batch-size", str(options.batch_size),
                           "--threads", str(options.threads)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["images_per_second"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--bits", type=int, nargs="+", default=[32, 4, 2, 1])
    parser.add_argument("--images", type=int, default=3072)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--backend", choices=["auto", "fused", "eager"], default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(f"resnet{options.depth}, batch {options.batch_size}, {options.threads} thread(s), medians of {options.rounds}, images/s")
    print(f"{'bits':>5} {'bitrung':>9} {'eager':>9} {'ratio':>6}")
    with tempfile.TemporaryDirectory() as directory:
        for bits in options.bits:
            pairs = [(ours(options, bits, directory), eager(options, bits)) for _ in range(options.rounds)]
            print(f"{bits:>5} {statistics.median(a for a, _ in pairs):>9.0f} {statistics.median(b for _, b in pairs):>9.0f} "
                  f"{statistics.median(a / b for a, b in pairs):>6.2f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
