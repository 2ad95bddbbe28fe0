"""The sample stage: one video's planned frames, decoded, resized and written with the evidence for each row.

Decoding runs in a child process: a decoder that crashes or hangs takes nothing else with it, and decord's memory is
given back. This module imports the decoders in that child alone.
"""

import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from framefeat.errors import UserError
from framefeat.files import atomic_path, read_json, write_json

#: Part of what identifies a result: a change of the numbers that this stage gives must change it.
ALGORITHM = 1
SCHEMA = 1
RECHECKS = 2
#: A strict second pass decodes at most this many frames; rows beyond are not chosen for it.
STRICT_BUDGET = 2000
THUMBNAILS = 24
THUMBNAIL_HEIGHT = 72
_PROGRESS_SEC = 10.0


def sample_key(record: Mapping[str, Any], *, alignment: str, geometry: str, decoder: str) -> dict[str, Any]:
    """All that decides a video's frames; results with an equal key are equal."""
    return {
        "fingerprint": record["fingerprint"],
        "times_sha256": record["times_sha256"],
        "fps": record["fps"],
        "alignment": alignment,
        "geometry": geometry,
        "decoder": decoder,
        "algorithm": ALGORITHM,
    }


def sample_video(
    record: Mapping[str, Any],
    *,
    geometry: str,
    alignment: str,
    decoder: str,
    on_bad_frames: str,
    frames_path: Path,
    recheck_path: Path,
    thumbnails_path: Path,
    evidence_path: Path,
    rechecks: int = RECHECKS,
    timeout: float = 120.0,
) -> dict[str, Any]:
    """Decode one video's rows; returns the evidence that it writes.

    ``record`` is the video's record written by the merge (``video_id, path, timestamps, fps, fingerprint, times_sha256``).
    Writes ``frames_path`` uint8 [T, h, w, 3] (zeros in bad rows), ``recheck_path`` uint8 [K, h, w, 3] (K rows through
    the other reader), ``thumbnails_path`` (a JPEG strip) and ``evidence_path``, each whole or not at all.

    Raises ``UserError`` (file, expected, found, at which time) where a frame cannot be had, unless ``on_bad_frames`` is
    ``mask``: then the row is marked. ``timeout``: seconds without a new frame after which the decoder is ended.
    """
    job = {
        "record": dict(record), "geometry": geometry, "alignment": alignment, "on_bad_frames": on_bad_frames,
        "rechecks": rechecks, "frames": str(frames_path), "recheck": str(recheck_path),
        "thumbnails": str(thumbnails_path), "evidence": str(evidence_path),
        "key": sample_key(record, alignment=alignment, geometry=geometry, decoder=decoder),
    }  # fmt: skip
    attempts = [decoder] if decoder != "auto" else ["auto", "pyav"]
    reason = ""
    for attempt in attempts:
        died = _in_child(job | {"decoder": attempt, "reason": reason}, timeout)
        if died is None:
            return read_json(evidence_path)
        reason = f"decoding with {attempt!r} {died}"
        print(f"{record['path']}: {reason}", file=sys.stderr, flush=True)
    if on_bad_frames == "fail":
        raise UserError(
            f"{record['path']!r} ({record['video_id']}): {reason}; the file is damaged, or set on_bad_frames: mask to mark its rows."
        )
    died = _in_child(job | {"decoder": None, "reason": reason}, timeout)
    if died is not None:
        raise UserError(f"{record['path']!r} ({record['video_id']}): writing its marked rows {died}.")
    return read_json(evidence_path)


def _in_child(job: Mapping[str, Any], timeout: float) -> str | None:
    """Run ``_work`` in a forked process; None when it has finished, else how it died. Its ``UserError`` is raised here."""
    reading, writing = os.pipe()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os._exit(_child_main(job, writing))
    os.close(writing)
    try:
        return _watch(child, reading, timeout)
    finally:
        os.close(reading)
        _remove_leftovers(job)


