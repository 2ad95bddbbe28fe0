"""Three ways to the same frames: decord, PyAV that skips what no one needs, and PyAV decoding strictly in order.

Each reader is asked for presented frames by number, ascending, and yields what it really decoded, with the presentation
time of that very frame. After the last one ``problems`` names the frames that could not be had cleanly, and why.
"""

import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import numpy as np

from framefeat.container import NO_PTS, Container
from framefeat.errors import UserError
from framefeat.plan import SKIPPABLE_CODECS, decode_plan, start_of

#: Two decodes of one frame agree when the mean absolute difference of their pixels is at most this (of 255).
TOLERANCE = 2.0

#: What decoders print as errors although the picture is whole.
_HARMLESS = re.compile(
    r"mmco: unref short failure|number of reference frames .* exceeds max|\bSEI\b|\bVUI\b|Overread|Late SEI"
    r"|co located POCs unavailable|deprecated pixel format",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Decoded:
    """One frame: its number among the presented frames, its presentation time in stream ticks, and its pixels as they
    are to be displayed: uint8 [H, W, 3], red, green, blue."""

    native: int
    pts: int
    rgb: np.ndarray


class Reader(Protocol):
    """``frames`` yields each of ``wanted`` (ascending frame numbers) at most once, in ascending order."""

    name: str
    problems: dict[int, str]

    def frames(self, wanted: Sequence[int]) -> Iterator[Decoded]: ...


class ReaderMistake(Exception):
    """A reader's view of the file is not the container's: what it gives cannot be trusted."""


Tick = Callable[[], None]


def _nothing() -> None:
    return None


def mean_difference(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference (of 255) of two frames uint8 [H, W, 3]; infinite where their shapes differ."""
    if a.shape != b.shape:
        return float("inf")
    return float(np.abs(a.astype(np.int16) - b.astype(np.int16)).mean())


# --- PyAV


class _Converter:
    """Decoded frames to displayed RGB: one scaling context, one thread, and the display matrix as players apply it."""

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()

    def __call__(self, frame: Any) -> np.ndarray:
        rgb = self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        return displayed(rgb, _display_matrix(frame))


def _display_matrix(frame: Any) -> tuple[int, int, int, int] | None:
    """The four turning elements of the frame's display matrix (16.16 fixed point), None where it has none."""
    if not frame.rotation and "DISPLAYMATRIX" not in _side_data_names(frame):
        return None
    for data in frame.side_data.keys():
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d = np.frombuffer(data, dtype=np.int32)[:5]
            return int(a), int(b), int(c), int(d)
    return None


def _side_data_names(frame: Any) -> set[str]:
    return {data.type.name for data in frame.side_data.keys()}


def displayed(rgb: np.ndarray, matrix: tuple[int, int, int, int] | None) -> np.ndarray:
    """Turn and mirror ``rgb`` [H, W, 3] as its display matrix asks (multiples of 90 degrees; others are left alone).

    The pixel at column x and row y goes to column a*x + c*y and row b*x + d*y.
    """
    if matrix is None:
        return rgb
    a, b, c, d = matrix
    if (a, d) == (0, 0) and b and c:
        rgb, across, down = rgb.transpose(1, 0, 2), c, b
    elif (b, c) == (0, 0) and a and d:
        across, down = a, d
    else:
        return rgb
    if across < 0:
        rgb = rgb[:, ::-1]
    if down < 0:
        rgb = rgb[::-1]
    return np.ascontiguousarray(rgb)


def _open(container: Container) -> tuple[Any, Any, Any]:
    """The file, its stream and a decoder of one thread."""
    import av

    source = av.open(container.path, metadata_errors="replace")
    stream = source.streams[container.stream_index]
    context = stream.codec_context
    context.thread_count = 1
    stream.thread_type = "NONE"
    return source, stream, context


def _complaints(logs: list[Any]) -> str | None:
    """The first error among a decoder's messages that is about the picture; empties ``logs``."""
    found = None
    for _, _, text in logs:
        if found is None and not _HARMLESS.search(text):
            found = text.strip()
    logs.clear()
    return found


class PyavReader:
    """One forward pass without a seek: groups of pictures that no one needs are not decoded, and in the others only
    what wanted frames refer to. Serves files whose packets tell the presented frames."""

    name = "pyav"

    def __init__(self, container: Container, tick: Tick = _nothing) -> None:
        if container.index_source != "packets":
            raise ReaderMistake("its packets do not tell the presented frames")
        self.container = container
        self.tick = tick
        self.problems: dict[int, str] = {}
        self.packets_decoded = 0

    def frames(self, wanted: Sequence[int]) -> Iterator[Decoded]:
        import av

        container = self.container
        self.problems = {}
        if not len(wanted):
            return
        plan = decode_plan(container.packets, container.packet[np.asarray(wanted, dtype=np.int64)])
        self.packets_decoded = plan.decoded_packets
        native_at = {int(container.pts[number]): int(number) for number in wanted}
        position_at = {int(container.pts[k]): int(container.packet[k]) for k in range(container.n_presented)}
        skips = container.codec in SKIPPABLE_CODECS
        faults: dict[int, str] = {}
        given: set[int] = set()
        last_pts = NO_PTS
        with av.logging.Capture(local=False) as logs:
            source, stream, context = _open(container)
            convert = _Converter()
            with source:
                for position, frames, failure in self._decode(av, source, stream, context, plan, skips):
                    failure = failure or _complaints(logs)
                    if failure and not plan.leading[position]:
                        faults.setdefault(position, failure)
                    for frame in frames:
                        pts = frame.pts
                        place = position_at.get(pts, -1)
                        if place < 0 or (place < len(plan.leading) and plan.leading[place]):
                            continue
                        if frame.is_corrupt:
                            faults.setdefault(place, "the decoder reports damage")
                        number = native_at.get(pts)
                        if number is None or number in given:
                            continue
                        if pts <= last_pts:
                            faults.setdefault(place, "frames come out of the decoder out of order")
                            continue
                        last_pts = pts
                        given.add(number)
                        yield Decoded(number, pts, convert(frame))
        for position in np.flatnonzero(plan.wanted & container.packets.corrupt):
            faults.setdefault(int(position), "the container marks the packet as damaged")
        self._judge(wanted, plan.start, faults, given)

    def _decode(
        self, av: Any, source: Any, stream: Any, context: Any, plan: Any, skips: bool
    ) -> Iterator[tuple[int, list[Any], str | None]]:
        """``(position, frames that came out, what went wrong)`` for every packet that is fed."""
        packets = source.demux(stream)
        position = -1
        skipping = False
        fed = False
        while position + 1 < plan.end:
            try:
                packet = next(packets)
            except (StopIteration, av.FFmpegError):
                break
            if packet.size == 0 and packet.pts is None and packet.dts is None:
                continue
            position += 1
            if position % 100 == 0:
                self.tick()
            if not plan.feed[position]:
                continue
            if plan.restart[position] and fed:
                yield position - 1, *self._feed(av, context, None)
                context.flush_buffers()
            if skips and skipping == plan.wanted[position]:
                skipping = not plan.wanted[position]
                context.skip_frame = "NONREF" if skipping else "DEFAULT"
            fed = True
            yield position, *self._feed(av, context, packet)
        if fed:
            yield position, *self._feed(av, context, None)

    @staticmethod
    def _feed(av: Any, context: Any, packet: Any) -> tuple[list[Any], str | None]:
        try:
            return context.decode(packet), None
        except EOFError:
            return [], None
        except av.FFmpegError as error:
            return [], str(error.strerror or error)

    def _judge(self, wanted: Sequence[int], start: np.ndarray, faults: Mapping[int, str], given: set[int]) -> None:
        """A fault spoils what was decoded after it from the same key frame."""
        places = np.array(sorted(faults), dtype=np.int64)
        for number in wanted:
            position = int(self.container.packet[number])
            at = int(np.searchsorted(places, position, side="right")) - 1
            if at >= 0 and places[at] >= start[position]:
                first = int(places[np.searchsorted(places, start[position])])
                self.problems[int(number)] = faults[first]
            elif int(number) not in given:
                self.problems[int(number)] = "the decoder gives no frame for its packet"


class SequentialReader:
    """Everything decoded in order from the first packet, no skipping: slow, and the judge of all others."""

    name = "pyav-sequential"

    def __init__(self, container: Container, tick: Tick = _nothing) -> None:
        self.container = container
        self.tick = tick
        self.problems: dict[int, str] = {}

    def frames(self, wanted: Sequence[int]) -> Iterator[Decoded]:
        import av

        container = self.container
        self.problems = {}
        wanted_set = {int(number) for number in wanted}
        if not wanted_set:
            return
        by_pts = container.index_source == "packets"
        number_at = {int(pts): k for k, pts in enumerate(container.pts)} if by_pts else {}
        packets = container.packets
        keys = np.flatnonzero(packets.key)
        last_needed = max(wanted_set)
        stop_at = int(container.packet[last_needed]) if by_pts else len(packets)
        spoilt_since: int | None = None  # position of the last fault in decoding order
        spoilt_why = ""
        spoilt_output = ""
        given: set[int] = set()
        reasons: dict[int, str] = {}
        ordinal = -1
        position = -1
        with av.logging.Capture(local=False) as logs:
            source, stream, context = _open(container)
            convert = _Converter()
            with source:
                demuxed = source.demux(stream)
                ended = False
                while not ended:
                    try:
                        packet = next(demuxed, None)
                    except av.FFmpegError:
                        packet = None
                    ended = packet is None or position >= stop_at
                    if not ended and packet.size == 0 and packet.pts is None and packet.dts is None:
                        continue
                    position += not ended
                    if position % 20 == 0:
                        self.tick()
                    frames, fault = PyavReader._feed(av, context, None if ended else packet)
                    fault = fault or _complaints(logs)
                    if not ended and packet.is_corrupt and not fault:
                        fault = "the container marks the packet as damaged"
                    if fault:
                        spoilt_since, spoilt_why = min(position, len(packets) - 1), fault
                        spoilt_output = fault
                    for frame in frames:
                        ordinal += 1
                        number = number_at.get(frame.pts, -1) if by_pts else ordinal
                        if number < 0 or number >= container.n_presented:
                            continue
                        if by_pts:
                            place = int(container.packet[number])
                            if frame.is_corrupt:
                                spoilt_since, spoilt_why = max(place, spoilt_since or 0), "the decoder reports damage"
                            begun = start_of(packets, keys, place)
                            if spoilt_since is not None and begun <= spoilt_since and (
                                spoilt_since <= place or frame.is_corrupt
                            ):
                                reasons[number] = spoilt_why
                        else:
                            if frame.is_corrupt:
                                spoilt_output = "the decoder reports damage"
                            elif frame.key_frame and not fault:
                                spoilt_output = ""
                            if spoilt_output:
                                reasons[number] = spoilt_output
                        if number in wanted_set and number not in given:
                            given.add(number)
                            yield Decoded(number, int(container.pts[number]), convert(frame))
                        if number >= last_needed and not by_pts:
                            ended = True
        for number in sorted(wanted_set):
            if number in reasons:
                self.problems[number] = reasons[number]
            elif number not in given:
                self.problems[number] = "decoding in order gives no such frame"


# --- decord


class DecordReader:
    """Sorted random access through decord, checked against the container; raises ``ReaderMistake`` on any doubt.

    decord conceals damage and repeats frames without an error, so its standard error is watched while it works, and
    every frame that equals its predecessor is looked at again.
    """

    name = "decord"

    def __init__(self, container: Container, tick: Tick = _nothing) -> None:
        self.container = container
        self.tick = tick
        self.problems: dict[int, str] = {}
        reason = decord_misreads(container)
        if reason:
            raise ReaderMistake(reason)
        self._watch = _StandardError()
        with self._watch:
            try:
                import decord

                decord.logging.set_level(decord.logging.ERROR)
                self._video = decord.VideoReader(container.path, num_threads=1)
            except Exception as error:
                raise ReaderMistake(f"decord cannot open it ({_first_line(error)})") from None
            self._compare_index()
            self._watch.check()

    def _compare_index(self) -> None:
        container = self.container
        if len(self._video) != container.n_presented:
            raise ReaderMistake(f"decord counts {len(self._video)} frames, the container {container.n_presented}")
        starts = np.asarray(self._video.get_frame_timestamp(np.arange(container.n_presented)), dtype=np.float64)[:, 0]
        times = container.times()
        off = np.abs((starts - starts[0]) - times)
        allowed = 1e-3 + 1e-6 * times
        if not np.isfinite(starts).all() or (off > allowed).any():
            worst = int(np.argmax(off - allowed))
            raise ReaderMistake(
                f"decord has frame {worst} at {starts[worst] - starts[0]:.3f} s, the container at {times[worst]:.3f} s"
            )

    def compare_pixels(self, reference: Decoded) -> None:
        """Refuse a decord whose pixels are not those of PyAV's frame."""
        own = self._take(reference.native)
        difference = mean_difference(own, reference.rgb)
        if difference > TOLERANCE:
            what = (
                f"has shape {tuple(own.shape)} and not {tuple(reference.rgb.shape)}"
                if np.isinf(difference)
                else f"differs by {difference:.1f}/255 in the mean"
            )
            raise ReaderMistake(f"decord's frame {reference.native} {what}")

    def _take(self, number: int) -> np.ndarray:
        with self._watch:
            try:
                rgb = self._video[int(number)].asnumpy()
            except Exception as error:
                raise ReaderMistake(f"decord fails at frame {number} ({_first_line(error)})") from None
            self._watch.check()
        if rgb.ndim != 3 or rgb.shape[2] != 3:
            raise ReaderMistake(f"decord's frame {number} has shape {tuple(rgb.shape)}")
        return rgb

    def frames(self, wanted: Sequence[int]) -> Iterator[Decoded]:
        before = None
        for number in wanted:
            self.tick()
            rgb = self._take(number)
            if before is not None and np.array_equal(before, rgb):
                self._look_again(int(number), rgb)
            before = rgb
            yield Decoded(int(number), int(self.container.pts[number]), rgb)

    def _look_again(self, number: int, rgb: np.ndarray) -> None:
        """A still scene, or the last frame repeated for one that decord could not decode? PyAV tells."""
        if self._looked < _STILLS_LOOKED_AT or number == self.container.n_presented - 1:
            self._looked += 1
            self.compare_with(number, rgb)

    _looked = 0

    def compare_with(self, number: int, rgb: np.ndarray) -> None:
        reader = PyavReader(self.container, self.tick)
        other = next(iter(list(reader.frames([number]))), None)
        if other is None or reader.problems or mean_difference(rgb, other.rgb) > TOLERANCE:
            raise ReaderMistake(f"decord repeats the frame before frame {number}")


#: Frames that equal their predecessor are common in still scenes: so many are looked at again, and the last one always.
_STILLS_LOOKED_AT = 2


def decord_misreads(container: Container) -> str | None:
    """Why decord cannot be right on this file, by what it holds; None where decord has to be tried."""
    hidden = int((~container.packets.shown).sum())
    if container.index_source != "packets":
        return "the packets do not tell the presented frames, and decord goes by packets"
    if hidden:
        return f"decord counts {hidden} packets that are not presented (hidden, or cut by an edit list)"
    if container.damage:
        return "the file is cut short, and decord repeats frames for missing ones"
    return None


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]


class _StandardError:
    """While entered, file descriptor 2 goes to a temporary file: native code's complaints are seen and can be judged."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()
        self._saved = -1
        self._read = 0

    def __enter__(self) -> None:
        with suppress(Exception):
            sys.stderr.flush()
        self._saved = os.dup(2)
        os.dup2(self._file.fileno(), 2)

    def __exit__(self, *_: object) -> None:
        os.dup2(self._saved, 2)
        os.close(self._saved)

    def check(self) -> None:
        size = os.fstat(self._file.fileno()).st_size
        if size > self._read:
            text = os.pread(self._file.fileno(), min(size - self._read, 10_000), self._read).decode("utf-8", "replace")
            self._read = size
            for line in text.splitlines():
                if line.strip() and not _HARMLESS.search(line):
                    raise ReaderMistake(f"decord's decoder complains ({line.strip()[:160]})")


# --- the choice


def choose_reader(
    container: Container, decoder: str = "auto", wanted: Sequence[int] = (0,), tick: Tick = _nothing
) -> tuple[Reader, str]:
    """The reader that serves ``container`` and the reason; never a matter of timing.

    ``auto`` takes decord where its count, times, shape and the pixels of a decoded frame agree with PyAV's. With
    ``decord`` a file that it misreads is a ``UserError``.
    """
    if decoder == "pyav":
        return pyav_reader(container, tick), "asked for"
    try:
        reader = DecordReader(container, tick)
        _compare_first(container, reader, wanted, tick)
    except ReaderMistake as mistake:
        if decoder == "decord":
            raise UserError(misread(container, mistake)) from None
        return pyav_reader(container, tick), str(mistake)
    if decoder == "decord":
        return reader, "asked for; its count, times, shape and pixels agree with PyAV's"
    return reader, "count, times, shape and pixels agree with PyAV's"


def misread(container: Container, mistake: ReaderMistake) -> str:
    """The sentence for a forced decord that cannot serve."""
    return f"{container.path!r}: decord misreads this file: {mistake}; set decoder: auto (or pyav)."


def pyav_reader(container: Container, tick: Tick = _nothing) -> Reader:
    """The PyAV reader that can serve ``container``."""
    return PyavReader(container, tick) if container.index_source == "packets" else SequentialReader(container, tick)


def _compare_first(container: Container, reader: DecordReader, wanted: Sequence[int], tick: Tick) -> None:
    first = int(min(wanted, default=0))
    pyav = PyavReader(container, tick)
    frames = list(pyav.frames([first]))
    if not frames or pyav.problems:
        raise ReaderMistake(f"PyAV cannot decode frame {first} ({pyav.problems.get(first, 'no frame')})")
    reader.compare_pixels(frames[0])


def other_reader(container: Container, used: str, tick: Tick = _nothing, decord_serves: bool = True) -> Reader:
    """A reader that decodes independently of ``used`` (a reader's name): decord where it can serve, else strictly in order."""
    if used == "decord":
        return PyavReader(container, tick)
    if used == "pyav":
        if not decord_serves:
            return SequentialReader(container, tick)
        try:
            return DecordReader(container, tick)
        except ReaderMistake:
            return SequentialReader(container, tick)
    return pyav_reader(container, tick)


def own_reader(container: Container, used: str, tick: Tick = _nothing) -> Reader:
    """The reader of that name; ``UserError`` where it no longer serves the file."""
    try:
        if used == "decord":
            return DecordReader(container, tick)
        if used == "pyav":
            return PyavReader(container, tick)
    except ReaderMistake as mistake:
        raise UserError(f"{container.path!r}: {used} no longer reads this file: {mistake}.") from None
    return SequentialReader(container, tick)


def take(reader: Reader, wanted: Sequence[int]) -> tuple[dict[int, np.ndarray], dict[int, str]]:
    """Frames by number (uint8 [H, W, 3]) that came cleanly, and the reasons of the others. For a few frames."""
    frames = {frame.native: frame.rgb for frame in reader.frames(sorted(set(wanted)))}
    for number in reader.problems:
        frames.pop(number, None)
    return frames, dict(reader.problems)


def second_opinion(
    container: Container, wanted: Sequence[int], used: str
) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray], str]:
    """The same frames through the reader that served and through the other one: two dicts by number, and its name.

    Raises ``UserError`` where either cannot give all of them.
    """
    own, problems = take(own_reader(container, used), wanted)
    other = other_reader(container, used)
    try:
        again, more = take(other, wanted)
        disagree = any(mean_difference(own[number], again[number]) > TOLERANCE for number in own if number in again)
        if other.name == "decord" and disagree:
            raise ReaderMistake("pixels")
    except ReaderMistake:
        other = SequentialReader(container)
        again, more = take(other, wanted)
    for number, reason in {**problems, **more}.items():
        at = float((int(container.pts[number]) - container.start_pts) * Fraction(container.time_base))
        raise UserError(f"{container.path!r}: frame {number} at {at:.3f} s cannot be decoded again ({reason}).")
    return own, again, other.name
