"""An embedder whose backend does what each request says, for tests of everything around the model. Run as a script."""

import json
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from framefeat import embedder
from framefeat.errors import UserError


class Stub:
    """``do``: a word; ``note``: a file to which a line is added when the work begins and when it ends."""

    def load(self, message: Mapping[str, Any]) -> None:
        self._note(message, "loaded")
        if message.get("do") == "refuse":
            raise UserError("no such model")

    def embed(self, message: Mapping[str, Any]) -> dict[str, Any]:
        self._note(message, "begin")
        match message.get("do"):
            case "refuse":
                raise UserError("frames.npy: cannot be read; sample it again.")
            case "fail":
                raise ZeroDivisionError("of all things")
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "abort":
                os.abort()
            case "sleep":
                if "scratch" in message:
                    (Path(message["scratch"]) / "half").write_text("made")
                time.sleep(message["seconds"])
            case "print":
                print("x" * 1_000_000, flush=True)
        self._note(message, "end")
        for name in ("features", "record"):
            if name in message:
                Path(message[name]).write_text(json.dumps({"key": message.get("key"), "pid": os.getpid()}))
        return {"rows": 1, "pid": os.getpid()}

    def _note(self, message: Mapping[str, Any], what: str) -> None:
        if "note" in message:
            with open(message["note"], "a") as stream:
                stream.write(f"{what} {os.getpid()} {time.monotonic()}\n")


if __name__ == "__main__":
    embedder.main(Stub())