def _child_main(job: Mapping[str, Any], pipe: int) -> int:
    # An end of the parent, whatever its kind, ends the decoder too.
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        _work(job, lambda: os.write(pipe, b"."))
        os.write(pipe, b"D")
        return 0
    except UserError as error:
        os.write(pipe, b"E" + str(error).encode("utf-8", "replace"))
        return 1
    except BaseException as error:
        traceback.print_exc()
        message = f"failed inside framefeat: {type(error).__name__}: {error}"
        os.write(pipe, b"E" + message.encode("utf-8", "replace"))
        return 1


def _die_with_parent() -> None:
    try:
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, Linux
    except (OSError, AttributeError):
        return


def _watch(child: int, reading: int, timeout: float) -> str | None:
    message = bytearray()
    while True:
        ready, _, _ = select.select([reading], [], [], timeout)
        if not ready:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return f"gave no frame for {timeout:g} s and was ended"
        data = os.read(reading, 65536)
        if not data:
            break
        message += data.lstrip(b".") if not message else data
    _, status = os.waitpid(child, 0)
    if message == b"D":
        return None
    if message.startswith(b"E"):
        raise UserError(message[1:].decode("utf-8"))
    if os.WIFSIGNALED(status):
        return f"crashed ({signal.Signals(os.WTERMSIG(status)).name})"
    return f"ended early (status {os.waitstatus_to_exitcode(status)})"


def _remove_leftovers(job: Mapping[str, Any]) -> None:
    """Temporary files of a child that was killed: their names are those of ``files.atomic_path``."""
    for name in ("frames", "recheck", "thumbnails", "evidence"):
        path = Path(job[name])
        for left in path.parent.glob(f".tmp-*-{_glob_quoted(path.name[-80:])}"):
            left.unlink(missing_ok=True)


def _glob_quoted(name: str) -> str:
    import glob

    return glob.escape(name)


# --- in the child


def _work(job: Mapping[str, Any], alive: Callable[[], Any]) -> None:
    import numpy as np

    from framefeat.quick_plan import BAD
    from framefeat.preprocess import Geometry

    record = job["record"]
    times = record["timestamps"]
    geometry = Geometry.from_name(job["geometry"])
    shape = (len(times), *geometry.output, 3)
    Path(job["frames"]).parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(job["frames"]) as temporary:
        # Rows that are never written stay holes in the file: zeros that take no room.
        frames = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        result = _Result(job, times, alive)
        if job["decoder"] is None:
            result.all_bad(job["reason"])
        else:
            try:
                result.decode(frames, geometry)
            except UserError as error:
                if job["on_bad_frames"] == "fail":
                    raise
                result.all_bad(str(error))
        if result.problems and job["on_bad_frames"] == "fail":
            raise UserError(
                f"{record['path']!r} ({record['video_id']}): {len(result.problems)} of its rows cannot be had: "
                + "; ".join(result.problems[:5])
                + ("; ..." if len(result.problems) > 5 else "")
                + ". Mend the file or the index, or set on_bad_frames: mask to mark these rows."
            )
        frames.flush()
        del frames
        with atomic_path(job["recheck"]) as recheck, open(recheck, "wb") as stream:
            again = result.again or [np.zeros((0, *shape[1:]), np.uint8)]
            np.save(stream, np.concatenate(again), allow_pickle=False)
        result.thumbnails.write(job["thumbnails"])
        evidence = result.evidence()
        if all(status == BAD for status in evidence["rows"]["status"]):
            print(f"{record['video_id']}: no row could be had", file=sys.stderr)
        write_json(job["evidence"], evidence)


