"""A SLURM of one node in a folder, for tests of what is submitted to it: real daemons, without root or systemd.

Debian's packages are munge, slurmctld, slurmd and slurm-client. Jobs of partition ``high`` preempt those of ``low``,
which is the default, and send them back into the queue.
"""

import contextlib
import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
PATH = os.pathsep.join((os.environ["PATH"], "/usr/sbin", "/sbin"))
SECONDS = 60  # until the node answers

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# What is requeued waits until its credential has expired, which takes two minutes unless stated.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
# Nothing needs cgroups, which containers seldom lend.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
KillWait=5
NodeName=node NodeHostname={host} NodeAddr=127.0.0.1 Port={node} CPUs={cpus} State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 GraceTime=30
PartitionName=high Nodes=ALL PriorityTier=2
"""


def installed():
    """Whether the daemons and the programs that talk to them are there."""
    return all(shutil.which(program, path=PATH) for program in (*DAEMONS, "sbatch", "squeue", "scontrol"))


def _free_ports(count):
    """Ports that nothing listens on now."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def _wait_until(condition, what):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {SECONDS} s"
        time.sleep(0.1)


@contextlib.contextmanager
def cluster(monkeypatch, cpus):
    """Run the daemons while the block lasts, and let this process and those that it starts talk to them."""
    with tempfile.TemporaryDirectory(prefix="slurm") as name:  # a socket's path may not be longer than 108 bytes
        folder, started = Path(name), []
        for part in ("state", "spool"):
            (folder / part).mkdir()
        controller, node = _free_ports(2)
        monkeypatch.setenv("PATH", PATH)
        monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        host, user = socket.gethostname().partition(".")[0], getpass.getuser()
        text = CONFIGURATION.format(folder=folder, host=host, user=user, controller=controller, node=node, cpus=cpus)
        (folder / "slurm.conf").write_text(text)
        version = [int(part) for part in re.findall(r"\d+", ask("slurmd", "-V"))]
        if version >= [23, 11]:  # which want cgroups unless they are told not to
            (folder / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
        (folder / "munge.key").touch(mode=0o600)
        (folder / "munge.key").write_bytes(os.urandom(128))
        files = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munged.pid", "log-file": "munged.log"}
        munge = [f"--{option}={folder / file}" for option, file in {**files, "seed-file": "munge.seed"}.items()]
        commands = (["munged", "--foreground", "--force", *munge], ["slurmctld", "-D"], ["slurmd", "-D", "-N", "node"])
        try:
            with open(folder / "said.log", "w") as log:
                for words in commands:
                    started.append(subprocess.Popen(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL))
                    if words[0] == "munged":
                        _wait_until((folder / "munge.socket").exists, "answer of munged")
            node_state = ("sinfo", "--noheader", "--Node", "--partition=low", "--format=%T")
            _wait_until(lambda: ask(*node_state) == "idle", "node")
            yield
            ask("scancel", f"--user={user}")
            _wait_until(lambda: not ask("squeue", "--noheader", "--states=RUNNING,COMPLETING"), "end of all jobs")
        finally:
            for process in reversed(started):
                process.send_signal(signal.SIGTERM)
            for process in reversed(started):
                process.wait(timeout=SECONDS)


def ask(*words):
    """What a program of SLURM prints; nothing if it fails."""
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()


def stand_ins(folder, monkeypatch):
    """A function that puts a program into the path, in SLURM's place: it says something, and keeps its words."""
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    (folder / "bin").mkdir()

    def put(name, says=""):
        (folder / f"{name}.said").write_text(says and f"{says}\n")
        file = folder / "bin" / name
        file.write_text(f'#!/bin/bash\necho "$@" >>"{folder}/{name}.txt"\ncat "{folder}/{name}.said"\n')
        file.chmod(0o755)

    return put
