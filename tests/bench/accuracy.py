#!/usr/bin/python3
"""Test accuracy of the fused loops beside LibTorch's operations: the same trainings by both, several seeds each.

    tests/bench/accuracy.py --data DIR [--bits 32 4 2 1] [--seeds 20 31 55] [--epochs 5] [--images N] [--at-once 2] [--keep DIR]

resnet8 on CIFAR-10, a thread each. Columns: mean and standard deviation over the seeds of either, their difference, and what the
difference of two such means would be by chance: its standard error. With --keep, what is done already is not done again.
"""
import argparse
import concurrent.futures
import json
import pathlib
import statistics
import sys
import tempfile

import trainer
from trainer import spec


def accuracy(options, directory, bits, seed, backend):
    """Percent of the test images, and what computed the training."""
    place = directory / f"numerics{trainer.numerics()}-{backend}-w{bits}-seed{seed}-images{options.images}-epochs{options.epochs}"
    place.mkdir(parents=True, exist_ok=True)
    outcome = place / "outcome.json"
    if not outcome.exists():
        job = spec(bits, model="resnet8", dataset="cifar10", train_images=options.images, epochs=options.epochs,
                   batch_size=128, seed=seed, backend=backend, schedule={"kind": "cosine", "warmup_epochs": 0})
        outcome.write_text(json.dumps(trainer.train(job, place, "--threads", 1, "--data-dir", options.data)))
    event = json.loads(outcome.read_text())
    return event["result"]["test_accuracy"], event["report"]["backend"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="directory with the binary version of CIFAR-10")
    parser.add_argument("--bits", type=int, nargs="+", default=[32, 4, 2, 1])
    parser.add_argument("--seeds", type=int, nargs="+", default=[20, 31, 55])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--images", type=int, default=0, help="train on the first so many (default: all)")
    parser.add_argument("--at-once", type=int, default=2, help="trainings at the same time")
    parser.add_argument("--keep", type=pathlib.Path, help="directory for what comes out")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, concurrent.futures.ThreadPoolExecutor(options.at_once) as pool:
        directory = options.keep or pathlib.Path(temporary)
        trainings = {(bits, backend, seed): pool.submit(accuracy, options, directory, bits, seed, backend)
                     for seed in options.seeds for bits in options.bits for backend in ("fused", "eager")}
        for training, future in trainings.items():
            print(f"{training[0]} bits, {training[1]}, seed {training[2]}: {future.result()[0]:.2f} %", file=sys.stderr, flush=True)
        done = {training: future.result() for training, future in trainings.items()}
    backends = sorted({backend for _, backend in done.values()})
    print(f"resnet8, CIFAR-10 ({options.images or 50000} images), {options.epochs} epochs, {len(options.seeds)} seeds; {', '.join(backends)}")
    print(f"{'bits':>4} {'fused':>15} {'eager':>15} {'difference':>11} {'by chance':>10}")
    for bits in options.bits:
        columns = [[done[bits, backend, seed][0] for seed in options.seeds] for backend in ("fused", "eager")]
        means = [statistics.mean(column) for column in columns]
        spreads = [statistics.stdev(column) for column in columns]
        chance = ((spreads[0] ** 2 + spreads[1] ** 2) / len(options.seeds)) ** 0.5
        print(f"{bits:>4} {means[0]:>7.2f} +-{spreads[0]:>5.2f} {means[1]:>7.2f} +-{spreads[1]:>5.2f} {means[0] - means[1]:>+11.2f} {chance:>10.2f}")


if __name__ == "__main__":
    main()
