"""Which devices there are, which of them torch can use, and which a job holds.

Standard library only: a job must not import torch to find its device. ``python -m framefeat.extract.devices`` is the
process that does, to ask it.
"""

import fcntl
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from framefeat.backbone.driver import present_devices
from framefeat.environment import DEVICES
from framefeat.errors import UserError, first_line

CPU = "cpu"
#: Jobs that one device serves: one reads and writes while the other computes.
CLIENTS = 2

_CUDA_NAME = re.compile(r"\d+|(GPU|MIG)-.+")
_LONGEST = 32  # of a device's name in a file name: a socket's path has little room
#: Asks torch; prints a list with one reason per device that it sees (empty: usable), or one reason for all.
_QUESTION = [sys.executable, "-P", "-m", "framefeat.extract.devices"]
_ANSWER_SECONDS = 180.0  # a first import of torch from a slow disk takes a minute

_CURES = (
    ("without CUDA", "install torch's build for CUDA"),
    ("too old", "update the NVIDIA driver, or install a torch that is built for an older CUDA"),
    ("insufficient", "update the NVIDIA driver, or install a torch that is built for an older CUDA"),
    ("no kernel image", "install a torch that is built for this GPU's compute capability"),
    ("CUDA GPUs are available", "look at CUDA_VISIBLE_DEVICES and, on a GPU with MIG, whether it has an instance ('nvidia-smi -L')"),
    ("does not see it", "look at CUDA_VISIBLE_DEVICES; of a GPU with MIG one process sees one instance ('nvidia-smi -L')"),
    ("out of memory", "end what else uses its memory ('nvidia-smi')"),
    ("busy or unavailable", "end what else holds it ('nvidia-smi')"),
)  # fmt: skip
_OTHER_CURE = "look at 'nvidia-smi', and restart the machine if its driver was updated"


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
    if DEVICES in os.environ:
        return _listed(os.environ[DEVICES])
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    named = None if visible is None else _listed(visible)
    if named == []:
        return []
    present = present_devices()
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
    return DEVICES in os.environ and name in _listed(os.environ[DEVICES]) and not _CUDA_NAME.fullmatch(name)


def torch_device(name: str) -> str:
    """``cpu`` or ``cuda``: what torch calls ``name`` in a process that sees that device alone."""
    return CPU if name == CPU or is_stand_in(name) else "cuda"


def file_name(device: str) -> str:
    """A device's name as part of a file name, one to one and short."""
    plain = re.sub(r"[^A-Za-z0-9-]", "_", device)
    if plain == device and len(plain) <= _LONGEST:
        return plain
    return f"{plain[: _LONGEST - 9]}_{hashlib.sha256(device.encode()).hexdigest()[:8]}"


# ---------------------------------------------------------------------------------------------- what torch can use


def settle(device: str) -> str:
    """Settle which devices ``device`` means, for this process and those that it starts, by asking torch in a process of
    its own. Returns what a person must know: which GPU is there and not used, why, and what helps.

    A GPU that is there and a GPU that torch can use are two things: the driver may be older than the wheel. ``auto``
    goes on without; ``cuda`` raises ``UserError``.
    """
    names = wanted(device)
    if not names or DEVICES in os.environ:
        return ""
    present = cuda_devices()
    reasons = dict(zip(present, _ask_torch(len(present)), strict=True))
    usable = [name for name in names if not reasons[name]]
    # cuda:N counts among all that are visible
    os.environ[DEVICES] = ",".join(usable if device in ("auto", "cuda") else present)
    if len(usable) == len(names):
        return ""
    unusable = "; ".join(f"device {name}: {reasons[name]}" for name in names if reasons[name])
    cure = _cure(unusable)
    if usable:
        return f"device: {device}, and torch cannot use all GPUs that are here ({unusable}). The others are used. To use it: {cure}; see docs/gpu.md."
    if device == "auto":
        return (
            f"device: auto, and a GPU is here that torch cannot use ({unusable}). The features are computed on the CPU, which "
            f"is much slower. To use the GPU: {cure}; see docs/gpu.md. 'device: cpu' says the same without this warning."
        )
    del os.environ[DEVICES]
    raise UserError(
        f"device: {device!r} was asked for, but torch cannot use it ({unusable}). {cure[0].upper()}{cure[1:]}, or set "
        "device: auto or cpu; see docs/gpu.md."
    )


def _ask_torch(count: int) -> list[str]:
    """For each of ``count`` devices why torch cannot use it; empty: it can."""
    import subprocess

    try:
        done = subprocess.run(_QUESTION, capture_output=True, text=True, timeout=_ANSWER_SECONDS, check=False)
        answer = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        answer = f"no answer from the driver in {_ANSWER_SECONDS:g} s"
    except (ValueError, IndexError):
        last = (done.stderr.strip().splitlines() or [""])[-1]
        answer = f"torch ended with status {done.returncode} when it was asked{': ' if last else ''}{last}"
    if isinstance(answer, str):
        return [answer] * count
    return [*answer, *["torch does not see it"] * count][:count]


def _cure(reason: str) -> str:
    return next((cure for words, cure in _CURES if words in reason), _OTHER_CURE)


def _answer() -> list[str] | str:
    """In a process of its own: see ``_QUESTION``."""
    try:
        import torch
    except Exception as error:
        return f"torch cannot be imported: {first_line(error)}"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    try:
        torch.cuda.init()
    except Exception as error:
        return first_line(error).partition(". ")[0]
    return [_try(number) for number in range(torch.cuda.device_count())]


def _try(number: int) -> str:
    """A convolution on one device: the reason why it cannot be had, or empty."""
    import torch

    try:
        image, kernel = (
            torch.ones(shape, device=f"cuda:{number}") for shape in ((1, 8, 16, 16), (8, 8, 3, 3))
        )
        total = float(torch.nn.functional.conv2d(image, kernel).sum())
    except Exception as error:
        return first_line(error).partition(". ")[0]
    return "" if total == 14 * 14 * 8 * 8 * 9 else "it computes wrongly"


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
def hold(folder: Callable[[], Path], devices: Sequence[str], clients: int = 1) -> Iterator[str]:
    """Hold a place at one of ``devices``, waiting for one to be free: yields its name. A device has ``clients`` places;
    the second is taken where every device has its first. ``folder`` gives the run's runtime folder, made if need be."""
    places = [(name, f".{number}" if number else "") for number in range(clients) for name in devices]
    while True:
        for name, number in places:
            with ExitStack() as stack:
                try:
                    path = folder() / f"{file_name(name)}{number}.slot"
                    slot = stack.enter_context(locked(path, wait=False))
                except FileNotFoundError:
                    continue  # an embedder that ended, or the end of a login, took the folder with it
                if slot is not None:
                    yield name
                    return
        time.sleep(0.1)


if __name__ == "__main__":
    print(json.dumps(_answer()))
