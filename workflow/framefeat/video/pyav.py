"""PyAV: one pass that leaves out what no one needs, or leaves out nothing; and counting, where packets tell nothing."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from framefeat.errors import UserError
from framefeat.video.container import Container
from framefeat.video.packets import NO_PTS, Tick, nothing, open_source, packets_of
from framefeat.video.passes import SKIPPABLE_CODECS, Pass, least_pass, start_of, whole_pass
from framefeat.video.reader import (
    Contradiction,
    Decoded,
    ReaderMistake,
    is_harmless,
)
from framefeat.video.reference import joints, prepare

_MISSING = "the decoder gives no frame for its packet"
_DAMAGED_PACKET = "the container marks its packet as damaged"
_DAMAGED_FRAME = "the decoder reports damage"
_FALSE_KEY = "a packet is marked as a key frame and is none"
_INTRA = 1  # av.video.frame.PictureType.I

#: Videos of at most so many frames are decoded whole: that costs less than to prove that less would do.
SHORT_FRAMES = 600


def is_read_whole(container: Container) -> bool:
    """Whether PyAV decodes everything in order, however few frames are wanted."""
    return (
        container.in_order is not None
        or container.codec not in SKIPPABLE_CODECS
        or len(container.packets) <= SHORT_FRAMES
    )


class PyavReader:
    """One forward pass without a seek. Serves files whose packets tell the presented frames, and checks that they do.

    Groups of pictures that no one needs are not decoded, and in the others only what wanted frames may refer to; where
    that is not safe or not worth it (``whole``), everything is decoded in order up to the last wanted frame.

    Raises ``Contradiction`` for a frame that leaves the decoder out of order, at a time that the packets do not have,
    or not at all although nothing around it was left out and nothing is damaged.
    """

    name = "pyav"

    def __init__(self, container: Container, tick: Tick = nothing, whole: bool | None = None) -> None:
        if container.index_source != "packets":
            raise ReaderMistake("its packets do not tell the presented frames")
        self.container = container
        self.tick = tick
        self.problems: dict[int, str] = {}
        #: Frames that damage took, of those that this pass should have given: the numbers after them are the packets'.
        self.lost = 0
        self.whole = is_read_whole(container) if whole is None else whole
        if whole:
            self.name = "pyav-sequential"

    def frames(self, wanted: Sequence[int]) -> Iterator[Decoded]:
        import av

        container = self.container
        self.problems = {}
        numbers = np.asarray(sorted({int(number) for number in wanted}), dtype=np.int64)
        if not len(numbers):
            return
        this_pass = (whole_pass if self.whole else least_pass)(container.packets, container.packet[numbers])
        number_of = {int(container.pts[number]): int(number) for number in numbers}
        faults: dict[int, str] = {}
        real_keys = RealKeys(container)
        seen = _Seen(container)
        with capture() as logs:
            source, stream, context = open_stream(container)
            convert = Converter(container.path)
            with source:
                for position, frames, failure in self._decode(av, source, stream, context, this_pass):
                    failure = failure or complaint(logs)
                    if failure and not this_pass.leading[position]:
                        faults.setdefault(position, failure)
                    for frame in frames:
                        seen.check(frame.pts)
                        real_keys.see(frame)
                        place = _place(container, frame.pts, position)
                        if frame.is_corrupt and not this_pass.leading[place]:
                            faults.setdefault(place, _DAMAGED_FRAME)
                        number = number_of.get(frame.pts)
                        if number is not None:
                            yield Decoded(number, frame.pts, convert(frame))
        for place in np.flatnonzero(this_pass.feed & ~this_pass.leading & container.packets.corrupt).tolist():
            faults.setdefault(place, _DAMAGED_PACKET)
        for place in real_keys.unseen(np.flatnonzero(this_pass.restart)):
            faults.setdefault(place, _FALSE_KEY)
        if faults:
            self.lost = len(seen.missing(this_pass))
        else:
            seen.require(this_pass)
        given = {number_of[pts] for pts in seen.times & set(number_of)}
        self.problems = judge(container, numbers, faults, given, real_keys)

    def _decode(
        self, av: Any, source: Any, stream: Any, context: Any, this_pass: Pass
    ) -> Iterator[tuple[int, list[Any], str | None]]:
        """``(position, frames that came out, what went wrong)`` for every packet that is fed."""
        skipping = fed = False
        position = -1
        for packet in packets_of(av, source, stream):
            position += 1
            if position >= this_pass.end:
                break
            if position % 50 == 0:
                self.tick()
            if not this_pass.feed[position]:
                continue
            if this_pass.restart[position] and fed:
                yield position - 1, *feed(av, context, None)
                context.flush_buffers()
            if not self.whole and skipping == (this_pass.wanted[position] or this_pass.whole[position]):
                skipping = not skipping
                context.skip_frame = "NONREF" if skipping else "DEFAULT"
            fed = True
            yield position, *feed(av, context, packet)
        if fed:
            yield min(position, this_pass.end - 1), *feed(av, context, None)


class _Seen:
    """The frames that came out of one pass, held against what the packets foretell."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._known = set(container.pts.tolist())
        self._last = NO_PTS
        self.times: set[int] = set()

    def check(self, pts: int | None) -> None:
        """One more frame. Raises ``Contradiction`` where it cannot be."""
        if pts is None or pts not in self._known:
            raise Contradiction("a frame has a time that no packet has")
        if pts <= self._last:
            when = float(self._container.seconds(np.array(pts)))
            raise Contradiction(f"the frame at {when:.3f} s leaves the decoder after one that is shown later")
        self._last = pts
        self.times.add(pts)

    def missing(self, this_pass: Pass) -> set[int]:
        """Times of frames that did not come although nothing around them was left out."""
        packets = self._container.packets
        due = packets.pts[this_pass.whole & packets.shown & ~this_pass.leading]
        return set(due.tolist()) - self.times

    def require(self, this_pass: Pass) -> None:
        """Raises ``Contradiction`` where any is missing."""
        if missing := len(self.missing(this_pass)):
            raise Contradiction(
                f"{missing} of {int(this_pass.whole.sum())} packets give no frame of their own"
            )


