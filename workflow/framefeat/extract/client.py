"""The light side of the warm embedder: find or start it, hand it a request, take the answers as they come.

One embedder serves one owner (a Snakemake process) and one device. Its socket, key and locks lie in a folder that only
the user can enter. Standard library only.

=========  ==========================================================================================
socket     where the embedder listens
key        32 random bytes that both sides must know, mode 0600
lock       held while somebody looks for the embedder, starts it, or ends it
alive      locked by the embedder for as long as it lives: inherited from the client that started it; names its process
beat       touched by the embedder whenever its work gets on, so that a hung driver can be told from a long queue
owner      whose folder it is, so that what is left of a killed run can be told from one that works
load       a request that the embedder loads its model for as soon as it is up
slot       held by a job that uses the device (see ``devices.hold``)
=========  ==========================================================================================
"""

import hashlib
import json
import os
import signal
import stat
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from framefeat.environment import EMBEDDER_TIMEOUT, OWNER
from framefeat.errors import UserError
from framefeat.extract import devices
from framefeat.records import Embedded, EmbedRequest

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

OWNER_FILE = "owner"
#: How an embedder is started; its arguments follow.
COMMAND = [sys.executable, "-P", "-m", "framefeat.extract.server"]
_START_SECONDS = 300.0  # an embedder that lives but does not listen: a very slow file system
_SILENT_SECONDS = 600.0
_END_SECONDS = 10.0  # in which a process that was killed has gone, unless the kernel holds it
_LONGEST_FOLDER = 60  # a socket's path may have 103 bytes
_TAKEN = "taken"


class EmbedderLost(Exception):
    """The embedder was gone before it had taken the request: trying again is safe."""


class _Silent(Exception):
    """The embedder lives and nothing has come from it for too long; ``process``: its identity."""

    def __init__(self, place: "Place") -> None:
        # As long as it lives the file names it.
        self.process = ""
        with suppress(OSError):
            self.process = place.alive.read_text()


class Place(NamedTuple):
    """The files of one device's embedder."""

    folder: Path
    device: str

    def _file(self, kind: str) -> Path:
        return self.folder / f"{devices.file_name(self.device)}.{kind}"

    @property
    def socket(self) -> Path:
        return self._file("sock")

    @property
    def key(self) -> Path:
        return self._file("key")

    @property
    def lock(self) -> Path:
        return self._file("lock")

    @property
    def alive(self) -> Path:
        return self._file("alive")

    @property
    def beat(self) -> Path:
        return self._file("beat")

    @property
    def load(self) -> Path:
        return self._file("load")


def owner_here() -> str | None:
    """The process whose embedders this one may use; None by hand, and where that process has ended or cannot be
    seen."""
    owner = os.environ.get(OWNER)
    return owner if owner and devices.is_running(owner) else None


def host_name() -> str:
    """This machine's name, without the import of ``socket``."""
    return os.uname().nodename


def runtime_folder(owner: str) -> Path:
    """The folder of ``owner``'s embedders, mode 0700. Raises ``UserError`` where somebody else could have made it."""
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    if not os.access(base, os.W_OK | os.X_OK):
        base = Path(tempfile.gettempdir())
    name = hashlib.sha256(f"{owner}@{host_name()}".encode()).hexdigest()[:12]
    folder = base / f"framefeat-{os.getuid()}-{name}"
    if len(os.fsencode(folder)) > _LONGEST_FOLDER:
        folder = Path("/tmp") / folder.name
    while True:
        # Not mkdir(exist_ok): it looks again, and an embedder that ends may take the folder with it in between.
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        with suppress(FileNotFoundError):
            found = folder.lstat()
            break
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) != 0o700:
        raise UserError(
            f"{str(folder)!r} is not a folder of this user's own with mode 700; remove it and run again."
        )
    return folder


def request(
    message: EmbedRequest, owner: str, device: str, log: Path, receive: Callable[[Embedded], None]
) -> None:
    """Hand ``message`` to the embedder of (``owner``, ``device``); starts one where none runs. ``receive`` is called
    with the answer about each video, as it comes.

    ``log`` takes the standard streams of an embedder that is started. Where the device fails under it, what is left is
    done by a new embedder, each video by itself; the one under which the device fails twice is given up, and so are all
    where that happens to two. Raises ``UserError`` with the embedder's own sentence, or one that says how it ended
    while it worked: nothing more comes then."""
    work = _Left(message, receive, log)
    gone = 0
    while work.videos and gone < 3:
        if not devices.is_running(owner):
            raise UserError(
                f"the run that this job belongs to (process {owner.partition(':')[0]}) has ended."
            )
        try:
            place = Place(runtime_folder(owner), device)
            ended = _ask(_connect(place) or _connect_or_start(place, owner, log), work, place)
        except (EmbedderLost, FileNotFoundError):
            gone += 1  # it was ending, and may have taken the folder with it
            continue
        except _Silent as silent:
            raise UserError(_end_silent(place, silent.process, work.name, log)) from None
        if "lost" not in ended:
            return
        gone = 0
        if ended["blame"]:
            work.blame(ended["lost"])
    if work.videos:
        raise UserError(f"the embedder ends as soon as it is started; its log: {log}")


