"""Which devices there are, and which of them a job holds. Standard library only: asking must cost no import of torch."""

import fcntl
import hashlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from framefeat.errors import UserError

#: Stands in for the list of devices (comma separated); names that are no CUDA id compute on the CPU. For tests.
STAND_IN = "FRAMEFEAT_DEVICES"
CPU = "cpu"

_DRIVER = Path("/proc/driver/nvidia/gpus")
_NODES = (Path("/dev/nvidiactl"), Path("/dev/dxg"))
_CUDA_NAME = re.compile(r"\d+|(GPU|MIG)-.+")
_LONGEST = 32  # of a device's name in a file name: a socket's path has little room


# ------------------------------------------------------------------------------------------------------- processes


def process_identity(pid: int) -> str:
    """``pid:start`` of a process: its number alone may be another process's one day."""
    return f"{pid}:{_start_time(pid)}"


def is_running(identity: str) -> bool:
    """Whether the process that ``process_identity`` named still runs; what names no process does not."""
    pid, _, start = identity.partition(":")
    if not pid.isascii() or not pid.isdigit() or int(pid) == 0:
        return False
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # somebody else's: it runs
    found = _start_time(int(pid))
    return found != "ended" and (not start or not found or found == start)


def _start_time(pid: int) -> str:
    """Field 22 of /proc/PID/stat (clock ticks since boot); empty where there is no /proc. A zombie has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "ended" if fields[0] in "ZX" else fields[19]


# --------------------------------------------------------------------------------------------------------- devices


def cuda_devices() -> list[str]:
    """CUDA devices that this process may use, as CUDA_VISIBLE_DEVICES names them (numbers, or UUIDs)."""
    if STAND_IN in os.environ:
        return _listed(os.environ[STAND_IN])
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    named = None if visible is None else _listed(visible)
    if named == []:
        return []
    present = _present_devices()
    if named is None:
        return [str(number) for number in range(present)]
    # CUDA itself stops at the first name that names nothing; -1 is the usual way to say "none".
    usable: list[str] = []
    for name in named:
        if not _CUDA_NAME.fullmatch(name) or (name.isdigit() and int(name) >= present):
            break
        usable.append(name)
    return usable if present else []


def _listed(text: str) -> list[str]:
    """The names in a comma-separated list, each once."""
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _present_devices() -> int:
    """How many GPUs the machine (or the container) shows."""
    if _DRIVER.is_dir():
        return len(list(_DRIVER.iterdir()))
    if not any(node.exists() for node in _NODES):
        return 0
    import subprocess

    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in listed.splitlines())


def wanted(device: str) -> list[str]:
    """The CUDA devices that ``device`` (auto, cpu, cuda, cuda:N) may mean here; empty: compute on the CPU."""
    if device == CPU:
        return []
    found = cuda_devices()
    if device == "auto":
        return found
    kind, _, number = device.partition(":")
    if kind != "cuda" or (number and not number.isdigit()):
        raise UserError(f"device: {device!r} is no device: use auto, cpu, cuda or cuda:N.")
    if not found:
        raise UserError(
            f"device: {device!r} was asked for, but no CUDA device is visible here; set device: auto or cpu."
        )
    if not number:
        return found
    if int(number) >= len(found):
        raise UserError(
            f"device: {device!r} was asked for, but only {len(found)} CUDA devices are visible here (counted from 0)."
        )
    return [found[int(number)]]


def is_stand_in(name: str) -> bool:
    """Whether ``name`` stands for a device in a test: it is exclusive like one, and computes on the CPU."""
    return STAND_IN in os.environ and name in _listed(os.environ[STAND_IN]) and not _CUDA_NAME.fullmatch(name)


def torch_device(name: str) -> str:
    """``cpu`` or ``cuda``: what torch calls ``name`` in a process that sees that device alone."""
    return CPU if name == CPU or is_stand_in(name) else "cuda"


def file_name(device: str) -> str:
    """A device's name as part of a file name, one to one and short."""
    plain = re.sub(r"[^A-Za-z0-9-]", "_", device)
    if plain == device and len(plain) <= _LONGEST:
        return plain
    return f"{plain[: _LONGEST - 9]}_{hashlib.sha256(device.encode()).hexdigest()[:8]}"


# ----------------------------------------------------------------------------------------------------------- locks


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[int | None]:
    """Hold the exclusive lock of ``path`` (made if need be); yields its descriptor, or None where it is taken.

    The system lets go of it when the process ends, however it ends. What was locked is what ``path`` names at that
    moment: a file that was removed meanwhile does not count. Raises ``FileNotFoundError`` where the folder is gone.
    """
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield None
                return
            if _names(path, lock):
                yield lock
                return
        finally:
            os.close(lock)


def _names(path: Path, descriptor: int) -> bool:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(descriptor))


@contextmanager
def hold(folder: Path, devices: Sequence[str]) -> Iterator[str]:
    """Hold one of ``devices`` for this process alone, waiting for one to be free: yields its name."""
    while True:
        for name in devices:
            with ExitStack() as stack:
                try:
                    folder.mkdir(mode=0o700, exist_ok=True)
                    slot = stack.enter_context(locked(folder / f"{file_name(name)}.slot", wait=False))
                except FileNotFoundError:
                    continue  # an embedder that ended took the folder with it
                if slot is not None:
                    yield name
                    return
        time.sleep(0.1)
