"""A study under faults: real server, two real workers with their trainers, and a bad network between them.

The script of faults is a function of its seed. What happens under it is not: it depends on the machine's timing, which is the
point. What must come out does not depend on anything.
"""
import dataclasses
import functools
import hashlib
import heapq
import os
import pathlib
import random
import signal
import socket
import sqlite3
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))
from processes import descendants_named, kill, sha256_of  # noqa: E402

import crash_points  # noqa: E402
from proxy import Proxy  # noqa: E402

LEASE = 2.0
LOST_AFTER = LEASE + LEASE / 9 + 10 / 3  # Lease and margin, as the server counts them.
WORKERS = ("left", "right")

# Four jobs; every round is another seed, so that nothing is taken from an earlier one.
STUDY = """experiment: faults-{round}
defaults:
  model: resnet8
  dataset: synthetic
  synthetic: {{train_images: 384, test_images: 96, seed: 1}}
  validation: 64
  epochs: {epochs}
  batch_size: 32
  augment: []
  schedule: cosine
  distill: {{temperature: 2, weight: 0.5}}
  seed: {round}
  retries: 100
jobs:
  alone:
    sweep: {{bits: [32, 2]}}
  assisted:
    ladder: {{bits: [32, 4, 1]}}
"""
JOBS_PER_ROUND = 4
EPOCHS = 5


@dataclasses.dataclass
class Fault:
    gap: float  # Seconds after the fault before it.
    what: str
    target: str  # "server", a worker, or "submit" for the proxy of whoever submits.
    detail: object = None
    seconds: float = 0.0  # How long it lasts.
    ending: str = ""

    def __str__(self):
        parts = [self.what, self.target]
        if self.detail is not None:
            parts.append(str(self.detail))
        if self.seconds:
            parts.append(f"for {self.seconds:.1f} s")
        if self.ending:
            parts.append(f"then {self.ending}")
        return " ".join(parts)


def script(seed, count):
    """The faults of a seed. A longer script begins like a shorter one."""
    draw = random.Random(seed)
    faults = []
    for _ in range(count):
        gap = draw.uniform(0.1, 1.4)
        kind = draw.choices(("kill", "point", "pause", "network"), weights=(25, 40, 12, 23))[0]
        worker = draw.choice(WORKERS)
        if kind == "kill":
            program = draw.choice(("server", "worker", "trainer"))
            fault = Fault(gap, f"kill_{program}", "server" if program == "server" else worker)
        elif kind == "point":
            program = draw.choice(("server", "worker", "trainer"))
            name = draw.choice(sorted(crash_points.POINTS[f"bitrung-{program}"]))
            fault = Fault(gap, f"kill_{program}_at", "server" if program == "server" else worker, (name, draw.choice((1, 1, 1, 2, 5))))
        elif kind == "pause":
            program = draw.choice(("server", "worker", "worker", "trainer"))
            long = program == "worker" and draw.random() < 0.5  # Its attempts are given to the other worker.
            seconds = draw.uniform(LOST_AFTER, LOST_AFTER + 2) if long else draw.uniform(0.3, LEASE)
            fault = Fault(gap, f"pause_{program}", "server" if program == "server" else worker, None, seconds)
        else:
            target = draw.choice(WORKERS + ("submit",))
            what = draw.choice(("cut", "half_close", "silence", "silence", "delay", "bandwidth"))
            fault = Fault(gap, what, target)
            if what == "half_close":
                fault.detail = draw.choice(("up", "down"))
            elif what == "silence":
                fault.detail = draw.choice((("up",), ("down",), ("up", "down")))
                fault.seconds = draw.uniform(0.5, 2.5) if draw.random() < 0.7 else draw.uniform(LOST_AFTER, LOST_AFTER + 2)
                fault.ending = draw.choice(("heal", "cut"))
            elif what == "delay":
                fault.detail, fault.seconds = round(draw.uniform(0.02, 0.5), 2), draw.uniform(1, 4)
            elif what == "bandwidth":
                fault.detail, fault.seconds = draw.choice((10_000, 50_000, 200_000)), draw.uniform(1, 4)
        faults.append(fault)
    return faults


