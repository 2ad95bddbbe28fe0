"""Which devices there are, and which of them a job holds. Standard library only: asking must cost no import of torch."""

import fcntl
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from framefeat.errors import UserError

#: Stands in for the list of devices (comma separated); names that are no CUDA id compute on the CPU. For tests.
STAND_IN = "FRAMEFEAT_DEVICES"
CPU = "cpu"


def process_identity(pid: int) -> str:
    """``pid:start`` of a process: its number alone may be another process's one day."""
    return f"{pid}:{_start_time(pid)}"


def is_running(identity: str) -> bool:
    pid, _, start = identity.partition(":")
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    found = _start_time(int(pid))
    return not start or not found or found == start


def _start_time(pid: int) -> str:
    """Field 22 of /proc/PID/stat (clock ticks since boot); empty where there is no /proc. A zombie has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "ended" if fields[0] == "Z" else fields[19]


def cuda_devices() -> list[str]:
    """CUDA devices that this process may use, as CUDA_VISIBLE_DEVICES names them (numbers, or UUIDs)."""
    if STAND_IN in os.environ:
        return _listed(os.environ[STAND_IN])
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    present = _present_devices()
    if visible is None:
        return [str(number) for number in range(present)]
    named = _listed(visible)
    # CUDA itself stops at the first number that names nothing; -1 is the usual way to say "none".
    usable: list[str] = []
    for name in named:
        if name.lstrip("-").isdigit() and not 0 <= int(name) < present:
            break
        usable.append(name)
    return usable if present else []


def _listed(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _present_devices() -> int:
    folder = Path("/proc/driver/nvidia/gpus")
    if folder.is_dir():
        return len(list(folder.iterdir()))
    if not (Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists()):
        return 0
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
    if not found:
        raise UserError(
            f"device: {device!r} was asked for, but no CUDA device is visible here; set device: auto or cpu."
        )
    if device == "cuda":
        return found
    number = int(device.partition(":")[2])
    if number >= len(found):
        raise UserError(
            f"device: {device!r} was asked for, but only {len(found)} CUDA devices are visible here."
        )
    return [found[number]]


def is_stand_in(name: str) -> bool:
    return (
        STAND_IN in os.environ
        and name in _listed(os.environ[STAND_IN])
        and not (name.isdigit() or name.startswith(("GPU-", "MIG-")))
    )


def file_name(device: str) -> str:
    """A device's name as part of a file name."""
    return "".join(letter if letter.isalnum() or letter == "-" else "_" for letter in device)[:40]


@contextmanager
def hold(folder: Path, devices: Sequence[str]) -> Iterator[str]:
    """Hold one of ``devices`` for this process alone, waiting for one to be free: yields its name."""
    while True:
        for name in devices:
            with open(folder / f"{file_name(name)}.slot", "a") as slot:
                try:
                    fcntl.flock(slot, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                yield name
                return
        time.sleep(0.1)