class _Left:
    """What of a request is still to be done."""

    def __init__(self, message: EmbedRequest, receive: Callable[[Embedded], None], log: Path) -> None:
        self._message, self._receive, self._log = message, receive, log
        self.videos = {video["place"]: video for video in message["videos"]}
        self._together = message["together"]
        self._failed: set[int] = set()
        self._given_up = 0

    @property
    def name(self) -> str:
        """The video at work: they are answered in order."""
        return next((video["video"] for video in self.videos.values()), "its videos")

    @property
    def message(self) -> EmbedRequest:
        return {**self._message, "videos": list(self.videos.values()), "together": self._together}

    def take(self, answer: Embedded) -> None:
        del self.videos[answer["place"]]
        self._receive(answer)

    def blame(self, lost: str) -> None:
        """The device failed: try again, the videos one by one; who is at work twice when it fails is given up."""
        first = next(iter(self.videos))
        alone = not self._together or len(self.videos) == 1
        self._together = False
        if not (alone and first in self._failed):
            if alone:
                self._failed.add(first)
            print(f"{self.name}: {lost}; once more in a new process", file=sys.stderr)
            return
        sentence = (
            f"{self.name}: the device failed twice, each time in a new process ({lost}). Where other videos fail as well, "
            "the device or its driver is at fault: look at 'nvidia-smi -q' and the system's log ('Xid'), or set "
            f"device: cpu. The log: {self._log}"
        )
        self._given_up += 1
        if self._given_up > 1:
            raise UserError(sentence)
        self.take({"place": first, "failure": sentence})


def prewarm(message: Mapping[str, Any], owner: str, device: str, log: Path) -> None:
    """Start the embedder, if none is there, and let it load what ``message`` names; waits for nothing."""
    place = Place(runtime_folder(owner), device)
    if place.socket.exists():
        return
    with devices.locked(place.lock, wait=False) as lock:
        if lock is not None and not _is_alive(place):
            place.load.write_text(json.dumps(message))
            _start(place, owner, log)


def remove_folder(folder: Path, kinds: Sequence[str] = ("lock", "alive", "slot")) -> None:
    """Remove a runtime folder, unless one of these ``kinds`` of files in it is locked."""
    with suppress(OSError), ExitStack() as held:
        for kind in kinds:
            for path in folder.glob(f"*.{kind}"):
                if held.enter_context(devices.locked(path, wait=False)) is None:
                    return
        for path in folder.iterdir():
            path.unlink(missing_ok=True)
        folder.rmdir()


# -------------------------------------------------------------------------------------------------------- requests


def _ask(connection: "Connection", work: _Left, place: Place) -> dict[str, Any]:
    """Hand over what is left and take the answers; returns the last message: ``end`` or ``lost``."""
    with connection:
        try:
            connection.send_bytes(json.dumps(work.message).encode())
            embedder = json.loads(connection.recv_bytes())[_TAKEN]
        except BlockingIOError:
            raise _Silent(place) from None
        except (EOFError, OSError) as error:
            raise EmbedderLost from error
        while True:
            try:
                _wait(connection, place)
                message: dict[str, Any] = json.loads(connection.recv_bytes())
            except (EOFError, OSError) as error:
                log = embedder["log"]
                with suppress(OSError):
                    _tidy(place)
                raise UserError(
                    f"the embedder ended ({_how_it_ended(Path(log), embedder['pid'])}) while it worked on {work.name}; "
                    f"its log: {log}. Run again: a new one is started."
                ) from error
            if "answer" not in message:
                break
            work.take(message["answer"])
    if "trace" in message:
        print(message["trace"], file=sys.stderr)
    if "error" in message:
        raise UserError(message["error"])
    return message


def _silent_seconds() -> float:
    text = os.environ.get(EMBEDDER_TIMEOUT) or str(_SILENT_SECONDS)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise UserError(f"{EMBEDDER_TIMEOUT}={text!r} is no number of seconds.")
    return seconds


def _wait(connection: "Connection", place: Place) -> None:
    """Until there is an answer. Others may be served first: what counts is that the embedder gets on."""
    most = _silent_seconds()
    seen, since = _beat(place), time.monotonic()
    while not connection.poll(min(5.0, most / 4)):
        now = _beat(place)
        if now != seen:
            seen, since = now, time.monotonic()
        elif time.monotonic() - since > most:
            raise _Silent(place)


def _beat(place: Place) -> int:
    try:
        return place.beat.stat().st_mtime_ns
    except OSError:
        return 0


