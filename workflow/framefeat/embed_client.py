"""The light side of the warm embedder: find or start it, hand it one request, wait for the answer.

One embedder serves one owner (a Snakemake process) and one device. Its socket, key and locks lie in a folder that only
the user can enter. Standard library only.
"""

import fcntl
import hashlib
import json
import os
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any

from framefeat import devices
from framefeat.errors import UserError

OWNER = "FRAMEFEAT_OWNER"
_START_SECONDS = 60.0


class EmbedderLost(Exception):
    """The embedder was gone before it had taken the request: trying again is safe."""


def runtime_folder(owner: str) -> Path:
    """The folder of ``owner``'s embedders, mode 0700. Raises ``UserError`` where somebody else could have made it."""
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    if not os.access(base, os.W_OK):
        base = Path(tempfile.gettempdir())
    name = hashlib.sha256(f"{owner}@{socket.gethostname()}".encode()).hexdigest()[:12]
    folder = base / f"framefeat-{os.getuid()}-{name}"
    if len(str(folder)) > 60:  # a socket's path may have 107 bytes
        folder = Path("/tmp") / folder.name
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) != 0o700:
        raise UserError(
            f"{str(folder)!r} is not a folder of this user's own with mode 700; remove it and run again."
        )
    return folder


def _files(folder: Path, device: str) -> tuple[Path, Path, Path]:
    """Socket, key and lock of one device's embedder."""
    name = devices.file_name(device)
    return folder / f"{name}.sock", folder / f"{name}.key", folder / f"{name}.lock"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    with open(path, "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def request(message: Mapping[str, Any], owner: str, device: str, log: Path) -> dict[str, Any]:
    """Hand ``message`` to the embedder of (``owner``, ``device``) and return its answer; starts one where none runs.

    Raises ``UserError`` with the embedder's own sentence, or one that says that it ended while it worked.
    """
    folder = runtime_folder(owner)
    for _ in range(3):
        try:
            connection = _connect_or_start(folder, owner, device, log)
            return _ask(connection, message, log)
        except EmbedderLost:
            continue
    raise UserError(f"the embedder ends as soon as it is started; its log: {log}")


def prewarm(message: Mapping[str, Any], owner: str, device: str, log: Path) -> None:
    """Start the embedder, if none runs, and let it load what ``message`` names; waits for nothing."""
    folder = runtime_folder(owner)
    if _files(folder, device)[0].exists():
        return
    try:
        connection = _connect_or_start(folder, owner, device, log)
        connection.send_bytes(json.dumps(dict(message) | {"kind": "load"}).encode())
        connection.close()
    except (OSError, EOFError, EmbedderLost, UserError):
        return  # the extraction will say what is wrong


def _ask(connection: Connection, message: Mapping[str, Any], log: Path) -> dict[str, Any]:
    try:
        connection.send_bytes(json.dumps(message).encode())
        if connection.recv_bytes() != b"taken":
            raise EmbedderLost
    except (EOFError, OSError) as error:
        raise EmbedderLost from error
    try:
        answer = json.loads(connection.recv_bytes())
    except (EOFError, OSError) as error:
        raise UserError(
            f"the embedder ended while it worked on {message.get('video', 'this video')}; its log: {log}. "
            "Run again: a new one is started."
        ) from error
    finally:
        connection.close()
    if "trace" in answer:
        print(answer["trace"], file=sys.stderr)
    if "error" in answer:
        raise UserError(answer["error"])
    return answer


def _connect_or_start(folder: Path, owner: str, device: str, log: Path) -> Connection:
    address, key_file, lock = _files(folder, device)
    with locked(lock):
        connection = _connect(address, key_file)
        if connection is not None:
            return connection
        process = _start(folder, owner, device, key_file, log)
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            connection = _connect(address, key_file)
            if connection is not None:
                return connection
            if process.poll() is not None:
                break
            time.sleep(0.02)
    raise UserError(f"the embedder could not be started; its log: {log}")


def _connect(address: Path, key_file: Path) -> Connection | None:
    try:
        return Client(str(address), "AF_UNIX", authkey=bytes.fromhex(key_file.read_text()))
    except (FileNotFoundError, ConnectionRefusedError, ConnectionResetError, EOFError):
        return None


def _start(folder: Path, owner: str, device: str, key_file: Path, log: Path) -> Any:
    import subprocess

    address = _files(folder, device)[0]
    address.unlink(missing_ok=True)
    key_file.unlink(missing_ok=True)
    with open(os.open(key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(os.urandom(32).hex())
    environment = dict(os.environ)
    if device != devices.CPU and not devices.is_stand_in(device):
        environment["CUDA_VISIBLE_DEVICES"] = device
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "framefeat.embedder", str(folder), device, owner],
            stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=environment, start_new_session=True,
        )  # fmt: skip