class CountingReader:
    """Everything decoded in order, its frames counted: for files whose packets do not tell the presented frames."""

    name = "pyav-sequential"

    def __init__(self, container: Container, tick: Tick = nothing) -> None:
        self.container = container
        self.tick = tick
        self.problems: dict[int, str] = {}

    def frames(self, wanted: Sequence[int]) -> Iterator[Decoded]:
        """A fault spoils all frames that come out after it until a key frame."""
        self.problems = {}
        numbers = {int(number) for number in wanted}
        if not numbers:
            return
        given: set[int] = set()
        number = -1
        spoilt = ""
        for frames, failure, convert in self._decode():
            for frame in frames:
                number += 1
                if frame.is_corrupt:
                    spoilt = _DAMAGED_FRAME
                elif frame.key_frame:
                    spoilt = ""
                if number not in numbers:
                    continue
                given.add(number)
                if spoilt or failure:
                    self.problems[number] = spoilt or str(failure)
                yield Decoded(number, int(self.container.pts[number]), convert(frame))
            spoilt = failure or spoilt
            if number >= max(numbers):
                break
        self.problems |= dict.fromkeys(sorted(numbers - given), "decoding in order gives no such frame")

    def _decode(self) -> Iterator[tuple[list[Any], str | None, "Converter"]]:
        """For every packet: ``(frames, what went wrong, converter)``."""
        import av

        # Where recordings were joined, a transport stream's packet counters do not go on: FFmpeg marks whole packets.
        excused = {place for joint in joints(self.container.packets) for place in range(joint - 3, joint + 1)}
        with capture() as logs:
            source, stream, context = open_stream(self.container)
            convert = Converter(self.container.path)
            with source:
                for position, packet in enumerate(packets_of(av, source, stream)):
                    if position % 20 == 0:
                        self.tick()
                    frames, failure = feed(av, context, packet)
                    marked = packet.is_corrupt and position not in excused
                    failure = failure or complaint(logs) or (_DAMAGED_PACKET if marked else None)
                    yield frames, failure, convert
                frames, failure = feed(av, context, None)
                yield frames, failure or complaint(logs), convert


def in_order_reader(container: Container, tick: Tick = nothing) -> PyavReader | CountingReader:
    """A plain decode of everything in order: slow, and the judge of all other readers."""
    if container.index_source == "packets":
        return PyavReader(container, tick, whole=True)
    return CountingReader(container, tick)


class RealKeys:
    """Which marked packets are key frames: some files mark others, or mark where a gradual refresh begins."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._place = {int(container.packets.pts[k]): int(k) for k in np.flatnonzero(container.packets.key)}
        self._true: set[int] = set()
        self._false: set[int] = set()

    def see(self, frame: Any) -> None:
        """Note a decoded frame."""
        place = self._place.get(frame.pts)
        if place is not None:
            (self._true if frame.key_frame or frame.pict_type == _INTRA else self._false).add(place)

    def unseen(self, places: np.ndarray) -> list[int]:
        """Those positions of shown key packets that gave no key frame; a stream's first packet is taken as it is."""
        shown = self._container.packets.shown
        return [place for place in places.tolist() if place and shown[place] and place not in self._true]

    def positions(self) -> np.ndarray:
        """Positions of key packets (int64, ascending), without those whose frame is none."""
        keys = np.flatnonzero(self._container.packets.key)
        return keys[[place not in self._false for place in keys.tolist()]] if self._false else keys