def _end_silent(place: Place, process: str, video: str, log: Path) -> str:
    """End an embedder that hangs; returns what is to be said. Others may have done so, and started another."""
    sentence = f"no progress for {_silent_seconds():g} s"
    pid = process.partition(":")[0]
    with suppress(OSError), devices.locked(place.lock):
        if place.alive.read_text() == process and devices.is_running(process):
            with open(log, "a") as stream:  # for the others who wait for it
                stream.write(f"embedder {pid}: ends: {sentence}\n")
            os.kill(int(pid), signal.SIGKILL)
        deadline = time.monotonic() + _END_SECONDS
        while devices.is_running(process) and time.monotonic() < deadline:
            time.sleep(0.05)
        if devices.is_running(process):
            return (
                f"the embedder (process {pid}) made {sentence} while it worked on {video}, and cannot be ended: the driver of "
                f"{place.device} hangs. Restart the machine, or set device: cpu; its log: {log}"
            )
    with suppress(OSError):
        _tidy(place)
    return (
        f"the embedder made {sentence} while it worked on {video} and was ended: {place.device} or its driver hangs, or the "
        f"machine is very slow ({EMBEDDER_TIMEOUT} sets the limit, in seconds); its log: {log}. Run again: a new one is started."
    )


def _how_it_ended(log: Path, pid: int) -> str:
    """In a few words, from what the embedder said last: it says why it ends, and the faulthandler reports crashes."""
    try:
        with open(log, "rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - 65536))
            said = stream.read().decode(errors="replace").rpartition(f"embedder {pid}: ")[2].splitlines()
    except OSError:
        said = []
    for line in said:
        if line.startswith("ends: "):
            return line[len("ends: ") :]
        if line.startswith(("Fatal Python error: ", "terminate called", "MemoryError")):
            return line
    # Whatever else ends a process leaves a line: this signal cannot be caught.
    return "signal 9: it was killed, as the system does where memory runs out"


# ----------------------------------------------------------------------------------------------------------- start


def _connect_or_start(place: Place, owner: str, log: Path) -> "Connection":
    with devices.locked(place.lock):
        started = False
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            connection = _connect(place)
            if connection is not None:
                return connection
            if not _is_alive(place):
                if started:
                    break
                _start(place, owner, log)
                started = True
            time.sleep(0.01)
    raise UserError(f"the embedder could not be started{_last_line(log)}; its log: {log}")


def _connect(place: Place) -> "Connection | None":
    """A connection whose other side knows the key; None where nobody listens, or not any more."""
    # Imported here: sampling jobs ask where the embedder is, and seldom call it.
    import socket
    from multiprocessing import AuthenticationError
    from multiprocessing.connection import Connection, answer_challenge, deliver_challenge

    key = _key_of(place)
    if key is None:
        return None
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as plain:
            plain.connect(str(place.socket))
            # One that hangs in the driver may hold Python's lock as well, and answers nothing at all.
            limit = _silent_seconds()
            plain.setsockopt(
                socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", int(limit), int(limit % 1 * 1e6))
            )
            connection = Connection(plain.detach())
        answer_challenge(connection, key)
        deliver_challenge(connection, key)
        return connection
    except BlockingIOError:
        raise _Silent(place) from None
    except AuthenticationError as error:
        if _key_of(place) != key:
            return None  # an embedder ended and another began while this was asked
        raise UserError(
            f"what listens at {place.socket} does not know this run's key; remove {place.folder} and run again."
        ) from error
    except (FileNotFoundError, ConnectionRefusedError, ConnectionResetError, BrokenPipeError, EOFError):
        return None


def _key_of(place: Place) -> bytes | None:
    try:
        return bytes.fromhex(place.key.read_text())
    except FileNotFoundError:
        return None


def _tidy(place: Place) -> None:
    """Remove what an embedder that was killed has left."""
    with devices.locked(place.lock):
        if _is_alive(place):
            return
        place.socket.unlink(missing_ok=True)
        place.key.unlink(missing_ok=True)
    if not any(place.folder.glob("*.slot")):
        remove_folder(place.folder)


def _is_alive(place: Place) -> bool:
    """Whether an embedder runs, be it still starting or already ending. Ask with the lock held."""
    with devices.locked(place.alive, wait=False) as alive:
        return alive is None


def _start(place: Place, owner: str, log: Path) -> None:
    """Start an embedder that nobody waits for; the lock is held, and no other embedder is alive."""
    import subprocess

    (place.folder / OWNER_FILE).write_text(json.dumps([host_name(), owner]))
    place.socket.unlink(missing_ok=True)
    place.key.unlink(missing_ok=True)
    with open(os.open(place.key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(os.urandom(32).hex())
    # It sees its own device alone, and on the CPU none: not even a context is made on a device that others use.
    on_device = devices.torch_device(place.device) == "cuda"
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": place.device if on_device else ""}
    log = Path(os.path.abspath(log))
    log.parent.mkdir(parents=True, exist_ok=True)
    with devices.locked(place.alive) as alive, open(log, "ab") as stream:
        assert alive is not None
        process = subprocess.Popen(
            [*COMMAND, str(place.folder), place.device, str(log), str(alive), owner],
            stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=environment, start_new_session=True,
            pass_fds=[alive],
        )  # fmt: skip
        place.alive.write_text(devices.process_identity(process.pid))


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").split("\n")
    except OSError:
        return ""
    return next((f" ({line.strip()})" for line in reversed(lines) if line.strip()), "")
