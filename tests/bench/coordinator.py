#!/usr/bin/env python3
"""Benchmarks of the coordinator: the real server, a real worker without trainers, TCP, every result durable.

  tests/bench/coordinator.py [--bin DIR] [--rows flat,chain,...] [--peers DIR] [--json FILE] [--quick]

Prints one line per measurement: what was measured, our figure, the figure that is wanted; then the machine's floors and,
with --peers, other systems on the same machine in the same run. README.md beside this file says what each row is and
keeps the results. Nothing fails for being slow: the exit code is 0 unless a program failed.
"""
import argparse
import contextlib
import json
import os
import pathlib
import platform
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
SLOTS = 512
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("BITRUNG_")}


def first_line(stream, text, seconds):
    """Reads lines until one has the text."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not select.select([stream], [], [], 0.05)[0]:
            continue
        line = stream.readline()
        if not line or text in line:
            return line
    raise RuntimeError(f"no {text!r} within {seconds} s")


class Cluster:
    """A server in a fresh state directory, and its worker."""

    def __init__(self, options, directory):
        self.options, self.directory = options, pathlib.Path(directory)
        self.state = self.directory / "server"
        self.address = "127.0.0.1:0"
        self.server = self.worker = None
        subprocess.run([self.options.bin / "bitrung-server", "init", "--state-dir", self.state, "--address", "127.0.0.1:7420"],
                       check=True, stdout=subprocess.DEVNULL, env=ENVIRONMENT)
        self.login = self.state / "admin.login"
        # Control and simulated workers come by the owner's socket: tokens have so many calls a second, and each worker
        # would want a certificate of its own. The jobs, and what the worker says of them, go over TLS.
        self.socket = f"unix:{self.state}/server.sock"

    def start_server(self):
        """Starts it and returns the seconds until it listens."""
        start = time.monotonic()
        errors = open(self.directory / "server.log", "a")
        self.server = subprocess.Popen([self.options.bin / "bitrung-server", "--state-dir", self.state, "--listen", self.address,
                                        "--listen", self.socket, "--log-level", "warn"], stdout=subprocess.PIPE, stderr=errors, text=True, env=ENVIRONMENT)
        line = first_line(self.server.stdout, "listening on", 120)
        if "listening on" not in line:
            raise RuntimeError(f"the server did not start: {(self.directory / 'server.log').read_text()[-2000:]}")
        self.address = line.split("listening on ", 1)[1].strip()
        return time.monotonic() - start

    def start_worker(self, slots=SLOTS, points=0):
        errors = open(self.directory / "worker.log", "a")
        enrolment = self.directory / "bench.enrolment"
        if not enrolment.exists():
            subprocess.run([self.options.bin / "bitrung", "enrol", "bench", "--out", enrolment, "--server", self.address, "--login",
                            self.login], check=True, stdout=subprocess.DEVNULL, env=ENVIRONMENT)
            subprocess.run([self.options.bin / "bitrung-worker", "enrol", enrolment, "--server", self.address, "--state-dir",
                            self.directory / "worker"], check=True, stdout=subprocess.DEVNULL, env=ENVIRONMENT)
        self.worker = subprocess.Popen([self.options.bin / "bitrung-worker", "--server", self.address, "--state-dir",
                                        self.directory / "worker", "--name", "bench", "--no-op", "--slots", str(slots),
                                        "--no-op-points", str(points), "--log-level", "warning"], stdout=errors, stderr=errors, env=ENVIRONMENT)

    def bench(self, *arguments, background=False):
        command = [self.options.bin / "coordinator_bench", "--server", self.socket, *map(str, arguments)]
        if background:
            return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
        done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=900)
        if done.returncode != 0:
            logs = "".join((self.directory / f"{name}.log").read_text()[-1000:] for name in ("server", "worker")
                           if (self.directory / f"{name}.log").exists())
            raise RuntimeError(f"{' '.join(map(str, arguments))}: {done.stderr}{logs}")
        return json.loads(done.stdout)

    def query(self, sql):
        with contextlib.closing(sqlite3.connect(f"file:{self.state}/bitrung.db?mode=ro", uri=True, timeout=60)) as database:
            return database.execute(sql).fetchone()

    def kill_server(self):
        self.server.send_signal(signal.SIGKILL)
        self.server.wait()

    def rss(self):
        for line in pathlib.Path(f"/proc/{self.server.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        return 0

    def stop(self):
        for process in (self.worker, self.server):
            if process and process.poll() is None:
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


@contextlib.contextmanager
def cluster(options):
    with tempfile.TemporaryDirectory(prefix="bitrung-bench-", dir=options.dir) as directory:
        running = Cluster(options, directory)
        try:
            running.start_server()
            yield running
        finally:
            running.stop()


class Table:
    def __init__(self):
        self.rows = []

    def add(self, row, what, ours, wanted, **details):
        load = os.getloadavg()[0]
        self.rows.append({"row": row, "what": what, "ours": ours, "wanted": wanted, "load": load, **details})
        print(f"{what:<58} {ours:>26}   {wanted:<30} load {load:.1f}", flush=True)

    def note(self, text):
        print(text, flush=True)


def milliseconds(seconds):
    return f"{seconds * 1e3:,.1f} ms"


def row_flat(options, table):
    count = 2000 if options.quick else 10_000
    with cluster(options) as c:
        c.start_worker()
        best = max((c.bench("flat", "--jobs", count) for _ in range(3)), key=lambda run: run["run_jobs_per_s"])
    table.add("flat", f"{count:,} independent jobs, from the submit's answer", f"{best['run_jobs_per_s']:,.0f} jobs/s",
              ">= 20,000 jobs/s", **best)
    table.add("flat", "  the same, the submit included", f"{best['total_jobs_per_s']:,.0f} jobs/s", "")


def row_layered(options, table):
    layers = 20 if options.quick else 100
    with cluster(options) as c:
        c.start_worker()
        best = max((c.bench("layered", "--layers", layers, "--width", 100) for _ in range(3)),
                   key=lambda run: run["run_jobs_per_s"])
    table.add("layered", f"layered graph {layers} x 100, two parents each", f"{best['run_jobs_per_s']:,.0f} jobs/s",
              ">= 15,000 jobs/s", **best)


def row_chain(options, table):
    length = 200 if options.quick else 2000
    with cluster(options) as c:
        c.start_worker(slots=2)
        run = c.bench("chain", "--jobs", length)
        c.stop()
        with contextlib.closing(sqlite3.connect(c.state / "bitrung.db")) as database:
            lost = database.execute("SELECT count(*) FROM attempt WHERE state <> 'succeeded'").fetchone()[0]
        trace = sorted(int(line.split()[1]) for line in (c.directory / "worker" / "no-op.trace").read_text().splitlines()
                       if int(line.split()[0]) > 100)
    links = sorted((b - a) / 1e6 for a, b in zip(trace, trace[1:]))
    p50, p99 = links[len(links) // 2], links[len(links) * 99 // 100]
    table.add("chain", f"chain of {length:,}, per link, p50", milliseconds(p50 / 1e3), "<= 1 ms", p99_ms=p99, p50_ms=p50,
              failed_attempts=lost, **run)
    table.add("chain", "  p99", milliseconds(p99 / 1e3), "<= 5 ms")


def row_core(options, table):
    run = json.loads(subprocess.run([options.bin / "core_bench"], capture_output=True, text=True, check=True).stdout)
    table.add("core", "core alone, independent jobs", f"{run['flat_transitions_per_s']:,} /s", ">= 500,000 transitions/s", **run)
    table.add("core", "core alone, layered graph", f"{run['layered_transitions_per_s']:,} /s", ">= 500,000 transitions/s")
    table.add("memory", "memory per waiting job, core's heap, 100,000 jobs", f"{run['waiting_job_bytes_100k']:,} B", "<= 512 B")
    table.add("memory", "  a million jobs", f"{run['waiting_job_bytes_1m']:,} MB", "< 600 MB")


def row_submit(options, table):
    """Plan, submit, memory, restart, run through a restart, and the same again from the cache."""
    count = 5000 if options.quick else 100_000
    with cluster(options) as c:
        c.bench("submit", "--jobs", 100)
        before = c.rss()
        first = c.bench("submit", "--jobs", count)
        table.add("submit", f"plan and submit {count:,} jobs", f"{first['total_s']:.2f} s", "<= 2 s", **first)
        time.sleep(3)  # The server gives back what a large request took.
        table.add("memory", "  the server's memory grown by, per job", f"{(c.rss() - before) / count:,.0f} B", "<= 512 B")

        c.kill_server()
        table.add("restart", f"restart after kill -9 with {count:,} jobs stored", f"{c.start_server():.2f} s", "ready in <= 2 s")
        c.start_worker()
        waiting = c.bench("wait", "--experiment", first["experiment"], background=True)
        c_start = time.monotonic()
        # In the middle of the run: attempts are live, and are kept.
        while c.query("SELECT count(*) FROM job WHERE state = 'succeeded'")[0] < count // 4:
            if time.monotonic() - c_start > 600 or waiting.poll() is not None:
                raise RuntimeError("the jobs do not get done")
            time.sleep(0.05)
        waiting.kill()
        waiting.wait()
        c.kill_server()
        live = c.query("SELECT count(*) FROM attempt WHERE state IN ('offered', 'running')")[0]
        seconds = c.start_server()
        c.bench("wait", "--experiment", first["experiment"])
        repeated = c.query("SELECT count(*) FROM attempt WHERE attempt > 1")[0]
        # Offers that were on disk but had not left are made again when the worker comes back without them.
        table.add("restart", f"  in mid-run; {live} attempts live, {repeated} were not at the worker yet", f"{seconds:.2f} s",
                  "ready in <= 2 s, others kept", live=live, offered_again=repeated)
        again = c.bench("submit", "--jobs", count, "--seed", first["seed"])
        if again["cached"] != count:
            raise RuntimeError(f"only {again['cached']} of {count} jobs came from the cache")
        table.add("submit", "plan and submit the same again, all cached", f"{again['total_s']:.2f} s", "<= 1 s", **again)


def row_million(options, table):
    """What the server keeps in memory for jobs that wait, ten times the largest experiment."""
    experiments, count = (2, 5000) if options.quick else (10, 100_000)
    with cluster(options) as c:
        before = c.rss()
        for _ in range(experiments):
            c.bench("submit", "--jobs", count)
        time.sleep(3)  # The server gives back what a large request took.
        grown = c.rss() - before
    table.add("million", f"{experiments * count:,} jobs wait: the server's memory grown by", f"{grown / 1e6:,.0f} MB", "< 600 MB")
    table.add("million", "  per job", f"{grown / experiments / count:,.0f} B", "<= 512 B")


def row_points(options, table):
    jobs, points = (64, 10_000) if options.quick else (500, 20_000)
    with cluster(options) as c:
        c.start_worker(slots=64, points=points)
        run = c.bench("points", "--jobs", jobs, "--points", points)
        stored = c.query("SELECT sum(point_count) FROM series WHERE name <> 'probe'")[0]
    if stored != jobs * points:
        raise RuntimeError(f"{stored} points are stored, {jobs * points} were sent")
    table.add("points", f"{jobs * points:,} metric points end to end", f"{run['points_per_s']:,.0f} points/s",
              ">= 1,000,000 points/s", **run)
    table.add("points", "  a reader sees one meanwhile after, at most", milliseconds(run["seen_max_s"]), "<= 250 ms")


def row_series(options, table):
    jobs, points = (200, 500) if options.quick else (2000, 500)
    with cluster(options) as c:
        c.start_worker(slots=256, points=4 * points)
        run = c.bench("flat", "--jobs", jobs)
        read = c.bench("series", "--experiment", run["experiment"])
    if read["points"] != jobs * points:
        raise RuntimeError(f"{read['points']} points were read, {jobs * points} expected")
    table.add("series", f"one metric of {jobs:,} attempts ({read['points']:,} points) read back", milliseconds(read["best_s"]),
              "<= 100 ms", **read)


def row_fleet(options, table):
    workers, seconds = (100, 5) if options.quick else (1000, 20)
    with cluster(options) as c:
        run = c.bench("fleet", "--workers", workers, "--seconds", seconds)
        lost = c.query("SELECT count(*) FROM attempt WHERE state NOT IN ('succeeded')")[0]
    table.add("fleet", f"{workers:,} simulated workers: submit p99", milliseconds(run["submit_p99_s"]), "<= 1 s", **run)
    table.add("fleet", "  sessions lost, attempts not succeeded", f"{run['sessions_lost']}, {lost}", "no false death")


ROWS = {"flat": row_flat, "layered": row_layered, "chain": row_chain, "core": row_core, "submit": row_submit,
        "million": row_million, "points": row_points, "series": row_series, "fleet": row_fleet}


def sync_floor(directory):
    """Mean and median milliseconds of a write of 8 KiB and fdatasync."""
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        os.pwrite(file.fileno(), b"\0" * (1 << 20), 0)
        os.fsync(file.fileno())
        times = []
        for i in range(200):
            os.pwrite(file.fileno(), b"\1" * 8192, i % 100 * 8192)
            start = time.monotonic()
            os.fdatasync(file.fileno())
            times.append(time.monotonic() - start)
    times.sort()
    return sum(times) / len(times) * 1e3, times[len(times) // 2] * 1e3


def run_peer(table, name, command, needs, cwd=None, timeout=300, environment=None):
    for program in needs:
        if shutil.which(program) is None:
            return table.note(f"  {name}: not run, {program} is not installed")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=cwd,
                              env=ENVIRONMENT | (environment or {}))
    except subprocess.TimeoutExpired:
        return table.note(f"  {name}: not done within {timeout} s")
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        return table.note(f"  {name}: failed: {last}")
    for line in done.stdout.splitlines():
        if line.strip():
            table.note(f"  {name}: {line.strip()}")
    return None


def run_peers(options, table):
    peers = options.peers.resolve()
    table.note("\nfloors and peers, same machine, same run")
    scratch = {"BUILD_DIR": str(pathlib.Path(options.dir or tempfile.gettempdir()) / "bitrung-peer-floors")}
    run_peer(table, "floors", ["bash", peers / "floors/build_and_run.sh", "all"], ["g++", "protoc"], environment=scratch)
    run_peer(table, "Dask", [sys.executable, peers / "dask_peer.py", "all"], [])
    with tempfile.TemporaryDirectory() as directory:
        if shutil.which("redis-server") and shutil.which("node"):
            redis = subprocess.Popen(["redis-server", "--port", "16379", "--save", "", "--dir", directory],
                                     stdout=subprocess.DEVNULL)
            for kind in ("flat", "flow"):
                run_peer(table, "BullMQ", ["node", peers / "bullmq_peer.js", "10000", "100", kind], ["node"])
            redis.terminate()
            redis.wait()
        else:
            table.note("  BullMQ: not run, redis-server or node is not installed")
    run_peer(table, "Snakemake", [sys.executable, peers / "snakemake_peer.py"], ["snakemake"])
    if shutil.which("slurmctld") and os.geteuid() == 0:
        with tempfile.TemporaryDirectory() as directory:
            scratch = {"SLURM_TEST_DIR": directory}
            for what in ("start", "bench", "stop"):
                run_peer(table, "Slurm", ["bash", peers / "slurm_peer.sh", what], ["slurmctld"], environment=scratch)
    else:
        table.note("  Slurm: not run, slurmctld is not installed or this is not root")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, default=pathlib.Path(os.environ.get("BITRUNG_BIN", ROOT / "build/release/bin")),
                        help="where the programs are (default: BITRUNG_BIN or build/release/bin)")
    parser.add_argument("--rows", default=",".join(ROWS), help="which measurements (default: all)")
    parser.add_argument("--dir", help="directory for the state, on a real disk (default: the system's for temporary files)")
    parser.add_argument("--peers", type=pathlib.Path, help="directory with the drivers of other systems and of the floors")
    parser.add_argument("--json", type=pathlib.Path, help="write everything measured there")
    parser.add_argument("--quick", action="store_true", help="small sizes: tells whether the benchmarks work, not how fast")
    options = parser.parse_args()
    options.bin = options.bin.resolve()

    table = Table()
    mean, median = sync_floor(options.dir)
    table.note(f"{time.strftime('%Y-%m-%d %H:%M')}, {platform.machine()}, {os.cpu_count()} cores, "
               f"a synced write takes {mean:.2f} ms (median {median:.2f} ms)")
    failed = False
    for name in options.rows.split(","):
        try:
            ROWS[name](options, table)
        except (RuntimeError, subprocess.SubprocessError, sqlite3.Error) as error:
            print(f"{name}: failed: {error}", flush=True)
            failed = True
    if options.peers:
        run_peers(options, table)
    mean, median = sync_floor(options.dir)
    table.note(f"at the end a synced write takes {mean:.2f} ms (median {median:.2f} ms)")
    if options.json:
        options.json.write_text(json.dumps(table.rows, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
