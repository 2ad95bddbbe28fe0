"""decord, watched: it conceals damage and repeats frames without an error, and counts packets that are never shown."""

import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from framefeat import tolerances
from framefeat.errors import machine_trouble
from framefeat.video.container import Container
from framefeat.video.packets import Tick, nothing, packets_of
from framefeat.video.passes import leading_pictures
from framefeat.video.pyav import PyavReader, open_stream
from framefeat.video.reader import (
    Decoded,
    ReaderMistake,
    is_harmless,
    mean_difference,
)

#: Frames that equal their predecessor are common in still scenes: so many are looked at again, and the last one always.
_STILLS_LOOKED_AT = 2
#: decord asks its decoding thread ten thousand times for the next of the frames that it passes over, or for the last
#: ones of the file, without a pause, and gives up; where the processors are busy that is a matter of milliseconds, and
#: says nothing of the file.
_GAVE_UP = re.compile(r"did not respond after \d+ attempts|takes too long to retrieve last few frames")
_TRIES = 10
_PAUSE_SEC = 0.05


class DecordReader:
    """Sorted random access through decord on one thread, checked against the container.

    Raises ``ReaderMistake`` on any doubt: its frames or times are not the container's, its decoder complains on
    standard error, or it repeats a frame where there is another one.
    """

    name = "decord"

    def __init__(self, container: Container, tick: Tick = nothing) -> None:
        self.container = container
        self.tick = tick
        self.problems: dict[int, str] = {}
        self._stills = 0
        reason = misreads(container)
        if reason:
            raise ReaderMistake(reason)
        # decord decodes ahead in a thread of its own: its complaints may come at any time until the last frame is out.
        self._watch = _StandardError()
        try:
            self._compare_index(self._open())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give standard error back; called when ``frames`` ends."""
        self._watch.close()

    def _open(self) -> np.ndarray:
        """The times of decord's frames: float64 seconds [n]."""
        try:
            self._video = self._new_video()
            starts = np.asarray(self._video.get_frame_timestamp(np.arange(len(self._video))))[:, 0]
        except Exception as error:
            if trouble := machine_trouble(error):
                raise trouble from error
            raise ReaderMistake(f"decord cannot open it ({_told(error)})") from None
        self._watch.check()
        return starts.astype(np.float64)

    def _new_video(self) -> Any:
        decord = import_decord()
        decord.logging.set_level(decord.logging.ERROR)
        return decord.VideoReader(self.container.path, num_threads=1)

    def _compare_index(self, starts: np.ndarray) -> None:
        """decord's frame times (float64 seconds [n]) against the container's, both from the first frame."""
        container = self.container
        if len(starts) != container.n_presented:
            raise ReaderMistake(f"decord counts {len(starts)} frames, the container {container.n_presented}")
        times = container.times()
        off = np.abs((starts - starts[0]) - times)
        wrong = ~(off <= 1e-3 + 1e-6 * times)
        if wrong.any():
            worst = int(np.flatnonzero(wrong)[0])
            raise ReaderMistake(
                f"decord has frame {worst} at {starts[worst] - starts[0]:.3f} s, the container at {times[worst]:.3f} s"
            )

    def compare_pixels(self, reference: Decoded) -> None:
        """Refuse a decord whose pixels are not those of PyAV's frame."""
        own = self._take(reference.native)
        difference = mean_difference(own, reference.rgb)
        if np.isinf(difference):
            raise ReaderMistake(
                f"decord's frame {reference.native} has shape {own.shape} and not {reference.rgb.shape}"
            )
        if difference > tolerances.PIXELS:
            raise ReaderMistake(
                f"decord's frame {reference.native} differs by {difference:.1f}/255 in the mean"
            )

    def frames(self, wanted: Sequence[int]) -> Iterator[Decoded]:
        before = None
        try:
            for number in wanted:
                self.tick()
                rgb = self._take(int(number))
                if before is not None and np.array_equal(before, rgb):
                    self._look_again(int(number), rgb)
                before = rgb
                yield Decoded(int(number), int(self.container.pts[number]), rgb)
        finally:
            self.close()

    def _take(self, number: int) -> np.ndarray:
        for tried in range(1, _TRIES):
            try:
                return self._try_to_take(number)
            except ReaderMistake as mistake:
                if not _GAVE_UP.search(str(mistake)):
                    raise
            self.tick()
            time.sleep(tried * _PAUSE_SEC)
            self._video = self._new_video()
        return self._try_to_take(number)

    def _try_to_take(self, number: int) -> np.ndarray:
        try:
            rgb = self._video[number].asnumpy()
        except Exception as error:
            if trouble := machine_trouble(error):
                raise trouble from error
            raise ReaderMistake(f"decord fails at frame {number} ({_told(error)})") from None
        self._watch.check()
        if rgb.ndim != 3 or rgb.shape[2] != 3:
            raise ReaderMistake(f"decord's frame {number} has shape {rgb.shape}")
        return rgb

    def _look_again(self, number: int, rgb: np.ndarray) -> None:
        """A still scene, or a frame repeated for one that decord could not decode? PyAV tells."""
        if self._stills >= _STILLS_LOOKED_AT and number != self.container.n_presented - 1:
            return
        self._stills += 1
        reader = PyavReader(self.container, self.tick)
        again = list(reader.frames([number]))
        if not again or reader.problems or mean_difference(rgb, again[0].rgb) > tolerances.PIXELS:
            raise ReaderMistake(f"decord repeats another frame in place of frame {number}")