class World:
    """Server, workers and proxies in the directory of a test, a BitrungTest. One thread."""

    def __init__(self, test, name, library=None):
        """`library` is the one of fail_points.cc; without it nothing is preloaded and there are no proxies."""
        self.test = test
        self.directory = test.directory / name
        self.state = self.directory / "server"
        self.directory.mkdir()
        self.library = library
        self.began = time.monotonic()
        self.quiet = library is None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.processes, self.controls, self.proxies = {}, {}, {}
        self.begun = 0
        self.endings = []  # (when, number, what): how faults that last end.
        self.reached, self.not_reached = {}, {}
        self.restarts = {"server": 0, **dict.fromkeys(WORKERS, 0)}
        self.finished = {}  # Succeeded jobs that were seen: they never change.
        cores = sorted(os.sched_getaffinity(0))
        self.core_of = {worker: cores[i % len(cores)] for i, worker in enumerate(WORKERS)}
        if library is not None:
            for target in ("server",) + WORKERS:
                points = self.directory / f"points-{target}"
                points.mkdir()
                programs = ("bitrung-server",) if target == "server" else ("bitrung-worker", "bitrung-trainer")
                self.controls[target] = {program: crash_points.Control(points, program) for program in programs}
            self.proxies = {target: Proxy(self.port) for target in WORKERS + ("submit",)}
        test.init_server(self.state)
        self.start("server")
        self.wait(lambda: "listening on " in (self.directory / "server.log").read_text(), "the server listens", 120)
        for worker in WORKERS:
            test.enrol(self.state, f"127.0.0.1:{self.port}", worker, self.directory / worker)
            self.start(worker)

    def say(self, text):
        print(f"[{time.monotonic() - self.began:6.1f} s] {text}", file=sys.stderr, flush=True)

    # ---- processes

    def address(self, who):
        return f"127.0.0.1:{self.proxies[who].port if who in self.proxies else self.port}"

    def start(self, who):
        environment = {}
        if self.library is not None:
            environment = {"LD_PRELOAD": str(self.library), "FAIL_POINTS": str(self.directory / f"points-{who}")}
        if who == "server":
            process = self.test.start_quietly("bitrung-server", "--state-dir", self.state, "--listen", f"127.0.0.1:{self.port}",
                                              "--lease", LEASE, env=environment, log=self.directory / "server.log")
        else:
            # One core each: equal numbers of threads give equal bits, whoever trains.
            process = self.test.start_quietly("bitrung-worker", "--server", self.address(who), "--state-dir", self.directory / who,
                                              "--name", who, "--slots", "1",
                                              env=environment, log=self.directory / f"{who}.log",
                                              cores={self.core_of[who]})
        self.processes[who] = process

    def supervise(self):
        """Ends faults whose time is over and starts again what was killed; whatever ended by itself breaks a promise.

        To be called by everything that waits: what it waits for may need the end of a fault."""
        while self.endings and self.endings[0][0] <= time.monotonic():
            heapq.heappop(self.endings)[2]()
        for who, process in list(self.processes.items()):
            code = process.poll()
            if code is None:
                continue
            log = (self.directory / f"{who}.log").read_text(errors="replace").splitlines()
            # A worker cannot begin without its trainer's list of devices; whoever started it starts it again.
            if code != -signal.SIGKILL and not log[-1].endswith("--inventory was killed by SIGKILL"):
                raise AssertionError(f"{who} ended by itself with {code}; its last lines:\n" + "\n".join(log[-15:]))
            self.restarts[who] += 1
            self.start(who)

    def wait(self, fact, what, seconds):
        deadline = time.monotonic() + seconds
        while True:
            self.supervise()
            value = fact()
            if value:
                return value
            if time.monotonic() > deadline:
                raise AssertionError(f"{what}: not within {seconds} s\n{self.picture()}")
            time.sleep(0.02)  # The pause between two looks at the outside.

    def picture(self):
        lines = [f"{row['name']}: {row['state']} attempt {row['attempt']} {row['failure_class']} {row['error']}"
                 for row in self.query("select name, state, attempt, failure_class, error from job where state <> 'succeeded'")]
        for who in self.processes:
            log = self.directory / f"{who}.log"
            lines += [f"--- {who}"] + (log.read_text(errors="replace").splitlines()[-8:] if log.exists() else [])
        return "\n".join(lines)

    def stop(self):
        while self.endings:
            heapq.heappop(self.endings)[2]()
        for proxy in self.proxies.values():
            proxy.close()
        self.proxies = {}
        for who in WORKERS + ("server",):
            self.processes[who].terminate()
        for who in WORKERS + ("server",):
            code = self.processes[who].wait(timeout=60)
            assert code == 0, f"{who} was asked to stop and ended with {code}"

    # ---- faults

    def process_ids(self, what, target):
        """The processes that a fault is for."""
        process = self.processes[target]
        if "trainer" not in what:
            return [process.pid]
        return descendants_named(process.pid, "bitrung-trainer")

    def end_after(self, seconds, what):
        self.begun += 1  # Faults of equal times end in the order of their beginning.
        heapq.heappush(self.endings, (time.monotonic() + seconds, self.begun, what))

    def go_on(self, pid):
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            pass

    def begin(self, fault):
        """Begins a fault, and sees to its end."""
        proxy = self.proxies.get(fault.target)
        if fault.what.endswith("_at"):
            self.kill_at(fault)
        elif fault.what.startswith("kill"):
            for pid in self.process_ids(fault.what, fault.target):
                kill(pid)
        elif fault.what.startswith("pause"):
            for pid in self.process_ids(fault.what, fault.target):
                os.kill(pid, signal.SIGSTOP)
                self.end_after(fault.seconds, functools.partial(self.go_on, pid))
        elif fault.what == "cut":
            proxy.cut()
        elif fault.what == "half_close":
            proxy.half_close(fault.detail)
        elif fault.what == "silence":
            proxy.silence(*fault.detail)

            def end():
                if fault.ending == "cut":
                    proxy.cut()
                proxy.silence()
            self.end_after(fault.seconds, end)
        elif fault.what == "delay":
            proxy.delay(fault.detail)
            self.end_after(fault.seconds, lambda: proxy.delay(0))
        elif fault.what == "bandwidth":
            proxy.bandwidth(fault.detail)
            self.end_after(fault.seconds, lambda: proxy.bandwidth(None))

    def kill_at(self, fault):
        """Waits until a process dies at the point, or for so long that the point is not reached now."""
        program = "bitrung-" + fault.what.removeprefix("kill_").removesuffix("_at")
        name, countdown = fault.detail
        control = self.controls[fault.target][program]
        control.arm(name, countdown)
        deadline = time.monotonic() + 5
        while control.armed() and time.monotonic() < deadline:
            self.supervise()
            time.sleep(0.005)  # The pause between two looks at the outside.
        hit = not control.armed()
        control.disarm()
        counts = self.reached if hit else self.not_reached
        counts[f"{program}:{name}"] = counts.get(f"{program}:{name}", 0) + 1
        self.say(f"    {'killed there' if hit else 'not reached'}")

    # ---- the study

    def write_round(self, number):
        file = self.directory / f"faults-{number}.yaml"
        file.write_text(STUDY.format(round=number, epochs=EPOCHS))
        return file

    def submit(self, number, patience=120):
        """Until the submit is acknowledged. The command keeps its request id, so a repeated one is the same submit."""
        file = self.write_round(number)
        deadline = time.monotonic() + patience
        while True:
            done = self.test.bitrung_process("submit", file, "--server", self.address("submit"), "--login", self.state / "admin.login",
                                             env={"XDG_STATE_HOME": str(self.directory / "client"), "HOME": str(self.directory)})
            while done.poll() is None:
                self.supervise()
                time.sleep(0.02)  # The pause between two looks at the outside.
            out, err = done.communicate()
            if done.returncode == 0:
                return
            if done.returncode != 7 or time.monotonic() > deadline:  # 7: unreachable.
                raise AssertionError(f"bitrung submit ended with {done.returncode}: {out}{err}")

    def query(self, sql, *parameters):
        with sqlite3.connect(f"file:{self.state}/bitrung.db?mode=ro", uri=True, timeout=30) as database:
            database.row_factory = sqlite3.Row
            return [dict(row) for row in database.execute(sql, parameters)]

    def unfinished(self):
        return self.query("select count(*) as n from job where state not in ('succeeded', 'failed', 'cancelled', 'skipped')")[0]["n"]

    def look(self):
        """What has succeeded is final: compares with what was seen before."""
        for row in self.query("select id, attempt, hex(artifact_sha256) as artifact, test_accuracy from job where state = 'succeeded'"):
            seen = self.finished.setdefault(row["id"], row)
            assert seen == row, f"the result of job {row['id']} was {seen} and is {row}"

    # ---- what came out

    def check(self, rounds):
        """The promises about what is stored; raises AssertionError."""
        check = self.test
        check.assertEqual(self.query("pragma integrity_check"), [{"integrity_check": "ok"}])
        self.look()
        experiments = self.query("select name from experiment order by name")
        check.assertEqual([row["name"] for row in experiments], sorted(f"faults-{n}" for n in range(1, rounds + 1)),
                          "an acknowledged submit is there once")
        jobs = self.query("select id, name, state, error, failure_class from job")
        check.assertEqual(len(jobs), rounds * JOBS_PER_ROUND)
        check.assertEqual([job for job in jobs if job["state"] != "succeeded"], [])
        winners = self.query("select job_id, count(*) as n from attempt where state = 'succeeded' group by job_id")
        check.assertEqual({row["job_id"]: row["n"] for row in winners}, {job["id"]: 1 for job in jobs}, "one winner each")
        check.assertEqual(self.query("select * from attempt where state in ('offered', 'running')"), [])
        # Stored exactly once, without gaps.
        for row in self.query("select a.job_id, a.attempt, a.point_watermark, a.line_watermark, "
                              "(select coalesce(sum(point_count), 0) from series s where s.job_id = a.job_id and s.attempt = a.attempt)"
                              " as points, (select count(*) from log_line l where l.job_id = a.job_id and l.attempt = a.attempt) as lines "
                              "from attempt a"):
            check.assertEqual((row["points"], row["lines"]), (row["point_watermark"], row["line_watermark"]), row)
        check.assertEqual(self.query("select job_id, attempt, series, step, count(*) as n from metrics "
                                     "group by job_id, attempt, series, step having n > 1"), [])
        # Bytes are what their names say, and nothing that is referred to is missing.
        present = set()
        for file in (self.state / "artifacts").glob("[0-9a-f][0-9a-f]/*"):
            check.assertEqual(sha256_of(file), file.name)
            present.add(file.name)
        check.assertFalse((self.state / "artifacts" / "damaged").exists())
        for row in self.query("select lower(hex(artifact_sha256)) as artifact from job union select lower(hex(resume_sha256)) from job "
                              "where resume_sha256 is not null"):
            check.assertIn(row["artifact"], present)

    def outcome(self):
        """Everything that must not depend on faults, by the job's full name: bits of weights, of results, of every point."""
        results = {}
        for job in self.query("select e.name || '/' || j.name as name, j.id, hex(j.artifact_sha256) as artifact, j.test_accuracy, "
                              "j.validation_accuracy, j.test_loss, j.best_epoch from job j join experiment e on e.id = j.experiment_id"):
            points = {}
            for point in self.query("select attempt, series, step, value from metrics where job_id = ? order by attempt", job["id"]):
                value = None if point["series"] == "images_per_second" else point["value"]  # A speed is no result.
                at = (point["series"], point["step"])
                if points.setdefault(at, value) != value:
                    raise AssertionError(f"{job['name']}: {at} is {points[at]!r}, and {value!r} in attempt {point['attempt']}")
            facts = {key: job[key] for key in job if key not in ("name", "id")}
            results[job["name"]] = facts | {"points": points}
        return results


