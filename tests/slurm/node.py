"""A real Slurm on one machine: munged, slurmctld and slurmd on loopback, a made-up GPU gres, all files in one folder.

``python -m tests.slurm.node install`` installs Debian's packages where that is allowed; nothing else here installs
anything.
"""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "srun", "scancel")
PACKAGES = ("slurm-wlm", "munge")
_PATH = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
#: Stand in for GPU device files: Slurm counts and hands them out, and nothing opens them.
GPU_FILES = ("/dev/zero", "/dev/full")

_CONFIGURATION = """\
ClusterName=framefeat
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldDebug=verbose
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
KillWait=5
MinJobAge=600
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=sched_min_interval=200000,batch_sched_delay=0,sched_interval=2
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobs.txt
GresTypes=gpu
NodeName=localhost NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} Gres=gpu:{gpus} State=UNKNOWN
PartitionName=main Nodes=localhost Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """The programs that are not installed."""
    return [program for program in PROGRAMS if shutil.which(program, path=_PATH) is None]


def install() -> str:
    """Install what is missing with apt-get, where this user may; returns why it could not, or nothing."""
    if not missing():
        return ""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return f"{', '.join(missing())} not installed, and this user cannot install them (Debian: apt-get install {' '.join(PACKAGES)})"
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    # Debian starts a package's services when it installs them; the tests start their own.
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *PACKAGES]):
            try:
                done = subprocess.run(
                    ["apt-get", *command],
                    env=environment,
                    text=True,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    check=False,
                    timeout=200,
                )
            except subprocess.TimeoutExpired:
                return f"apt-get {command[0]} did not end in 200 s"
            if done.returncode != 0:
                return f"apt-get {command[0]} failed: {done.stdout[-500:]}"
    finally:
        if ours:
            policy.unlink()
    return "" if not missing() else f"still not installed: {', '.join(missing())}"


class Node:
    """A running one-node cluster; ``environment`` is what its clients need."""

    def __init__(self, folder: Path, cpus: int = 2, memory_mb: int = 8000, gpus: int = 1) -> None:
        self.folder, self.cpus, self.memory_mb, self.gpus = folder, cpus, memory_mb, gpus
        self.environment = {
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": os.pathsep.join([str(folder / "bin"), _PATH]),
        }
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        for name in ("state", "spool", "bin"):
            (self.folder / name).mkdir(mode=0o755)
        # Snakemake's job steps drop SLURM_CONF (a real cluster's lies in /etc): srun is told again.
        srun = self.folder / "bin" / "srun"
        srun.write_text(
            f'#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec {shutil.which("srun", path=_PATH)} "$@"\n'
        )
        srun.chmod(0o755)
        controller_port, node_port = _free_ports(2)
        (self.folder / "slurm.conf").write_text(
            _CONFIGURATION.format(
                folder=self.folder, controller_port=controller_port, node_port=node_port, cpus=self.cpus,
                memory=self.memory_mb, gpus=self.gpus, user=pwd.getpwuid(os.geteuid()).pw_name,
            )
            + ("SlurmdParameters=config_overrides\n")
        )  # fmt: skip
        (self.folder / "gres.conf").write_text(
            "".join(f"NodeName=localhost Name=gpu File={name}\n" for name in GPU_FILES[: self.gpus])
        )
        self._start_munged()
        self._spawn("slurmctld", "-D")
        self._wait("slurmctld", lambda: self.ask("scontrol", "ping", check=False).endswith("UP"))
        self._spawn("slurmd", "-D", "-N", "localhost")
        self._wait("slurmd", lambda: self.ask("sinfo", "-h", "-o", "%T", check=False) == "idle")

    def _start_munged(self) -> None:
        folder = self.folder / "munge"
        folder.mkdir(mode=0o755)
        key = folder / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        user = "munge" if os.geteuid() == 0 else None
        if user:
            for path in (folder, key):
                shutil.chown(path, user, user)
        self._spawn(
            "munged", "--foreground", f"--socket={folder}/socket", f"--key-file={key}", f"--pid-file={folder}/pid",
            f"--log-file={folder}/log", f"--seed-file={folder}/seed", "--num-threads=2", user=user,
        )  # fmt: skip
        self._wait("munged", (folder / "socket").exists)

    def _spawn(self, program: str, *arguments: str, user: str | None = None) -> None:
        path = shutil.which(program, path=_PATH)
        assert path is not None
        command = [path, *arguments]
        if setpriv := shutil.which("setpriv", path=_PATH):
            # Should this process be killed outright, they still end with it.
            as_user = ["--reuid", user, "--regid", user, "--clear-groups"] if user else []
            command = [setpriv, *as_user, "--pdeathsig", "TERM", *command]
            user = None
        with open(self.folder / f"{program}.out", "ab") as output:
            self._processes.append(
                subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=os.environ | self.environment,
                    user=user, start_new_session=True,
                )
            )  # fmt: skip

    def _wait(self, program: str, ready: Callable[[], bool], seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            if self._processes[-1].poll() is not None or time.monotonic() > deadline:
                logs = "\n".join(
                    path.read_text(errors="replace")[-2000:]
                    for path in (self.folder / f"{program}.out", self.folder / f"{program}.log")
                    if path.exists()
                )
                raise RuntimeError(f"{program} did not start:\n{logs}")
            time.sleep(0.1)

    def stop(self) -> None:
        """End every job, then what was started, the last one first, by process id."""
        with contextlib.suppress(Exception):
            self.ask("scancel", f"--user={os.geteuid()}", check=False)
            self.idle(30)
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    # --- what Slurm says
    def ask(self, *command: str, check: bool = True) -> str:
        done = subprocess.run(
            command,
            env=os.environ | self.environment,
            text=True,
            capture_output=True,
            timeout=60,
            check=False,
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout.strip()

    def idle(self, seconds: float) -> bool:
        """Whether no job is left, having waited for at most ``seconds``."""
        deadline = time.monotonic() + seconds
        while self.ask("squeue", "-h"):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)
        return True

    def running(self) -> list[tuple[str, str]]:
        """(id, comment) of the jobs that run now; the comment names the rule or group."""
        lines = self.ask("squeue", "-h", "-t", "RUNNING", "-o", "%A|%k").splitlines()
        return [(job, comment) for job, _, comment in (line.partition("|") for line in lines)]

    def seen(self) -> dict[str, dict[str, str]]:
        """Every job that Slurm still knows (``MinJobAge``), as ``scontrol show job`` prints it, by id."""
        jobs = {}
        for line in self.ask("scontrol", "-o", "show", "job", check=False).splitlines():
            fields = dict(part.split("=", 1) for part in line.split() if "=" in part)
            if "JobId" in fields:
                jobs[fields["JobId"]] = fields
        return jobs


@contextlib.contextmanager
def running_node(**options: int) -> Iterator[Node]:
    """A started node in a temporary folder; stopped and removed at the end, whatever happens in between."""
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        Path(folder).chmod(0o755)  # munged runs as a user of its own and must reach its files
        node = Node(Path(folder), **options)
        try:
            node.start()
            yield node
        finally:
            node.stop()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def main() -> int:
    if sys.argv[1:] != ["install"]:
        print(__doc__, file=sys.stderr)
        return 2
    problem = install()
    if problem:
        print(f"test-slurm will be skipped: {problem}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
