"""The warm embedder: a process that has torch and the backbones loaded, and embeds one video per request.

``python -m framefeat.embedder FOLDER DEVICE OWNER`` is started by ``embed_client``. It ends when its owner has ended or
when nothing has asked for long, and leaves no socket behind.
"""

import json
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

from framefeat import devices
from framefeat.embed_client import _files, locked
from framefeat.errors import UserError

_IDLE_SECONDS = float(os.environ.get("FRAMEFEAT_IDLE_S", "600"))


class Embedder:
    """The loaded models and the requests under way."""

    def __init__(self, folder: Path, device: str, owner: str) -> None:
        self.folder, self.device, self.owner = folder, device, owner
        self.address, self.key_file, self.lock = _files(folder, device)
        self.torch_device = "cpu" if device == devices.CPU or devices.is_stand_in(device) else "cuda"
        self._active = 0
        self._last = time.monotonic()
        self._guard = threading.Lock()

    def serve(self) -> None:
        from framefeat.embedding import Models

        listener = Listener(
            str(self.address), "AF_UNIX", backlog=64, authkey=bytes.fromhex(self.key_file.read_text())
        )
        threading.Thread(target=self._watch_owner, daemon=True).start()
        threading.Thread(target=self._watch_idleness, daemon=True).start()
        models = Models(self.torch_device)
        self._say(f"ready for {self.owner} on {self.device}")
        while True:
            try:
                connection = listener.accept()
            except (AuthenticationError, EOFError, OSError) as error:
                self._say(f"a connection was refused: {error!r}")
                continue
            with self._guard:
                self._active += 1
            threading.Thread(target=self._handle, args=(connection, models), daemon=True).start()

    def _handle(self, connection: Connection, models: Any) -> None:
        try:
            with connection:
                message = json.loads(connection.recv_bytes())
                if message.get("kind") == "load":
                    models.get(message)
                    return
                connection.send_bytes(b"taken")
                connection.send_bytes(json.dumps(self._answer(message, models)).encode())
        except (EOFError, OSError):
            self._say("a client went away")
        except UserError as error:  # of a load: the extraction will meet it again and say so
            self._say(str(error))
        finally:
            with self._guard:
                self._active -= 1
                self._last = time.monotonic()

    def _answer(self, message: Mapping[str, Any], models: Any) -> dict[str, Any]:
        from framefeat.embedding import embed_video

        try:
            return {"record": embed_video(message, models)}
        except UserError as error:
            return {"error": str(error)}
        except BaseException as error:
            trace = traceback.format_exc()
            self._say(trace)
            return {"error": f"embedding failed: {type(error).__name__}: {error}", "trace": trace}

    def _watch_owner(self) -> None:
        pid = int(self.owner.partition(":")[0])
        with suppress(OSError, AttributeError):
            handle = os.pidfd_open(pid)
            if devices.is_running(self.owner):
                select.select([handle], [], [])
        while devices.is_running(self.owner):
            time.sleep(0.5)
        self.end("its owner has ended")

    def _watch_idleness(self) -> None:
        while True:
            time.sleep(min(5.0, _IDLE_SECONDS / 4))
            with self._guard:
                idle = self._active == 0 and time.monotonic() - self._last > _IDLE_SECONDS
            if idle:
                with locked(self.lock):  # no client is between looking for the socket and being served
                    with self._guard:
                        if self._active:
                            continue
                    self.end("nothing has asked for long")

    def end(self, reason: str) -> None:
        self._say(f"ends: {reason}")
        self.address.unlink(missing_ok=True)
        self.key_file.unlink(missing_ok=True)
        if not any(self.folder.glob("*.sock")) and not devices.is_running(self.owner):
            for path in self.folder.iterdir():
                path.unlink(missing_ok=True)
            with suppress(OSError):
                self.folder.rmdir()
        os._exit(0)

    def _say(self, text: str) -> None:
        print(f"embedder {os.getpid()}: {text}", file=sys.stderr, flush=True)


def main() -> None:
    folder, device, owner = sys.argv[1:]
    embedder = Embedder(Path(folder), device, owner)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: embedder.end("it was told to"))
    embedder.serve()


if __name__ == "__main__":
    main()