class _Result:
    """What is gathered while one video is decoded."""

    def __init__(self, job: Mapping[str, Any], times: Sequence[float], alive: Callable[[], Any]) -> None:
        self.job, self.times, self.alive = job, times, alive
        self.native = [-1] * len(times)
        self.pts: list[float | None] = [None] * len(times)
        self.status = ["bad"] * len(times)
        self.facts: dict[str, Any] | None = job["record"].get("facts")
        self.decoder: str | None = None
        self.reason = job["reason"]
        self.problems: list[str] = []
        self.warnings: list[str] = list(job["record"].get("warnings") or [])
        self.recheck: dict[str, Any] = {"reader": None, "rows": [], "mean_abs_diff": [], "agrees": False}
        self.again: list[Any] = []
        self.frame_size: list[int] | None = None
        self.thumbnails = _Thumbnails(len(times))

    def all_bad(self, reason: str) -> None:
        self.native = [-1] * len(self.times)
        self.pts = [None] * len(self.times)
        self.status = ["bad"] * len(self.times)
        self.problems = [reason]
        self.again = []
        self.thumbnails = _Thumbnails(len(self.times))
        self.recheck = {"reader": None, "rows": [], "mean_abs_diff": [], "agrees": False}

    def decode(self, frames: Any, geometry: Any) -> None:
        from framefeat.quick_container import facts, read_container
        from framefeat.quick_plan import plan_samples
        from framefeat.quick_readers import Misread, PyavReader, choose_reader

        record = self.job["record"]
        container = read_container(record["path"])
        self.alive()
        self.facts = facts(container)
        self.warnings += container.warnings
        plan = plan_samples(container, self.times, record["fps"], self.job["alignment"])
        rows_of: dict[int, list[int]] = {}
        for row, number in enumerate(plan.native.tolist()):
            if number >= 0:
                rows_of.setdefault(number, []).append(row)
            else:
                self.problems.append(
                    f"t = {self.times[row]:g} s is more than one frame past the end ({container.frames} frames, "
                    f"{container.duration_sec:.3f} s)"
                )
        wanted = sorted(rows_of)
        if not wanted:
            self.decoder = self.job["decoder"]
            return
        reader, why = choose_reader(container, self.job["decoder"], wanted[0])
        self.reason = "; ".join(text for text in (self.reason, why) if text)
        self.alive()
        times = container.times()
        try:
            self._read(reader, wanted, rows_of, plan.status, times, frames, geometry)
            self._check_again(container, reader, rows_of, frames, geometry)
        except Misread as error:
            if self.job["decoder"] == "decord":
                raise UserError(
                    f"{record['path']!r} ({record['video_id']}): decord misreads this file ({error}); set decoder: auto or pyav."
                ) from error
            self.reason = str(error)
            self.thumbnails = _Thumbnails(len(self.times))
            self.problems = [text for text in self.problems if "past the end" in text]
            reader = PyavReader(container)
            self._read(reader, wanted, rows_of, plan.status, times, frames, geometry)
            self._check_again(container, reader, rows_of, frames, geometry)
        self.decoder = "pyav" if isinstance(reader, PyavReader) else "decord"

    def _read(
        self,
        reader: Any,
        wanted: list[int],
        rows_of: Mapping[int, list[int]],
        planned: list[str],
        times: Any,
        frames: Any,
        geometry: Any,
    ) -> None:
        said = time.monotonic()
        done = 0
        for number, image in reader.frames(wanted):
            self.frame_size = [int(image.shape[0]), int(image.shape[1])]
            small = geometry.apply(image)
            for row in rows_of[number]:
                frames[row] = small
                self.native[row] = int(number)
                self.pts[row] = float(times[number])
                self.status[row] = planned[row]
                self.thumbnails.offer(row, image)
            done += 1
            self.alive()
            if time.monotonic() - said > _PROGRESS_SEC:
                said = time.monotonic()
                print(f"{self.job['record']['video_id']}: {done} of {len(wanted)} frames", file=sys.stderr, flush=True)
        for number, why in reader.missing.items():
            for row in rows_of[number]:
                self.problems.append(
                    f"t = {self.times[row]:g} s (frame {number} at {times[number]:.3f} s was expected): {why}"
                )

    def _check_again(
        self, container: Any, reader: Any, rows_of: Mapping[int, list[int]], frames: Any, geometry: Any
    ) -> None:
        """Decode some rows through another reader; compare pixels, keep the frames for the extraction to embed again."""
        import numpy as np

        from framefeat.quick_readers import PIXEL_TOLERANCE, Misread, PyavReader, second_reader

        good = [row for row, status in enumerate(self.status) if status != "bad"]
        first = "pyav" if isinstance(reader, PyavReader) else "decord"
        if not good:
            return
        other = second_reader(container, first, self.native[good[0]])
        self.alive()
        if getattr(other, "strict", False):
            near = [row for row in good if self.native[row] < STRICT_BUDGET]
            good = near or good[:1]
        rows = _choose(good, self.job["rechecks"], str(self.job["record"]["fingerprint"]))
        numbers = sorted({self.native[row] for row in rows})
        try:
            seen = dict(_ticking(other.frames(numbers), self.alive))
        except Misread:
            other = PyavReader(container, strict=True)
            seen = dict(_ticking(other.frames(numbers), self.alive))
        lost = [number for number in numbers if number not in seen]
        if lost:
            raise Misread(f"{other.name} cannot decode frame {lost[0]}")
        # The full-size frames of the first reader are gone: what was kept of them, resized, is compared.
        differences = []
        for row in rows:
            small = geometry.apply(seen[self.native[row]])
            differences.append(float(np.abs(small.astype(np.int16) - frames[row]).mean()))
            self.again.append(small[None])
        agrees = max(differences) <= PIXEL_TOLERANCE
        self.recheck = {
            "reader": other.name, "rows": rows, "mean_abs_diff": [round(value, 6) for value in differences],
            "agrees": agrees,
        }  # fmt: skip
        if not agrees:
            self.again = []
            text = f"{first} and {other.name} differ in row {rows[int(np.argmax(differences))]} by {max(differences):.1f}/255"
            if first == "decord":
                raise Misread(text)
            raise UserError(f"{self.job['record']['path']!r} ({self.job['record']['video_id']}): {text}.")

    def evidence(self) -> dict[str, Any]:
        from importlib.metadata import version

        return {
            "schema": SCHEMA,
            "video_id": self.job["record"]["video_id"],
            "key": self.job["key"],
            "video": self.facts,
            "decoder": self.decoder,
            "decoder_reason": self.reason,
            "frame_size": self.frame_size,
            "rows": {
                "timestamp_sec": list(self.times),
                "native_idx": self.native,
                "pts_sec": self.pts,
                "status": self.status,
            },
            "recheck": self.recheck,
            "thumbnails": self.thumbnails.layout(),
            "warnings": self.warnings,
            "problems": self.problems,
            "versions": {name: version(name) for name in ("av", "decord2", "numpy", "pillow")},
        }


