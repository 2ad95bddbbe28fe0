"""A video stream's packets, read once: times and flags of all of them, and a trial decode of the first.

An index made of packets predicts the frames that a decoder gives out. What can contradict it is looked for here.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from framefeat.errors import UserError, machine_trouble
from framefeat.video.bitstream import Head, ends_sequence, parser_of

NO_PTS = np.iinfo(np.int64).min

#: So many of the first packets are decoded, whatever the format: most contradictions show at once. (24 were tried: a
#: transport stream whose decoder does not know how long to wait then passed for one without contradictions.)
TRIED_PACKETS = 48
#: What a decoder may leave out in the trial: nobody looks at its pictures.
_TRIAL_OPTIONS = {"skip_loop_filter": "all"}
_TRIED_AT_MOST = 1000
_TICK_PACKETS = 200
#: Formats of FFmpeg that hold no picture and name the files that do.
_OF_OTHER_FILES = frozenset(
    {"applehttp", "concat", "concatf", "dash", "hls", "imf", "rtsp", "sdp", "webm_dash_manifest"}
)
#: Packet side data that changes how later packets are decoded.
_STATE = {
    "palette": "a palette",
    "new_extradata": "new decoder settings",
    "param_change": "new parameters",
}

Tick = Callable[[], None]
"""Called now and then, as a sign of life."""


def nothing() -> None:
    return None


@dataclass(frozen=True)
class Packets:
    """The stream's packets in file (decoding) order, one element each.

    ``pts`` and ``dts`` int64 in ticks of the stream's time base (``NO_PTS`` where there is none); ``key``: decoding can
    begin here; ``marked``: the container or FFmpeg's parser calls it a key frame, which is not always true; ``shown``:
    its frame is presented (not discarded by an edit list, not hidden); ``corrupt``: by the container's account. The
    last four are bool.
    """

    pts: np.ndarray
    dts: np.ndarray
    key: np.ndarray
    marked: np.ndarray
    shown: np.ndarray
    corrupt: np.ndarray

    def __len__(self) -> int:
        return len(self.pts)


@dataclass
class Trial:
    """The first packets, decoded: times of those that should be shown, and of the frames that came out, in order.

    Not ``complete``: only until a frame came, so that nothing follows from what is missing.
    """

    complete: bool = True
    given: list[int | None] = field(default_factory=list)
    taken: list[int | None] = field(default_factory=list)
    failed: bool = False
    first_frame: Any = None
    interlaced: bool = False


@dataclass
class Reading:
    """What one pass over the file found.

    ``state``: why packets may not be left out; ``unordered``: B slices that are not shown before any picture decoded
    earlier; ``second_fields``: packets that hold the other half of the frame before; ``begins_anew``: HEVC sequences
    that begin amid the file without regard to what precedes; ``unbegun``: packets in which no picture begins;
    ``lost_before``: H.264 packets before which a reference picture is missing; ``stopped``: why reading ended before
    the file did.
    """

    pts: list[int] = field(default_factory=list)
    dts: list[int] = field(default_factory=list)
    key: list[bool] = field(default_factory=list)
    marked: list[bool] = field(default_factory=list)
    shown: list[bool] = field(default_factory=list)
    corrupt: list[bool] = field(default_factory=list)
    durations: list[int] = field(default_factory=list)
    state: str | None = None
    unordered: int = 0
    second_fields: int = 0
    begins_anew: int = 0
    unbegun: int = 0
    lost_before: list[int] = field(default_factory=list)
    trial: Trial = field(default_factory=Trial)
    stopped: str | None = None

    def packets(self) -> Packets:
        return Packets(
            np.array(self.pts, dtype=np.int64),
            np.array(self.dts, dtype=np.int64),
            np.array(self.key, dtype=bool),
            np.array(self.marked, dtype=bool),
            np.array(self.shown, dtype=bool),
            np.array(self.corrupt, dtype=bool),
        )


def open_source(name: str) -> Any:
    """The file, opened by FFmpeg. By its absolute path: FFmpeg takes ``a:b.mp4`` for an address of protocol ``a``.

    Raises ``UserError`` for a playlist: its fingerprint would say nothing of the pictures.
    """
    import av

    source = av.open(os.path.abspath(name), metadata_errors="replace")
    if _OF_OTHER_FILES & set(source.format.name.split(",")):
        source.close()
        raise UserError(
            f"{name!r}: a video was expected, found a list of others ({source.format.name}), whose content nobody would watch "
            "for changes; join what it names into one file."
        )
    return source


def check_file(name: str) -> None:
    """Raises ``UserError`` for what is no regular file with content; never opens a pipe or a device, which may hang."""
    path = Path(name)
    try:
        found = path.stat()
        if not path.is_file():
            raise UserError(
                f"{name!r}: a video file was expected, found something else (a folder, pipe or device)."
            )
        with path.open("rb"):
            pass
    except OSError as error:
        if trouble := machine_trouble(error):
            raise trouble from error
        raise UserError(
            f"{name!r}: the video cannot be opened ({error.strerror}); correct its path or put it there."
        ) from None
    if found.st_size == 0:
        raise UserError(f"{name!r}: a video was expected, found an empty file (0 bytes); fetch it again.")


def best_stream(source: Any, name: str) -> Any:
    """The stream that FFmpeg ranks first, cover pictures left out. Raises ``UserError`` where none can be decoded."""
    best = source.streams.best("video")
    candidates = [best, *source.streams.video] if best is not None else list(source.streams.video)
    videos = [stream for stream in candidates if not _is_picture(stream)]
    for stream in videos:
        if stream.codec_context is not None:
            return stream
    if videos:
        raise UserError(
            f"{name!r}: its video is in a format that this FFmpeg has no decoder for; convert the file, or leave the "
            "video out."
        )
    kinds = sorted({stream.type for stream in source.streams if stream not in candidates}) or ["nothing"]
    cover = " and a cover picture" if candidates else ""
    raise UserError(
        f"{name!r}: a video stream was expected, found {' and '.join(kinds)}{cover} only; "
        "fetch the right file, or leave the video out."
    )


def _is_picture(stream: Any) -> bool:
    from av.stream import Disposition

    return bool(stream.disposition & Disposition.attached_pic)


def packets_of(
    av: Any, source: Any, stream: Any, stopped: Callable[[Any], None] | None = None
) -> Iterator[Any]:
    """The stream's packets in file order; ends where reading fails, after telling ``stopped`` why."""
    try:
        for packet in source.demux(stream):
            if packet.size or packet.pts is not None or packet.dts is not None:
                yield packet
    except av.FFmpegError as error:
        if stopped is not None:
            stopped(error)


