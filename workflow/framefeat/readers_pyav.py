"""PyAV, twice: one pass that skips what no one needs, and a plain decode of everything in order."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from framefeat.container import NO_PTS, Container
from framefeat.plan import SKIPPABLE_CODECS, DecodePlan, decode_plan, start_of
from framefeat.readers_base import Decoded, ReaderMistake, Tick, is_harmless, nothing

_MISSING = "the decoder gives no frame for its packet"
_DAMAGED_PACKET = "the container marks its packet as damaged"
_DAMAGED_FRAME = "the decoder reports damage"
_FALSE_KEY = "a packet is marked as a key frame and is none"
_INTRA = 1  # av.video.frame.PictureType.I


class PyavReader:
    """One forward pass without a seek: groups of pictures that no one needs are not decoded, and in the others only
    what wanted frames may refer to. Serves files whose packets tell the presented frames."""

    name = "pyav"

    def __init__(self, container: Container, tick: Tick = nothing) -> None:
        if container.index_source != "packets":
            raise ReaderMistake("its packets do not tell the presented frames")
        self.container = container
        self.tick = tick
        self.problems: dict[int, str] = {}

    def frames(self, wanted: Sequence[int]) -> Iterator[Decoded]:
        import av

        container = self.container
        self.problems = {}
        numbers = np.asarray(wanted, dtype=np.int64)
        if not len(numbers):
            return
        plan = decode_plan(container.packets, container.packet[numbers])
        number_of = {int(container.pts[number]): int(number) for number in numbers}
        faults: dict[int, str] = {}
        given: set[int] = set()
        real_keys = RealKeys(container)
        last_pts = NO_PTS
        with capture() as logs:
            source, stream, context = open_stream(container)
            convert = Converter()
            with source:
                for position, frames, failure in self._decode(av, source, stream, context, plan):
                    failure = failure or complaint(logs)
                    if failure and not plan.leading[position]:
                        faults.setdefault(position, failure)
                    for frame in frames:
                        pts = frame.pts
                        number = number_of.get(pts)
                        real_keys.see(frame)
                        if frame.is_corrupt and not plan.leading[_place(container, pts, position)]:
                            faults.setdefault(_place(container, pts, position), _DAMAGED_FRAME)
                        if number is None or number in given:
                            continue
                        if pts <= last_pts:
                            faults.setdefault(
                                int(container.packet[number]), "frames leave the decoder out of order"
                            )
                            continue
                        last_pts = pts
                        given.add(number)
                        yield Decoded(number, pts, convert(frame))
        for place in np.flatnonzero(plan.feed & ~plan.leading & container.packets.corrupt).tolist():
            faults.setdefault(place, _DAMAGED_PACKET)
        for place in real_keys.unseen(np.flatnonzero(plan.restart)):
            faults.setdefault(place, _FALSE_KEY)
        self.problems = judge(container, numbers, faults, given, real_keys)

    def _decode(
        self, av: Any, source: Any, stream: Any, context: Any, plan: DecodePlan
    ) -> Iterator[tuple[int, list[Any], str | None]]:
        """``(position, frames that came out, what went wrong)`` for every packet that is fed."""
        can_skip = self.container.codec in SKIPPABLE_CODECS
        skipping = fed = False
        position = -1
        for packet in packets_of(av, source, stream):
            position += 1
            if position >= plan.end:
                break
            if position % 50 == 0:
                self.tick()
            if not plan.feed[position]:
                continue
            if plan.restart[position] and fed:
                yield position - 1, *feed(av, context, None)
                context.flush_buffers()
            if can_skip and skipping == plan.wanted[position]:
                skipping = not skipping
                context.skip_frame = "NONREF" if skipping else "DEFAULT"
            fed = True
            yield position, *feed(av, context, packet)
        if fed:
            yield min(position, plan.end - 1), *feed(av, context, None)


class SequentialReader:
    """Everything decoded in order from the first packet, nothing skipped: slow, and the judge of all others."""

    name = "pyav-sequential"

    def __init__(self, container: Container, tick: Tick = nothing) -> None:
        self.container = container
        self.tick = tick
        self.problems: dict[int, str] = {}

    def frames(self, wanted: Sequence[int]) -> Iterator[Decoded]:
        """Frames are told by their times, or by counting where the packets have none that can be trusted."""
        self.problems = {}
        numbers = {int(number) for number in wanted}
        if not numbers:
            return
        if self.container.index_source == "packets":
            yield from self._by_time(numbers)
        else:
            yield from self._by_count(numbers)

    def _by_time(self, wanted: set[int]) -> Iterator[Decoded]:
        container = self.container
        number_of = {int(container.pts[number]): number for number in wanted}
        stop = max(int(container.packet[number]) for number in wanted)
        faults: dict[int, str] = {}
        given: set[int] = set()
        real_keys = RealKeys(container)
        for position, frames, failure, convert in self._decode(stop):
            if failure:
                faults.setdefault(position, failure)
            for frame in frames:
                if frame.is_corrupt:
                    faults.setdefault(_place(container, frame.pts, position), _DAMAGED_FRAME)
                real_keys.see(frame)
                number = number_of.get(frame.pts)
                if number is not None and number not in given:
                    given.add(number)
                    yield Decoded(number, frame.pts, convert(frame))
        self.problems = judge(container, np.array(sorted(wanted)), faults, given, real_keys)

    def _by_count(self, wanted: set[int]) -> Iterator[Decoded]:
        """A fault spoils all frames that come out after it until a key frame."""
        container = self.container
        given: set[int] = set()
        number = -1
        spoilt = ""
        for _, frames, failure, convert in self._decode(None):
            for frame in frames:
                number += 1
                if frame.is_corrupt:
                    spoilt = _DAMAGED_FRAME
                elif frame.key_frame:
                    spoilt = ""
                if number not in wanted:
                    continue
                given.add(number)
                if spoilt or failure:
                    self.problems[number] = spoilt or str(failure)
                yield Decoded(number, int(container.pts[number]), convert(frame))
            spoilt = failure or spoilt
            if number >= max(wanted):
                break
        self.problems |= dict.fromkeys(sorted(wanted - given), "decoding in order gives no such frame")

    def _decode(self, stop: int | None) -> Iterator[tuple[int, list[Any], str | None, "Converter"]]:
        """Packets up to position ``stop``: ``(position, frames, what went wrong, converter)``."""
        import av

        last = len(self.container.packets) - 1
        with capture() as logs:
            source, stream, context = open_stream(self.container)
            convert = Converter()
            with source:
                position = -1
                for packet in packets_of(av, source, stream):
                    if position == stop:
                        break
                    position += 1
                    if position % 20 == 0:
                        self.tick()
                    frames, failure = feed(av, context, packet)
                    failure = failure or complaint(logs) or (_DAMAGED_PACKET if packet.is_corrupt else None)
                    yield min(position, last), frames, failure, convert
                frames, failure = feed(av, context, None)
                yield min(position, last), frames, failure or complaint(logs), convert


class RealKeys:
    """Which packets that are marked as key frames are: some files mark others, or mark where a gradual refresh begins."""

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
    import av

    source = av.open(container.path, metadata_errors="replace")
    stream: Any = source.streams[container.stream_index]
    stream.codec_context.thread_count = 1
    stream.thread_type = "NONE"
    return source, stream, stream.codec_context


def packets_of(av: Any, source: Any, stream: Any) -> Iterator[Any]:
    """The stream's packets in file order, as ``read_container`` counted them; ends where reading fails."""
    try:
        for packet in source.demux(stream):
            if packet.size or packet.pts is not None or packet.dts is not None:
                yield packet
    except av.FFmpegError:
        return


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

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()
        self._rotation: int | None = None
        self._matrix: tuple[int, int, int, int] | None = None

    def __call__(self, frame: Any) -> np.ndarray:
        """uint8 [H, W, 3], contiguous."""
        if (
            frame.rotation != self._rotation
        ):  # PyAV never frees a frame whose side data was looked at: look once
            self._rotation, self._matrix = frame.rotation, display_matrix(frame)
        rgb = self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        return displayed(rgb, self._matrix)


def display_matrix(frame: Any) -> tuple[int, int, int, int] | None:
    """The four turning elements of a frame's display matrix (16.16 fixed point), None where it has none."""
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d = np.frombuffer(data, dtype=np.int32)[:5].tolist()
            return a, b, c, d
    return None


def displayed(rgb: np.ndarray, matrix: tuple[int, int, int, int] | None) -> np.ndarray:
    """Turn and mirror ``rgb`` [H, W, 3] as its display matrix asks (multiples of 90 degrees; others are left alone).

    The pixel at column x and row y goes to column a*x + c*y and row b*x + d*y.
    """
    if matrix is None:
        return rgb
    a, b, c, d = matrix
    if a == d == 0 and b and c:
        rgb, across, down = rgb.transpose(1, 0, 2), c, b
    elif b == c == 0 and a and d:
        across, down = a, d
    else:
        return rgb
    if across < 0:
        rgb = rgb[:, ::-1]
    if down < 0:
        rgb = rgb[::-1]
    return np.ascontiguousarray(rgb)