def judge(
    container: Container, wanted: np.ndarray, faults: Mapping[int, str], given: set[int], real_keys: RealKeys
) -> dict[int, str]:
    """Why each wanted frame that is not clean is not: a fault, by packet position, spoils whatever was decoded at or
    after it from the same key frame."""
    problems: dict[int, str] = {}
    places = np.array(sorted(faults), dtype=np.int64)
    keys = real_keys.positions()
    for number in wanted.tolist():
        position = int(container.packet[number])
        first = int(np.searchsorted(places, start_of(container.packets, keys, position)))
        if first < len(places) and places[first] <= position:
            own = position in faults
            where = (
                ""
                if own
                else f" at {float(container.seconds(container.packets.pts[places[first]])):.3f} s, before it"
            )
            problems[number] = faults[position if own else int(places[first])] + where
        elif number not in given:
            problems[number] = _MISSING
    return problems


def _place(container: Container, pts: int | None, otherwise: int) -> int:
    """Position of the packet of the presented frame at ``pts``."""
    if pts is None:
        return otherwise
    number = int(np.searchsorted(container.pts, pts))
    if number < container.n_presented and container.pts[number] == pts and container.packet[number] >= 0:
        return int(container.packet[number])
    return otherwise


# --- one stream, one thread


def open_stream(container: Container) -> tuple[Any, Any, Any]:
    """The file, the container's stream of it, and a decoder of one thread."""
    source = open_source(container.path)
    stream: Any = source.streams[container.stream_index]
    prepare(stream, container.full_delay)
    return source, stream, stream.codec_context


def feed(av: Any, context: Any, packet: Any) -> tuple[list[Any], str | None]:
    """Frames that come out for ``packet`` (None: all that are left), and what the decoder refused."""
    try:
        return context.decode(packet), None
    except EOFError:
        return [], None
    except av.FFmpegError as error:
        return [], str(error.strerror or error)


def capture() -> Any:
    """A context whose value is the list of the decoders' messages."""
    import av

    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)
    return av.logging.Capture(local=False)


def complaint(logs: list[Any]) -> str | None:
    """The first message that is about a damaged picture; empties ``logs``."""
    if not logs:
        return None
    texts = [text.strip() for _, _, text in logs]
    logs.clear()
    return next((text for text in texts if text and not is_harmless(text)), None)


class Converter:
    """Decoded frames to displayed RGB: one scaling context, one thread, and the display matrix as players apply it."""

    def __init__(self, path: str) -> None:
        from av.video.reformatter import VideoReformatter

        self._path = path
        self._reformatter = VideoReformatter()
        self._rotation: int | None = None
        self._turn = _UNTURNED

    def __call__(self, frame: Any) -> np.ndarray:
        """uint8 [H, W, 3], contiguous."""
        if frame.rotation != self._rotation:
            # PyAV never frees a frame whose side data was looked at: look once.
            self._rotation, self._turn = frame.rotation, quarter_turn(display_matrix(frame))
        try:
            rgb = self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        except OSError as error:
            raise UserError(
                f"{self._path!r}: its pictures cannot be converted to RGB ({frame.format.name}, matrix coefficients "
                f"{int(frame.colorspace)}: {error.strerror}); convert the video, or leave the video out."
            ) from error
        return displayed(rgb, self._turn)


Turn = tuple[int, int, int, int]
"""a, b, c, d, each -1, 0 or 1: the pixel at column x and row y goes to column a*x + c*y and row b*x + d*y."""

_UNTURNED: Turn = (1, 0, 0, 1)
_FIXED_POINT = 1 << 16
#: How far an element of a display matrix may be from a whole number to be rounded to it: about half a degree.
_ROUNDING = 0.01


def display_matrix(frame: Any) -> tuple[float, float, float, float] | None:
    """The four turning elements of a frame's display matrix, None where it has none."""
    try:
        side_data = list(frame.side_data)
    except ValueError:  # some side data is of a kind that PyAV has no name for
        if not frame.rotation:
            return None
        angle = np.deg2rad(frame.rotation)
        return float(np.cos(angle)), -float(np.sin(angle)), float(np.sin(angle)), float(np.cos(angle))
    for data in side_data:
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d = (np.frombuffer(data, dtype=np.int32)[:5] / _FIXED_POINT).tolist()
            return a, b, c, d
    return None


def quarter_turn(matrix: Sequence[float] | None) -> Turn:
    """The quarter turn, mirrored or not, that ``matrix`` is within rounding; none where it is another one."""
    if matrix is None:
        return _UNTURNED
    scale = max(map(abs, matrix)) or 1.0
    rounded = [round(value / scale) for value in matrix]
    a, b, c, d = rounded
    off = max(abs(value / scale - whole) for value, whole in zip(matrix, rounded, strict=True))
    turns = (a == d == 0 and b and c) or (b == c == 0 and a and d)
    return (a, b, c, d) if turns and off <= _ROUNDING else _UNTURNED


def displayed(rgb: np.ndarray, turn: Turn) -> np.ndarray:
    """``rgb`` [H, W, 3], turned and mirrored."""
    a, b, c, d = turn
    across, down = (a, d) if a else (c, b)
    if not a:
        rgb = rgb.transpose(1, 0, 2)
    if across < 0:
        rgb = rgb[:, ::-1]
    if down < 0:
        rgb = rgb[::-1]
    return np.ascontiguousarray(rgb)