def _ticking(frames: Any, alive: Callable[[], Any]) -> Any:
    for item in frames:
        alive()
        yield item


def _choose(rows: list[int], count: int, seed: str) -> list[int]:
    """The last row and ``count - 1`` others drawn by ``seed``: the same rows for the same content."""
    import random

    if len(rows) <= count:
        return rows
    return sorted([*random.Random(seed).sample(rows[:-1], count - 1), rows[-1]])


class _Thumbnails:
    """A strip of at most ``THUMBNAILS`` evenly spaced rows, one JPEG."""

    def __init__(self, rows: int) -> None:
        count = min(rows, THUMBNAILS)
        self.wanted = {round(place * (rows - 1) / max(1, count - 1)) for place in range(count)}
        self.cells: dict[int, Any] = {}
        self.size = (THUMBNAIL_HEIGHT, THUMBNAIL_HEIGHT)

    def offer(self, row: int, image: Any) -> None:
        if row not in self.wanted:
            return
        from PIL import Image

        height, width = image.shape[:2]
        self.size = (max(1, min(160, round(width * THUMBNAIL_HEIGHT / height))), THUMBNAIL_HEIGHT)
        self.cells[row] = Image.fromarray(image).resize(self.size, Image.Resampling.BILINEAR, reducing_gap=2.0)

    def layout(self) -> dict[str, Any]:
        return {"rows": sorted(self.cells), "width": self.size[0], "height": self.size[1]}

    def write(self, path: str) -> None:
        from PIL import Image

        strip = Image.new("RGB", (self.size[0] * max(1, len(self.cells)), self.size[1]))
        for place, row in enumerate(sorted(self.cells)):
            strip.paste(self.cells[row], (place * self.size[0], 0))
        with atomic_path(path) as temporary:
            strip.save(temporary, format="JPEG", quality=80)