def import_decord() -> Any:
    """decord, without the CUDA libraries: decord2 loads every one that an installed torch brought along (0.25 s and
    600 MB in each process), and none is needed to decode on the CPU."""
    hidden = "nvidia" not in sys.modules
    if hidden:
        sys.modules["nvidia"] = None  # type: ignore[assignment]
    try:
        import decord
    finally:
        if hidden:
            del sys.modules["nvidia"]
    return decord


def misreads(container: Container) -> str | None:
    """Why decord cannot be right on this file, by what the file holds; None where decord has to be tried."""
    if container.index_source != "packets":
        return "the packets do not tell the presented frames, and decord goes by packets"
    if hidden := int((~container.packets.shown).sum()):
        return f"decord counts {hidden} packets that are not presented (hidden, or cut off by an edit list)"
    if container.damage:
        return "the file is cut short, and decord repeats frames for missing ones"
    if {"mpegts", "mpeg"} & set(container.format.split(",")):
        return "decord begins at the second key frame of most MPEG transport and program streams"
    if container.in_order:
        return f"{container.in_order}, and decord seeks past it"
    if false := int((container.packets.marked & ~container.packets.key).sum()):
        return f"{false} packets are marked as key frames and decoding cannot begin there, but decord would"
    if leading := leading_pictures(container.packets):
        return (
            f"{leading} frames of open groups of pictures are shown before the key frame that they follow, and decord "
            "counts wrongly where it seeks to one"
        )
    return None


def lost_seek(container: Container, wanted: Sequence[int], tick: Tick = nothing) -> str | None:
    """Where a seek that decord would make for ``wanted`` lands on another packet; None if all seeks land.

    decord counts on from the key frame that it asked for, wherever the container's own table takes it. Each group of
    pictures that holds a wanted frame is tried; nothing is decoded.
    """
    import av

    packets = container.packets
    keys = np.flatnonzero(packets.key)
    positions = container.packet[np.asarray(wanted, dtype=np.int64)]
    groups = np.unique(np.searchsorted(keys, positions, side="right") - 1)
    places = keys[groups[groups > 0]].tolist()
    if not places:
        return None
    source, stream, _ = open_stream(container)
    with source:
        for place in places:
            tick()
            pts = int(packets.pts[place])
            try:
                source.seek(pts, stream=stream, backward=True)
                landed = next(packets_of(av, source, stream), None)
            except av.FFmpegError:
                landed = None
            if landed is None or landed.pts != pts:
                where = "nowhere" if landed is None else f"on the packet of time {landed.pts}"
                return f"a seek to the key frame of time {pts} lands {where}"
    return None


def _told(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0].rpartition("] ")[2] if lines else type(error).__name__)[:200]


class _StandardError:
    """Until closed, file descriptor 2 goes to a temporary file: native code's complaints can be read and judged."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        self._read = 0
        with suppress(Exception):
            sys.stderr.flush()
        self._saved: int | None = os.dup(2)
        os.dup2(self._file.fileno(), 2)

    def close(self) -> None:
        if self._saved is not None:
            os.dup2(self._saved, 2)
            os.close(self._saved)
            self._saved = None
            self._file.close()

    __del__ = close

    def check(self) -> None:
        """Raise ``ReaderMistake`` for the first new whole line that is about a damaged picture."""
        if self._saved is None or os.fstat(self._file.fileno()).st_size == self._read:
            return
        text = os.pread(self._file.fileno(), 10_000, self._read)
        text = text[: text.rfind(b"\n") + 1]
        self._read += len(text)
        for line in text.decode("utf-8", "replace").splitlines():
            message = line.rpartition("] ")[2].strip()
            if message and not is_harmless(line):
                raise ReaderMistake(f"decord's decoder complains ({message[:160]})")
