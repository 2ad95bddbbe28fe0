"""An embedder whose backend does what each request says, for tests of everything around the model. Run as a script."""

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
    """``do``: a word, or one for each video by its name; ``note``: a file to which a line is added when the work on a
    video begins and when it ends."""

    def load(self, message: Mapping[str, Any], beat: Callable[[], None]) -> None:
        if message.get("do") == "hold":
            self._hold(message)
        self._note(message, "loaded")
        if message.get("do") == "refuse":
            raise UserError("no such model")
        if message.get("do") == "lose":
            raise torch_says("CUDA error: unspecified launch failure")

    def embed(
        self,
        message: Mapping[str, Any],
        tell: Callable[[Any], None],
        beat: Callable[[], None],
    ) -> None:
        for video in message["videos"]:
            self._note(message, "begin", video["video"])
            do = message.get("do")
            self._do(do.get(video["video"]) if isinstance(do, dict) else do, message, beat)
            self._note(message, "end", video["video"])
            if do == "mention":
                tell({"place": video["place"], "failure": f"{video['video']}: cannot be read"})
            else:
                tell({"place": video["place"], "record": self._made(message, video)})

    def _do(self, do: str | None, message: Mapping[str, Any], beat: Callable[[], None]) -> None:
        match do:
            case "refuse":
                raise UserError("weights.pth: cannot be read.")
            case "fail":
                raise ZeroDivisionError("of all things")
            case "lose":
                raise torch_says("CUDA error: an illegal memory access was encountered")
            case "lose once" if not Path(message["once"]).exists():
                Path(message["once"]).touch()
                raise torch_says("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED")
            case "suffer, then lose once":
                with open(message["once"], "a+") as tries:
                    tries.write("x")
                    tried = tries.tell()
                if tried == 1:
                    raise DeviceLost("another video's error", blame=False)
                if tried == 2:
                    raise torch_says("CUDA error: unspecified launch failure")
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
                time.sleep(60)  # the other threads stop first
            case "beat" | "beat, then stop getting on":
                for _ in range(message["beats"]):
                    time.sleep(0.1)
                    beat()
                if do != "beat":
                    time.sleep(60)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "abort":
                os.abort()
            case "sleep":
                if message.get("scratch"):
                    (Path(message["scratch"]) / "half").write_text("made")
                time.sleep(message["seconds"])
            case "hold":
                self._hold(message)
            case "print":
                print("x" * 1_000_000, flush=True)

    def _hold(self, message: Mapping[str, Any]) -> None:
        """Until the file ``gate`` is there; it is waited for long, however busy the machine."""
        deadline = time.monotonic() + 30
        while not Path(message["gate"]).exists():
            if time.monotonic() > deadline:
                raise TimeoutError("the gate stays closed")
            time.sleep(0.01)

    def _made(self, message: Mapping[str, Any], video: Mapping[str, Any]) -> dict[str, Any]:
        """The record, which is stored where a file for it is named."""
        record = {
            "video_id": video["video"],
            "key": video.get("key"),
            "rows": video["rows"],
            "device": "stub",
            "pid": os.getpid(),
            "together": message.get("together"),
        }
        if video.get("features"):
            import numpy as np
            from framefeat import stored

            stored.write(video["features"], record, {"features": np.zeros((video["rows"], 2), np.float32)})
        return record

    def _note(self, message: Mapping[str, Any], what: str, video: str = "") -> None:
        if "note" in message:
            with open(message["note"], "a") as stream:
                stream.write(f"{what} {os.getpid()} {time.monotonic()} {video.replace(' ', '_')}\n")


if __name__ == "__main__":
    server.main(Stub())
