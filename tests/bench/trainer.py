"""What the benchmarks of trainings share: programs that are run, and the spec of a training."""
import functools
import json
import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
BIN = pathlib.Path(os.environ.get("BITRUNG_BIN", HERE.parents[1] / "build/release/bin"))
# Threads that wait must not take the cores from those that work.
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("BITRUNG_")} | {
    "OMP_WAIT_POLICY": "passive", "NO_COLOR": "1", "XDG_CONFIG_HOME": "/nonexistent"}


def run(command, **environment):
    """What the command writes; ends the benchmark if it fails."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False,
                          env=ENVIRONMENT | environment)
    if done.returncode != 0:
        sys.exit(f"{command[0]} failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


@functools.cache
def numerics():
    return json.loads(run([BIN / "bitrung-trainer", "--inventory"]))["numerics"]


def spec(bits, **options):
    """A training by DoReFa's method with these bits for all inner layers, and options besides and in place of the usual ones."""
    return {"kind": "train", "numerics": numerics(), "shortcut": "block", "train_images": 0,
            "method": {"weights": "dorefa", "activations": "dorefa"},
            "bits": {"weights": bits, "activations": bits, "first": 32, "shortcut": 32, "last": 32, "gradients": 32, "layers": []},
            "optimizer": {"kind": "sgd", "learning_rate": 0.1, "momentum": 0.9, "nesterov": False, "weight_decay": 1e-4},
            "augment": ["crop", "flip"], "validation": 0, "init": "scratch"} | options


def train(job, directory, *arguments):
    """Runs bitrung-trainer with a spec in a directory, which keeps the checkpoint; returns what it says at the end."""
    file = pathlib.Path(directory) / "job.json"
    file.write_text(json.dumps(job))
    lines = run([BIN / "bitrung-trainer", "--job", file, "--work-dir", directory, *arguments])
    return next(event for event in map(json.loads, lines.splitlines()) if event["event"] == "succeeded")
