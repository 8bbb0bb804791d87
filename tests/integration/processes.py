"""Starts the real programs for the tests, and looks at what they left behind.

Nothing here waits by sleeping for a guessed time: a test waits for a line of a program's output, for the end of a
process, or for a fact in the database, each with a deadline that fails the test.
"""
import json
import os
import pathlib
import queue
import select
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import threading
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("BITRUNG_BIN", ROOT / "build/release/bin")).resolve()
EXAMPLES = ROOT / "deploy" / "examples"

# The ladder, small enough for a test: 2 epochs of 1,024 images.
SMALL = [
    "--set", "defaults.synthetic={train_images: 1024, test_images: 256, seed: 1}",
    "--set", "defaults.epochs=2",
    "--set", "defaults.batch_size=64",
    "--set", "defaults.validation=128",
]

# Without settings and logins of whoever runs the tests.
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("BITRUNG_")} | {
    "NO_COLOR": "1", "XDG_CONFIG_HOME": "/nonexistent"}


def command(program, *arguments):
    return [str(BIN / program), *map(str, arguments)]


def children_of(pid):
    """Process ids of the children of a process."""
    found = []
    try:
        for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    except FileNotFoundError:
        pass
    return found


def name_of(pid):
    try:
        return pathlib.Path(os.readlink(f"/proc/{pid}/exe")).name
    except OSError:
        return ""


def descendants_named(pid, name):
    """Descendants of a process whose program has this name."""
    found, queue_ = [], [pid]
    while queue_:
        for child in children_of(queue_.pop()):
            queue_.append(child)
            if name_of(child) == name:
                found.append(child)
    return found


class Lines:
    """Lines of a stream, read by a thread so that a test can wait for one with a deadline."""

    def __init__(self, stream):
        self.seen = []
        self._queue = queue.Queue()
        self._thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._thread.start()

    def _read(self, stream):
        for line in stream:
            self._queue.put(line.rstrip("\n"))
        self._queue.put(None)

    def wait_for(self, text, seconds=120):
        """The next line that contains the text."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                line = self._queue.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no line with {text!r} within {seconds} s; got {self.seen[-20:]}") from None
            if line is None:
                raise AssertionError(f"the program ended before it said {text!r}; it said {self.seen[-20:]}")
            self.seen.append(line)
            if text in line:
                return line


class BitrungTest(unittest.TestCase):
    """A temporary directory, the programs, and the database."""

    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="bitrung-test-"))
        self.state = self.directory / "state"
        self._processes = []
        self.addCleanup(self._clean)

    def _clean(self):
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            for stream in (process.stdout, process.stderr):
                if stream:
                    stream.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    # ---- programs

    def bitrung(self, *arguments, expect=0, timeout=300, state=None, cwd=None, env=None):
        """Runs the command line to its end; returns the finished process."""
        words = list(arguments)
        if state is not False:
            words += ["--state-dir", state or self.state]
        done = subprocess.run(command("bitrung", *words), capture_output=True, text=True, timeout=timeout,
                              cwd=cwd or self.directory, env=ENVIRONMENT | (env or {}))
        if expect is not None:
            self.assertEqual(done.returncode, expect, f"bitrung {' '.join(map(str, words))}\n{done.stdout}\n{done.stderr}")
        return done

    def start(self, program, *arguments, env=None):
        """Starts a program; its standard output and error are pipes of text."""
        process = subprocess.Popen(command(program, *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                   cwd=self.directory, env=ENVIRONMENT | (env or {}), start_new_session=True)
        self._processes.append(process)
        return process

    def start_server(self, *extra, address=None):
        """Starts a server on the state directory; returns the process and the address it listens on."""
        server = self.start("bitrung-server", "--state-dir", self.state, "--listen",
                            address or f"unix:{self.state}/server.sock", *extra)
        server.errors = Lines(server.stderr)
        line = Lines(server.stdout).wait_for("listening on ", 60)
        return server, line.split("listening on ", 1)[1]

    def init_server(self, state=None, address="127.0.0.1:7420"):
        """Gives the state directory an authority and its first token, so that its server may listen on TCP."""
        done = subprocess.run(command("bitrung-server", "init", "--state-dir", state or self.state, "--address", address),
                              capture_output=True, text=True, env=ENVIRONMENT, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        return (state or self.state) / "admin.login"

    def enrol(self, state, address, name, directory):
        """Gets the worker its certificate, by the two commands that people use."""
        enrolment = pathlib.Path(f"{directory}.enrolment")
        self.bitrung("enrol", name, "--out", enrolment, "--server", address, "--login", state / "admin.login", state=False)
        done = subprocess.run(command("bitrung-worker", "enrol", enrolment, "--server", address, "--state-dir", directory),
                              capture_output=True, text=True, env=ENVIRONMENT, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)

    def start_worker(self, address, name, *extra):
        directory = self.directory / f"worker-{name}"
        if not address.startswith("unix:") and not (directory / "identity").exists():
            self.enrol(self.state, address, name, directory)
        worker = self.start("bitrung-worker", "--server", address, "--state-dir", directory, "--name", name, *extra)
        worker.errors = Lines(worker.stderr)
        return worker

    def finish(self, process, seconds=300):
        """Waits for the end; returns code, output and error text."""
        out, err = process.communicate(timeout=seconds)
        return process.returncode, out, err

    # ---- facts

    def query(self, sql, *parameters, state=None):
        with sqlite3.connect(f"file:{state or self.state}/bitrung.db?mode=ro", uri=True, timeout=30) as database:
            database.row_factory = sqlite3.Row
            return [dict(row) for row in database.execute(sql, parameters)]

    def wait_until(self, fact, what, seconds=120):
        """Waits for a fact that only the outside can see, e.g. in the database or in /proc."""
        deadline = time.monotonic() + seconds
        while True:
            value = fact()
            if value:
                return value
            if time.monotonic() > deadline:
                raise AssertionError(f"{what}: not within {seconds} s")
            select.select([], [], [], 0.02)

    def results(self, experiment, state=None):
        return json.loads(self.bitrung("results", experiment, "--output", "json", state=state).stdout)

    def check_consistent(self, state=None):
        """What must hold after any fault: one winner per succeeded job, every series complete, every artifact intact."""
        self.assertEqual(self.query("pragma integrity_check", state=state)[0]["integrity_check"], "ok")
        winners = self.query("select job_id, count(*) as n from attempt where state = 'succeeded' group by job_id", state=state)
        self.assertTrue(all(row["n"] == 1 for row in winners), winners)
        jobs = self.query("select id as job_id, epochs, cached_from from job where state = 'succeeded'", state=state)
        for job in jobs:
            if job["cached_from"] is not None:
                continue
            # The epochs of all attempts together: a later attempt repeats none that an earlier one's checkpoint holds.
            steps = self.query("select distinct step from metrics where job_id = ? and series = 'test_accuracy'", job["job_id"],
                               state=state)
            self.assertEqual(len(steps), job["epochs"], f"job {job['job_id']} lacks an epoch's accuracy: {steps}")
        return {row["job_id"] for row in winners}


def sha256_of(path):
    import hashlib
    return hashlib.sha256(path.read_bytes()).hexdigest()


def kill(pid):
    os.kill(pid, signal.SIGKILL)