def digest_of(outcome):
    text = repr(sorted((name, sorted(facts["points"].items()), facts["artifact"]) for name, facts in outcome.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def run(test, seed, count, library):
    """Raises AssertionError with whatever promise is broken."""
    world = World(test, "faults", library)
    rounds = 0

    def study():
        # Before a round has ended, the next one: there is always something to lose.
        nonlocal rounds
        if world.unfinished() < JOBS_PER_ROUND // 2:
            rounds += 1
            world.say(f"submit round {rounds}")
            world.submit(rounds)
    study()
    world.wait(lambda: world.query("select 1 from job where state = 'running'"), "the first job runs", 120)

    for number, fault in enumerate(script(seed, count), 1):
        due = time.monotonic() + fault.gap
        while time.monotonic() < due:
            world.supervise()
            time.sleep(0.01)  # The pause between two looks at the outside.
        world.look()
        study()
        world.say(f"fault {number}/{count}: {fault}")
        world.begin(fault)
    # Faults off: everything comes to rest.
    world.wait(lambda: not world.endings, "the last fault ends", 60)
    for proxy in world.proxies.values():
        proxy.heal()
    world.say("faults off")
    world.wait(lambda: world.unfinished() == 0, "every job ends", 240)
    world.say(f"all ended; restarts {world.restarts}")
    world.stop()
    world.check(rounds)
    found = world.outcome()

    calm = World(test, "undisturbed")
    for number in range(1, rounds + 1):
        calm.submit(number)
    calm.wait(lambda: calm.unfinished() == 0, "the undisturbed study ends", 120 + 60 * rounds)
    calm.stop()
    calm.check(rounds)
    expected = calm.outcome()
    for name, facts in expected.items():
        points = facts["points"]
        got = found[name]["points"]
        test.assertEqual(sorted(points.keys() - got.keys()), [], f"{name}: points that were measured are not stored")
        test.assertEqual(sorted(got.keys() - points.keys()), [], f"{name}: points that nobody measured")
        test.assertEqual({at: (points[at], got[at]) for at in points if points[at] != got[at]}, {}, f"{name}: other numbers")
        test.assertEqual(found[name], facts, name)
    test.assertEqual(found.keys(), expected.keys())
    attempts = world.query("select state, failure_class, count(*) as n from attempt group by 1, 2 order by 1, 2")
    world.say(f"{rounds} rounds of {JOBS_PER_ROUND} jobs; attempts: " +
              ", ".join(f"{row['n']} {row['state']} {row['failure_class']}" for row in attempts))
    world.say(f"{sum(world.reached.values())} killed at {len(world.reached)} of the named points; not reached "
              f"{sum(world.not_reached.values())} times: {', '.join(sorted(world.not_reached)) or 'none'}")
    world.say(f"points and weights as in an undisturbed run: {digest_of(found)}")
    return world
