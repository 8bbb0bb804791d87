#!/usr/bin/python3
"""A whole bit ladder through `bitrung run` against the same trainings as a loop over an eager PyTorch script.

    deploy/setup.sh --bench && tests/bench/ladder.py --data DIR [--train-images N] [--epochs 2] [--repeats 1] [--json FILE]

Eleven trainings of resnet8 on CIFAR-10: every bitwidth of 32, 16, 8, 4, 2, 1 alone, and each from 16 down taught by the one
above it. DIR has cifar-10-batches-bin or its files (`bitrung data fetch cifar10`). Both sides have the same cores (--cores,
two by default), are timed from the first process to the last result, and take turns. bitrung starts a fresh server, worker
and state each time and places the jobs itself. The loop starts one process per training, one thread each, as many at a
time as cores, the next of the chain before the others; tcmalloc and channels-last are left to it by --tuned.

Wall times are of everything: start-up, reading the data, evaluation after each epoch, handing over the teachers; on
bitrung's side also checkpoints, metrics and the final measurements of each network. The accuracies are of single seeds and
different random numbers: they show that both train, not which is better. The machine should have nothing else to do.
"""
import argparse
import concurrent.futures
import ctypes.util
import json
import os
import pathlib
import statistics
import sys
import tempfile
import threading
import time

from trainer import BIN, HERE, run

BITS = [32, 16, 8, 4, 2, 1]
# Name of each training: its bits, and what teaches it.
TRAININGS = {f"alone.bits={bits}": (bits, None) for bits in BITS} | {
    f"assisted.bits={bits}": (bits, "alone.bits=32" if above == 32 else f"assisted.bits={above}")
    for above, bits in zip(BITS, BITS[1:])}

STUDY = """
experiment: ladder-race
defaults:
  model: resnet8
  dataset: cifar10
  train_images: {train_images}
  method: dorefa
  epochs: {epochs}
  batch_size: 128
  optimizer: {{kind: sgd, learning_rate: 0.1, momentum: 0.9, weight_decay: 1e-4}}
  schedule: constant
  augment: [crop, flip]
  validation: 0
  seed: 1
jobs:
  alone:
    sweep: {{bits: {bits}}}
  assisted:
    ladder: {{bits: {bits}}}
    distill: {{temperature: 1, weight: 0.5}}
"""


def by_bitrung(options, directory):
    """Test accuracy by training."""
    study = directory / "study.yaml"
    study.write_text(STUDY.format(train_images=options.train_images, epochs=options.epochs, bits=BITS))
    out = json.loads(run([BIN / "bitrung", "run", study, "--data-dir", options.data, "--state-dir", directory / "state",
                          "--output", "json"]))
    accuracies = {name: job["test_accuracy"] for job in out["jobs"] for name in [job["name"], *job["aliases"]]}
    return {name: accuracies[name] for name in TRAININGS}


def by_the_loop(options, directory):
    """The same by eager_pytorch.py."""
    done, failed = {}, []
    changed = threading.Condition()

    def train(name):
        bits, teacher = TRAININGS[name]
        command = ["/usr/bin/python3", HERE / "eager_pytorch.py", "--data", options.folder, "--bits", bits, "--threads", 1,
                   "--epochs", options.epochs, "--train-images", options.train_images, "--out", directory / f"{name}.pt"]
        if teacher:
            command += ["--teacher", 8, TRAININGS[teacher][0], "--teacher-file", directory / f"{teacher}.pt"]
        preload = {}
        if options.tuned:
            command.append("--channels-last")
            preload["LD_PRELOAD"] = options.tcmalloc
        return json.loads(run(command, **preload))["test_accuracy"]

    # The chain first: it is the longest way through.
    waiting = ["alone.bits=32"] + [name for name, (_, teacher) in TRAININGS.items() if teacher]
    waiting += [name for name in TRAININGS if name not in waiting]

    def take():
        """The next training whose teacher is there; waits for one. None when there are no more."""
        with changed:
            while waiting and not failed:
                for name in waiting:
                    teacher = TRAININGS[name][1]
                    if teacher is None or teacher in done:
                        waiting.remove(name)
                        return name
                changed.wait()
            return None

    def lane():
        while (name := take()) is not None:
            try:
                result = train(name)
            except SystemExit as error:
                with changed:
                    failed.append(error)
                    changed.notify_all()
                raise
            with changed:
                done[name] = result
                changed.notify_all()

    with concurrent.futures.ThreadPoolExecutor(options.cores) as pool:
        for future in [pool.submit(lane) for _ in range(options.cores)]:
            future.result()
    return {name: done[name] for name in TRAININGS}


def timed(side, options):
    with tempfile.TemporaryDirectory(prefix="bitrung-ladder-") as directory:
        begin = time.perf_counter()
        accuracies = side(options, pathlib.Path(directory))
        return time.perf_counter() - begin, accuracies


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--train-images", type=int, default=0, help="the first so many; 0 for all")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--tuned", action="store_true", help="the loop with channels-last and tcmalloc")
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    options.data = options.data.resolve()
    options.folder = next((folder for folder in (options.data / "cifar-10-batches-bin", options.data)
                           if (folder / "test_batch.bin").exists()), None)
    if options.folder is None:
        sys.exit(f"{options.data} has no test_batch.bin: bitrung data fetch cifar10 --data-dir DIR")
    options.tcmalloc = ctypes.util.find_library("tcmalloc_minimal")
    if options.tuned and not options.tcmalloc:
        sys.exit("tcmalloc is not here: deploy/setup.sh --bench")
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < options.cores:
        sys.exit(f"{options.cores} cores are asked for, {len(allowed)} are here")
    os.sched_setaffinity(0, allowed[:options.cores])  # Both sides inherit it.

    seconds, accuracies = {"bitrung": [], "loop": []}, {}
    for repeat in range(options.repeats):
        # Whoever comes second may find files in memory: they take turns.
        sides = [("bitrung", by_bitrung), ("loop", by_the_loop)]
        for name, side in sides if repeat % 2 == 0 else reversed(sides):
            took, accuracies[name] = timed(side, options)
            seconds[name].append(took)
            print(f"{name}: {took:.1f} s", file=sys.stderr, flush=True)

    print(f"{'training':<20} {'bitrung':>9} {'loop':>9}   test accuracy, %")
    for name in TRAININGS:
        print(f"{name:<20} {accuracies['bitrung'][name]:>9.2f} {accuracies['loop'][name]:>9.2f}")
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    ratio = medians["loop"] / medians["bitrung"]
    print(f"{len(TRAININGS)} trainings of {options.epochs} epochs of {options.train_images or 50_000} images on {options.cores} "
          f"cores, median of {options.repeats}: bitrung {medians['bitrung']:.1f} s, the loop {medians['loop']:.1f} s "
          f"({'tuned, ' if options.tuned else ''}{options.cores} at a time, one thread each): {ratio:.2f} times faster")
    if options.json:
        options.json.write_text(json.dumps({"seconds": seconds, "ratio": ratio, "accuracies": accuracies,
                                            "options": {key: str(value) for key, value in vars(options).items()}}, indent=1))


if __name__ == "__main__":
    main()
