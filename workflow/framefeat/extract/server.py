"""The warm embedder: a process that has torch and the backbones loaded, and embeds the videos of a request.

``python -m framefeat.extract.server FOLDER DEVICE LOG ALIVE OWNER`` is started by ``client``. It ends when its
owner has ended or when nothing has asked for long, and leaves no socket behind.

One thread listens, watches the owner and ends the process; each connection has a thread of its own. torch is imported
by the first that needs it, long after the socket is there.
"""

import contextlib
import faulthandler
import json
import os
import select
import shutil
import signal
import socket
import stat
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from pathlib import Path
from typing import Any, Protocol

from framefeat.backbone.device_errors import DeviceLost, is_lost
from framefeat.environment import IDLE_S
from framefeat.errors import UserError, first_line
from framefeat.extract import devices
from framefeat.extract.client import OWNER_FILE, Place, host_name, remove_folder
from framefeat.records import Embedded, EmbedRequest, ModelRequest
from framefeat.words import many

_POLL_SECONDS = 0.5  # where the system cannot tell of a process's end by itself
_LOST = b"\0"  # no signal's number
_LEAVE_SECONDS = 10.0  # for those who still wait for an answer when the device is lost


class Backend(Protocol):
    """What computes; called from several threads at once. ``beat`` is to be called whenever the work gets on.

    What is raised where the device fails (see ``is_lost``) ends the embedder.
    """

    def load(self, message: ModelRequest, beat: Callable[[], None]) -> None:
        """Load the model that ``message`` names."""

    def embed(
        self, message: EmbedRequest, tell: Callable[[Embedded], None], beat: Callable[[], None]
    ) -> None:
        """Write the features that ``message`` names, and ``tell`` of each video when its own are written."""


