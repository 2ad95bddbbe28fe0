"""An embedder whose backend does what each request says, for tests of everything around the model. Run as a script."""

import json
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from framefeat.backbone.device_errors import DeviceLost
from framefeat.errors import UserError
from framefeat.extract import server


def torch_says(text: str) -> RuntimeError:
    """As torch raises it where a device fails: with advice."""
    return RuntimeError(f"{text}\nCUDA kernel errors might be asynchronously reported at some other API call")


class Stub:
    """``do``: a word; ``note``: a file to which a line is added when the work begins and when it ends."""

    def load(self, message: Mapping[str, Any], beat: Callable[[], None]) -> None:
        self._note(message, "loaded")
        if message.get("do") == "refuse":
            raise UserError("no such model")
        if message.get("do") == "lose":
            raise torch_says("CUDA error: unspecified launch failure")

    def embed(self, message: Mapping[str, Any], beat: Callable[[], None]) -> dict[str, Any]:
        self._note(message, "begin")
        match message.get("do"):
            case "refuse":
                raise UserError("frames.npy: cannot be read; sample it again.")
            case "fail":
                raise ZeroDivisionError("of all things")
            case "lose":
                raise torch_says("CUDA error: an illegal memory access was encountered")
            case "lose once" if not Path(message["once"]).exists():
                Path(message["once"]).touch()
                raise torch_says("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED")
            case "suffer once" if not Path(message["once"]).exists():
                Path(message["once"]).touch()
                raise DeviceLost("another video's error", blame=False)
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
                time.sleep(60)  # the other threads stop first
            case "beat":
                for _ in range(message["beats"]):
                    time.sleep(0.1)
                    beat()
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
    server.main(Stub())