def read_packets(source: Any, stream: Any, tick: Tick, trial: bool = True) -> Reading:
    """All packets of ``stream``, the first of them decoded: ``TRIED_PACKETS`` for a trial, else until a frame comes."""
    import av

    context = stream.codec_context
    context.thread_count = 1
    stream.thread_type = "NONE"
    context.options = dict(_TRIAL_OPTIONS)
    reading = Reading(trial=Trial(complete=trial))
    state = _State(context.codec.canonical_name, context.extradata)
    is_shown = _SHOWN.get(context.codec.canonical_name, _always)
    tried, trying = 0, True
    highest = NO_PTS

    def stop(error: Any) -> None:
        reading.stopped = cause(error)

    for packet in packets_of(av, source, stream, stop):
        position = len(reading.pts)
        shown = packet.size > 0 and not packet.is_discard and is_shown(packet)
        pts = NO_PTS if packet.pts is None else packet.pts
        entry, bidirectional = state.see(position, packet)
        if bidirectional and shown and pts >= highest:
            reading.unordered += 1
        highest = max(highest, pts)
        reading.pts.append(pts)
        reading.dts.append(NO_PTS if packet.dts is None else packet.dts)
        reading.marked.append(packet.is_keyframe)
        reading.key.append(packet.is_keyframe and entry)
        reading.shown.append(shown)
        reading.corrupt.append(packet.is_corrupt)
        reading.durations.append(packet.duration or 0)
        if packet.size and trying:
            tried += shown
            _try(reading.trial, context, packet, shown)
            trying = tried < TRIED_PACKETS and position < _TRIED_AT_MOST
            trying = trying and (trial or reading.trial.first_frame is None)
            if not trying and trial:
                _try(reading.trial, context, None, False)
        if len(reading.pts) % _TICK_PACKETS == 0:
            tick()
    if trying:
        _try(reading.trial, context, None, False)
    reading.state = state.change
    reading.second_fields = state.second_fields
    reading.begins_anew = state.begins_anew
    reading.unbegun = state.unbegun
    reading.lost_before = state.lost_before
    return reading