class Turns:
    """Who may work beside whom: ``shared`` work goes side by side, ``alone`` waits for all and keeps all waiting."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._shared = 0
        self._alone = False

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._alone)
            self._shared += 1
        try:
            yield
        finally:
            with self._changed:
                self._shared -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._alone and not self._shared)
            self._alone = True
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()


class TorchBackend:
    """The backbones on one device. Videos are read and written side by side; the forward passes are side by side on the
    CPU, and one video after the other on a CUDA device.

    Nothing runs while a model is loaded: torch's tracer replaces the call of *every* module in the process for as long
    as it works, so that a forward pass in another thread would fail or end up in the trace.
    """

    def __init__(self, torch_device: str) -> None:
        self.torch_device = torch_device
        self._turns = Turns()
        self._models: Any = None
        self._guard = threading.Lock()
        self._name = torch_device
        self._lost = ""

    def load(self, message: ModelRequest, beat: Callable[[], None]) -> None:
        self._ready().get(message)
        beat()

    def embed(
        self, message: EmbedRequest, tell: Callable[[Embedded], None], beat: Callable[[], None]
    ) -> None:
        from framefeat.extract.embed import embed_videos

        network, weights_sha256 = self._ready().get(message)
        beat()
        embed_videos(message, network, weights_sha256, tell, self._turn, beat)

    def _ready(self) -> Any:
        with self._guard:
            if self._models is None:
                from framefeat.extract.embed import Models

                self._models = Models(self._load_alone)
            return self._models

    def _load_alone(self, message: ModelRequest, path: Path) -> tuple[Any, str]:
        from framefeat.extract.embed import load_network

        with self._turn(alone=True):
            began = time.monotonic()
            network, weights_sha256 = load_network(message, path, self.torch_device)
            self._name = network.about["device"]
            seconds = time.monotonic() - began
            say(f"loaded {network.spec.name} on {self._name} in {seconds:.1f} s")
            return network, weights_sha256

    @contextlib.contextmanager
    def _turn(self, alone: bool = False) -> Iterator[None]:
        """All that touches the device happens in here. Once the device has failed nothing does any more: what fails
        after it is not to blame."""
        cpu = self.torch_device == devices.CPU
        with self._turns.shared() if cpu and not alone else self._turns.alone():
            if self._lost:
                raise DeviceLost(self._lost, blame=False)
            try:
                yield
            except Exception as error:
                if not cpu and (reason := _failure(error)):
                    self._lost = f"{self._name}: {reason}"
                    raise DeviceLost(self._lost) from error
                raise


def _failure(error: Exception) -> str:
    """What the device says, if ``error`` or any use of the device from now on tells of its failure; else empty."""
    if is_lost(error):
        return first_line(error)
    import torch

    try:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
    except Exception as later:
        return first_line(later)
    return ""


def say(text: str) -> None:
    with suppress(OSError):  # a full disk must not stop the work
        print(f"embedder {os.getpid()}: {text}", file=sys.stderr, flush=True)


class Embedder:
    """The socket, the requests under way, and the reasons to end."""

    def __init__(
        self, place: Place, owner: str, log: str, alive: int, backend: Backend, idle_s: float
    ) -> None:
        self.place, self.owner, self.log, self.alive = place, owner, log, alive
        self.backend, self.idle_s = backend, idle_s
        self.key = place.key.read_text()
        self._active = 0
        self._last = time.monotonic()
        self._scratch: set[str] = set()  # folders of half-made results
        self._guard = threading.Lock()
        self._lost = ""  # what the device said when it failed
        self._leave_by = 0.0
        self._tell = -1  # wakes the one who listens

    def serve(self) -> str:
        """Answer requests until there is a reason to end: returns it."""
        told, self._tell = os.pipe()
        os.set_blocking(self._tell, False)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(self._tell)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the owner, whose end is ours
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self.place.socket))
        listener.listen(256)
        owner_ends = _process_handle(self.owner)
        self.place.beat.touch(mode=0o600)
        say(f"ready for {self.owner} on {self.place.device}")
        self._begin_loading()
        watched: list[Any] = [listener, told] + ([owner_ends] if owner_ends is not None else [])
        pause = min(self.idle_s / 4, 5.0 if owner_ends is not None else _POLL_SECONDS)
        while True:
            ready = select.select(watched, [], [], 0.05 if self._lost else pause)[0]
            if told in ready and os.read(told, 1) != _LOST:
                return "it was told to"
            if owner_ends in ready or not devices.is_running(self.owner):
                return "its owner has ended"
            if listener in ready:
                self._accept(listener)
            elif self._lost and (self._active == 0 or time.monotonic() > self._leave_by):
                return f"the device was lost ({self._lost})"
            elif self._is_idle():
                with devices.locked(self.place.lock, wait=False) as lock:
                    # With the lock held nobody is about to come, but somebody may have come already.
                    if lock is not None and not select.select([listener], [], [], 0)[0] and self._is_idle():
                        self._remove_files()
                        return f"nothing was asked of it for {self.idle_s:g} s"

    def _is_idle(self) -> bool:
        with self._guard:
            return self._active == 0 and time.monotonic() - self._last > self.idle_s

    # --- connections

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection = Connection(listener.accept()[0].detach())
        except OSError as error:
            say(f"a connection was lost: {error}")
            time.sleep(0.1)  # too many open files do not get fewer at once
            return
        self._spawn(self._handle, connection)

    def _spawn(self, work: Any, *arguments: Any) -> None:
        with self._guard:
            self._active += 1
        threading.Thread(target=self._work, args=(work, *arguments), daemon=True).start()

    def _work(self, work: Any, *arguments: Any) -> None:
        try:
            work(*arguments)
        except BaseException:
            say(traceback.format_exc())
        finally:
            with self._guard:
                self._active -= 1
                self._last = time.monotonic()

    def _begin_loading(self) -> None:
        try:
            message = json.loads(self.place.load.read_text())
        except (OSError, ValueError):
            return
        self.place.load.unlink(missing_ok=True)
        self._spawn(self._load, message)

    def _load(self, message: ModelRequest) -> None:
        try:
            self.backend.load(message, self._beat)
        except UserError as error:  # the extraction will meet it again and say so
            say(f"nothing loaded yet: {error}")
        except BaseException as error:
            if not is_lost(error):
                raise
            self._lose(error)

    def _handle(self, connection: Connection) -> None:
        with connection:
            try:
                deliver_challenge(connection, bytes.fromhex(self.key))
                answer_challenge(connection, bytes.fromhex(self.key))
                message = json.loads(connection.recv_bytes())
            except (AuthenticationError, EOFError, OSError, ValueError) as error:
                say(f"a connection was refused: {error!r}")
                return
            scratch = message.get("scratch")
            try:
                if scratch:
                    self._scratch.add(scratch)
                connection.send_bytes(json.dumps({"taken": {"pid": os.getpid(), "log": self.log}}).encode())
                ended = self._embed(message, partial(_send, connection))
                _send(connection, ended)
            except OSError:
                say("nobody waits for the answer any more")
                if scratch:
                    shutil.rmtree(scratch, ignore_errors=True)
            finally:
                self._scratch.discard(scratch)

    def _embed(self, message: EmbedRequest, send: Callable[[Mapping[str, Any]], None]) -> dict[str, Any]:
        """Send each video's answer as it comes; returns the last message, which says how it ended."""
        began = time.monotonic()
        told: list[int] = []

        def tell(answer: Embedded) -> None:
            send({"answer": answer})
            told.append(answer["place"])

        names = {video["place"]: video["video"] for video in message["videos"]}
        try:
            self.backend.embed(message, tell, self._beat)
        except UserError as error:
            say(f"{_listed(names, told)}: {error}")
            return {"error": str(error)}
        except BaseException as error:
            trace = traceback.format_exc()
            say(f"{_listed(names, told)}: {trace}")
            if is_lost(error):
                return self._lose(error)
            return {"error": f"embedding failed: {type(error).__name__}: {error}", "trace": trace}
        rows = sum(video["rows"] for video in message["videos"])
        say(f"{many(len(names), 'video')}, {many(rows, 'row')} in {time.monotonic() - began:.2f} s")
        return {"end": True}

    def _beat(self) -> None:
        with suppress(OSError):
            os.utime(self.place.beat)

    # --- the end

    def _lose(self, error: BaseException) -> dict[str, Any]:
        """The device failed, and with it everything that this process could still do: the answer, and the end. Nobody
        new comes once the socket is gone, and the next request starts another embedder."""
        self._leave_by = self._leave_by or time.monotonic() + _LEAVE_SECONDS
        self._lost = self._lost or first_line(error)
        self._remove_files()
        os.write(self._tell, _LOST)
        return {
            "lost": f"device {self.place.device}, {first_line(error)}",
            "blame": getattr(error, "blame", True),
        }

    def end(self, reason: str) -> None:
        """Remove what is half-made and the files of this embedder, and leave at once, requests under way included."""
        say(f"ends: {reason}")
        for scratch in list(self._scratch):
            shutil.rmtree(scratch, ignore_errors=True)
        self._remove_files()
        os.close(self.alive)
        if not devices.is_running(self.owner):
            remove_folder(self.place.folder, ["alive"])  # jobs that still hold something in it cannot go on
        elif not any(self.place.folder.glob("*.slot")):  # jobs look at each other's slots
            remove_folder(self.place.folder)
        os._exit(0)

    def _remove_files(self) -> None:
        """Its own alone: once the socket is gone, another embedder's may take its place."""
        with suppress(OSError):
            if self.place.key.read_text() == self.key:
                self.place.socket.unlink(missing_ok=True)
                self.place.key.unlink(missing_ok=True)


