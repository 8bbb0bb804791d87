"""A Slurm cluster of two nodes on this machine, each with two GPUs that are none: real controller, real daemons, real jobs."""
import os
import pathlib
import re
import select
import signal
import socket
import stat
import subprocess
import time

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/none
CredType=cred/none
SlurmUser=root
SlurmdUser=root
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool-%n
SlurmctldPidFile={directory}/controller.pid
SlurmdPidFile={directory}/node-%n.pid
SlurmctldLogFile={directory}/controller.log
SlurmdLogFile={directory}/node-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/builtin
ReturnToService=2
MpiDefault=none
SwitchType=switch/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
GresTypes=gpu
KillWait=5
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=1000 Gres=gpu:2 State=UNKNOWN
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=1000 Gres=gpu:2 State=UNKNOWN
PartitionName=all Nodes=node[1-2] Default=YES MaxTime=INFINITE State=UP
"""


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Cluster:
    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        (self.directory / "state").mkdir(parents=True)
        host = socket.gethostname().split(".")[0]
        for number in range(2):
            # The daemon wants character devices; these are /dev/null by another name.
            os.mknod(self.directory / f"gpu{number}", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        configuration = self.directory / "slurm.conf"
        configuration.write_text(CONFIGURATION.format(host=host, ports=free_ports(3), directory=self.directory))
        (self.directory / "gres.conf").write_text(f"NodeName=node[1-2] Name=gpu File={self.directory}/gpu[0-1]\n")
        self.environment = {"SLURM_CONF": str(configuration)}
        self.processes = []

    def start(self):
        for words in (["slurmctld", "-D", "-c"], ["slurmd", "-D", "-N", "node1"], ["slurmd", "-D", "-N", "node2"]):
            with open(self.directory / f"{words[0]}-{words[-1].strip('-')}.out", "w") as log:
                self.processes.append(subprocess.Popen(words, stdout=log, stderr=log, env=os.environ | self.environment,
                                                       start_new_session=True))
        self.wait(lambda: self.run("sinfo", "-h", "-o", "%T", check=False).stdout.split() == ["idle"], "both nodes are idle", 60)

    def run(self, *words, check=True, env=None):
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, env=os.environ | self.environment | (env or {}))
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(map(str, words))}: {done.stderr}")
        return done

    def wait(self, fact, what, seconds):
        deadline = time.monotonic() + seconds
        while not fact():
            if time.monotonic() > deadline:
                logs = "".join(f"--- {log.name}\n{log.read_text()[-1500:]}" for log in sorted(self.directory.glob("*.log")))
                raise AssertionError(f"{what}: not within {seconds} s\n{logs}")
            select.select([], [], [], 0.1)  # The pause between two looks at the outside.

    def state_of(self, job):
        """The state of a job and how it ended, e.g. ("COMPLETED", "0:0")."""
        text = self.run("scontrol", "show", "job", job).stdout
        return tuple(re.search(rf"{key}=(\S+)", text).group(1) for key in ("JobState", "ExitCode"))

    def stop(self):
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