def _try(trial: Trial, context: Any, packet: Any, shown: bool) -> None:
    import av

    if shown:
        trial.given.append(packet.pts)
    try:
        frames = context.decode(packet)
    except EOFError:
        return
    except av.FFmpegError:
        trial.failed = True
        return
    for frame in frames:
        trial.taken.append(frame.pts)
        trial.interlaced = trial.interlaced or frame.interlaced_frame
        if trial.first_frame is None:
            trial.first_frame = frame


class _State:
    """Notices the first packet that changes how later ones are decoded, and packets that give no frame of their own."""

    def __init__(self, codec: str, extradata: bytes | None) -> None:
        self._parser = parser_of(codec, extradata)
        self._known: frozenset[bytes] = self._parser.initial if self._parser else frozenset()
        self.change: str | None = None
        self.second_fields = 0
        self.begins_anew = 0
        self.unbegun = 0
        self.lost_before: list[int] = []
        self._hevc = codec == "hevc"
        self._field: tuple[int, bool] | None = None
        self._ended = False

    def see(self, position: int, packet: Any) -> tuple[bool, bool | None]:
        """Whether decoding can begin with ``packet``, and whether it is a B picture (None: not known)."""
        for data in packet.iter_sidedata():
            if data.data_type in _STATE and self.change is None:
                self.change = f"packet {position} carries {_STATE[data.data_type]}"
        if self._parser is None:
            return True, None
        head = self._parser.head(memoryview(packet)) if packet.size else None
        if head is None:
            return False, None
        if position == 0:
            self._known |= head.parameters
        elif self.change is None and not head.parameters <= self._known:
            self.change = f"packet {position} carries new parameter sets"
        self.unbegun += not head.begins
        if head.lost:
            self.lost_before.append(position)
        self._see_fields(head)
        if self._hevc:
            self.begins_anew += position > 0 and (head.anew or self._ended)
            self._ended = ends_sequence(memoryview(packet))
        return head.entry, head.bidirectional

    def _see_fields(self, head: Head) -> None:
        """A frame's fields are in one packet, as a rule; then all first slices are of the same parity."""
        before, self._field = self._field, head.field
        if before and head.field and before[0] == head.field[0] and before[1] != head.field[1]:
            self.second_fields += 1
            self._field = None


def cause(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _always(packet: Any) -> bool:
    return True


def _vp8_shown(packet: Any) -> bool:
    return bool(memoryview(packet)[0] & 0x10)


def _vp9_shown(packet: Any) -> bool:
    """Whether any frame of the packet is shown: several make a superframe, whose index is at its end."""
    data = memoryview(packet)
    marker = data[-1]
    if marker & 0xE0 == 0xC0:
        count, width = (marker & 7) + 1, ((marker >> 3) & 3) + 1
        index_size = 2 + count * width
        if len(data) >= index_size and data[-index_size] == marker:
            start = 0
            for number in range(count):
                place = len(data) - index_size + 1 + number * width
                size = int.from_bytes(data[place : place + width], "little")
                if size and start < len(data) and _vp9_frame_shown(data[start]):
                    return True
                start += size
            return False
    return _vp9_frame_shown(data[0])


def _vp9_frame_shown(first: int) -> bool:
    """From a frame's first byte: marker (2 bits), profile (2, reversed), profile 3: one more, show_existing, type,
    show."""
    bit = 3 if first & 0x30 != 0x30 else 2
    show_existing = first >> bit & 1
    return bool(show_existing or first >> (bit - 2) & 1)


_SHOWN: dict[str, Callable[[Any], bool]] = {"vp8": _vp8_shown, "vp9": _vp9_shown}