def _send(connection: Connection, message: Mapping[str, Any]) -> None:
    connection.send_bytes(json.dumps(message).encode())


def _listed(names: Mapping[int, str], told: Sequence[int]) -> str:
    """The videos that were not told of yet; the first of them is the one at work."""
    left = [name for place, name in names.items() if place not in told]
    return ", ".join(left[:3]) + (f" and {len(left) - 3} more" if len(left) > 3 else "")


def _process_handle(identity: str) -> int | None:
    """A descriptor that becomes readable when the process ends; None where the system has no such thing."""
    try:
        return os.pidfd_open(int(identity.partition(":")[0]))
    except (OSError, AttributeError):
        return None


def sweep(folder: Path) -> None:
    """Remove what runs that have ended left beside ``folder``: those whose embedder was killed before them.

    Only this machine's, and none in which anything is locked: the disk may be shared with machines and containers whose
    processes cannot be seen from here.
    """
    prefix = folder.name.rpartition("-")[0]
    for other in folder.parent.glob(f"{prefix}-*"):
        with suppress(OSError, ValueError):
            found = other.lstat()
            if other == folder or not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
                continue
            if not (other / OWNER_FILE).exists():
                other.rmdir()  # if it is empty: somebody looked for an embedder in vain
                continue
            host, owner = json.loads((other / OWNER_FILE).read_text())
            if host == host_name() and not devices.is_running(owner):
                remove_folder(other)


def main(backend: Backend | None = None) -> None:
    """``backend`` is for tests; without it torch computes."""
    folder, device, log, alive, owner = sys.argv[1:]
    faulthandler.enable()
    os.set_inheritable(int(alive), False)
    if backend is None:
        backend = TorchBackend(devices.torch_device(device))
    idle_s = float(os.environ.get(IDLE_S) or 300)
    embedder = Embedder(Place(Path(folder), device), owner, log, int(alive), backend, idle_s)
    try:
        sweep(Path(folder))
        reason = embedder.serve()
    except BaseException as error:
        traceback.print_exc()
        reason = f"{type(error).__name__}: {error}"
    embedder.end(reason)


if __name__ == "__main__":
    main()
