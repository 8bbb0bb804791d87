#!/usr/bin/python3
"""Training images per second of bitrung-trainer beside eager PyTorch, alternating in one run, at equal threads.

    deploy/setup.sh --bench && tests/bench/training.py [--depth 8 20] [--bits 32 4 1] [--threads 1] [--rounds 5]
    tests/bench/training.py --processes 2          two trainings at once, a thread each; rates are of both together
    tests/bench/training.py --bits 2 --teacher 20 4     taught by a resnet20 of 4 bits

Columns: the trainer with its fused loops and with LibTorch's operations; eager PyTorch as people write it (NCHW) and as
tuned as it gets (channels-last, tcmalloc); the ratios of the first to the last two, medians of the ratios of each round;
the fused training's convolutions as a share of the multiply-adds that the cores can do. Each round runs all four, one after the
other. The machine should have nothing else to do.
"""
import argparse
import concurrent.futures
import ctypes.util
import json
import pathlib
import statistics
import sys
import tempfile

import trainer
from trainer import HERE, run, spec

# Multiply-adds of the convolutions for one image, forwards; a training step does three times that but for the first layer,
# whose input needs no gradient.
MACS = {8: 12.50e6, 14: 26.66e6, 20: 40.81e6, 26: 54.97e6}
FIRST_MACS = 27 * 16 * 1024
DISTILL = {"distill": {"kind": "kd", "temperature": 1.0, "temperature_end": 1.0, "weight": 0.5, "weight_end": 0.5,
                       "schedule": "constant", "self_study": 0.0, "attention": 0.0, "hint": 0.0, "similarity": 0.0}}


def train(options, depth, bits, backend, teacher, directory):
    """The rate; the checkpoint stays in the directory."""
    directory = pathlib.Path(directory)
    directory.mkdir(exist_ok=True)
    # The first epoch is the warm-up; both rates are of the training steps with their data, not of evaluations.
    job = spec(bits, model=f"resnet{depth}", dataset="synthetic",
               synthetic={"train_images": options.images, "test_images": 128, "seed": 1}, epochs=2, batch_size=options.batch_size,
               seed=1, backend=backend, schedule={"kind": "constant", "warmup_epochs": 0}, **(DISTILL if teacher else {}))
    event = trainer.train(job, directory, "--threads", options.threads, *(["--teacher", teacher] if teacher else []))
    return event["result"]["images_per_second"]


def eager(options, depth, bits, is_tuned):
    command = ["/usr/bin/python3", HERE / "eager_pytorch.py", "--depth", depth, "--bits", bits, "--images", options.images,
               "--batch-size", options.batch_size, "--threads", options.threads]
    command += ["--teacher", *options.teacher] if options.teacher else []
    if is_tuned:
        return json.loads(run(command + ["--channels-last"], LD_PRELOAD=options.tcmalloc))["images_per_second"]
    return json.loads(run(command))["images_per_second"]


def together(options, work):
    """The sum of work(0), work(1), … at the same time."""
    with concurrent.futures.ThreadPoolExecutor(options.processes) as pool:
        return sum(pool.map(work, range(options.processes)))


def peak(directory):
    """GFLOP/s of one core."""
    program = pathlib.Path(directory) / "fma_peak"
    run(["c++", "-O3", "-march=native", "-ffp-contract=fast", "-std=c++20", HERE / "fma_peak.cc", "-o", program])
    return float(run([program]).split()[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--depth", type=int, nargs="+", default=[8], choices=MACS)
    parser.add_argument("--bits", type=int, nargs="+", default=[32, 4, 2, 1])
    parser.add_argument("--teacher", type=int, nargs=2, metavar=("DEPTH", "BITS"))
    parser.add_argument("--images", type=int, default=3072)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    options.tcmalloc = ctypes.util.find_library("tcmalloc_minimal")
    if options.tcmalloc is None:
        sys.exit("libtcmalloc-minimal4 is missing; run deploy/setup.sh --bench")
    with tempfile.TemporaryDirectory() as directory:
        core = peak(directory)
        print(f"batch {options.batch_size}, {options.threads} thread(s) in each of {options.processes} process(es), medians of "
              f"{options.rounds} rounds, images/s; peak {core:.0f} GFLOP/s a core"
              + (f"; teacher resnet{options.teacher[0]}, {options.teacher[1]} bits" if options.teacher else ""))
        print(f"{'':>14} {'fused':>7} {'eager':>7} {'NCHW':>7} {'tuned':>7} {'/ NCHW':>7} {'/ tuned':>7} {'of peak':>8}")
        teacher = None
        if options.teacher:
            train(options, *options.teacher, "auto", None, f"{directory}/teacher")
            teacher = f"{directory}/teacher/model.safetensors"
        for depth in options.depth:
            for bits in options.bits:
                rounds = []
                for _ in range(options.rounds):
                    rounds.append([
                        together(options, lambda i, b=bits, d=depth: train(options, d, b, "fused", teacher, f"{directory}/{i}")),
                        together(options, lambda i, b=bits, d=depth: train(options, d, b, "eager", teacher, f"{directory}/{i}")),
                        together(options, lambda i, b=bits, d=depth: eager(options, d, b, False)),
                        together(options, lambda i, b=bits, d=depth: eager(options, d, b, True))])
                rates = [statistics.median(column) for column in zip(*rounds)]
                ratios = [statistics.median(row[0] / row[k] for row in rounds) for k in (2, 3)]
                flops = 2 * (3 * MACS[depth] - FIRST_MACS) * rates[0]
                share = flops / (core * 1e9 * options.threads * options.processes)
                print(f"resnet{depth:<3} w{bits}a{bits:<3} {rates[0]:>7.0f} {rates[1]:>7.0f} {rates[2]:>7.0f} {rates[3]:>7.0f} "
                      f"{ratios[0]:>7.2f} {ratios[1]:>7.2f} {share:>7.0%}" + (" *" if teacher else ""), flush=True)
        if teacher:
            print("* without the teacher's own multiply-adds")


if __name__ == "__main__":
    sys.exit(main())
