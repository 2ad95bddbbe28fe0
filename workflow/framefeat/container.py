"""What a video file holds, read from its packets: which frames are presented, when, and from where they can be decoded.

Times stay integers in the stream's own time base; seconds are made of them at the very end. Time 0 is the first
presented frame of the video stream that FFmpeg calls best: not the container's start, and not the audio's.
"""

import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from framefeat.errors import UserError

NO_PTS = np.iinfo(np.int64).min

#: Formats that store a presentation time for every packet; the times of others are FFmpeg's guesses and are tried first.
_TIMED_FORMATS = {"mov", "mp4", "matroska", "webm", "flv", "ivf", "ogg", "nut", "gif", "apng"}
_TRIED_PACKETS = 48
_TRIED_AT_MOST = 1000
_TICK_PACKETS = 200


@dataclass(frozen=True)
class Packets:
    """The stream's packets in file (decoding) order, one element each.

    ``pts`` int64 in ticks of the stream's time base (``NO_PTS`` where there is none); ``key``, ``shown`` (its frame is
    presented: not discarded by an edit list, not hidden) and ``corrupt`` (by the container's account) are bool.
    """

    pts: np.ndarray
    key: np.ndarray
    shown: np.ndarray
    corrupt: np.ndarray

    def __len__(self) -> int:
        return len(self.pts)


@dataclass(frozen=True)
class Container:
    """One video stream.

    ``pts`` (int64 [n], ascending, in units of ``time_base``) and ``key`` (bool [n]) belong to the presented frames;
    ``packet`` (int64 [n]) is the position of each one's packet in ``packets``, -1 where the index is not the packets'.

    ``index_source`` says where ``pts`` comes from: ``packets``; ``decode`` (the packets do not tell, so the file was
    decoded in order: its frames' own times); ``rate`` (the same, and the frames have no usable times: frame k is at
    k / average rate).
    """

    path: str
    format: str
    codec: str
    pix_fmt: str | None
    width: int
    height: int
    sample_aspect: Fraction
    rotation: int
    time_base: Fraction
    average_rate: Fraction
    stream_index: int
    pts: np.ndarray
    key: np.ndarray
    packet: np.ndarray
    packets: Packets
    index_source: str
    is_vfr: bool
    median_interval: Fraction
    expected_frames: int
    damage: str | None
    warnings: list[str] = field(default_factory=list)

    @property
    def n_presented(self) -> int:
        """Number of presented frames that the file really holds."""
        return len(self.pts)

    @property
    def start_pts(self) -> int:
        return int(self.pts[0])

    @property
    def start_sec(self) -> float:
        """Presentation time of frame 0 by the file's own clock, in seconds."""
        return float(self.pts[0] * self.time_base)

    @property
    def duration_sec(self) -> float:
        """Frames / average rate; with a variable rate: the last frame's time + the median interval."""
        if self.is_vfr:
            return float((int(self.pts[-1]) - self.start_pts + self.median_interval) * self.time_base)
        return float(self.n_presented / self.average_rate)

    def times(self) -> np.ndarray:
        """Presentation times, float64 [n], seconds from the first presented frame."""
        return self.seconds(self.pts)

    def seconds(self, pts: np.ndarray) -> np.ndarray:
        """Stream ticks (int64) to seconds from the first presented frame (float64), rounded once."""
        ticks = np.asarray(pts, dtype=np.int64) - self.start_pts
        return ticks * self.time_base.numerator / self.time_base.denominator


def facts(container: Container) -> dict[str, Any]:
    """What is worth keeping of a container, as JSON: frames, sizes in pixels, times in seconds.

    ``frames`` and the times are those that a damaged file declares, so that its missing rows are known to be missing.
    """
    lost = container.expected_frames - container.n_presented
    last = float(container.times()[-1] + lost / container.average_rate)
    duration = container.duration_sec + float(lost / container.average_rate)
    return {
        "format": container.format,
        "codec": container.codec,
        "pix_fmt": container.pix_fmt,
        "width": container.width,
        "height": container.height,
        "sample_aspect": f"{container.sample_aspect.numerator}:{container.sample_aspect.denominator}",
        "rotation": container.rotation,
        "frames": container.expected_frames,
        "frames_found": container.n_presented,
        "key_frames": int(container.key.sum()),
        "fps": float(container.average_rate),
        "duration_sec": duration,
        "last_sec": last,
        "interval_sec": float(container.median_interval * container.time_base),
        "start_sec": container.start_sec,
        "vfr": container.is_vfr,
        "index_source": container.index_source,
        "warnings": list(container.warnings),
    }


def probe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """``{"facts": dict | None, "error": str | None}``; never raises for what is wrong with the file itself.

    Both are there for a file that is damaged but not useless.
    """
    try:
        container = read_container(path)
    except UserError as error:
        return {"facts": None, "error": str(error)}
    return {"facts": facts(container), "error": container.damage}


def read_container(path: str | os.PathLike[str], tick: Callable[[], None] | None = None) -> Container:
    """Read the packets of the best video stream once; nothing but the first frame is decoded where they tell enough.

    ``tick`` is called now and then, as a sign of life. Raises ``UserError``, one sentence, for a file that is missing,
    empty, unreadable or without a video stream.
    """
    import av

    name = str(path)
    _check_file(name)
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)
    try:
        with av.logging.Capture(local=False) as logs:
            with av.open(name, metadata_errors="replace") as source:
                stream = _best_stream(source, name)
                seen = _read_packets(source, stream, tick or _nothing)
                return _build(name, source, stream, seen, logs, tick or _nothing)
    except av.FFmpegError as error:
        raise UserError(
            f"{name!r}: FFmpeg cannot read this file ({_cause(error)}); it is damaged or not a video: fetch it again, "
            "or take its rows out of the index."
        ) from None


def _nothing() -> None:
    return None


def _cause(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _check_file(name: str) -> None:
    try:
        with Path(name).open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
    except OSError as error:
        raise UserError(
            f"{name!r}: the video cannot be opened ({error.strerror}); correct its path or put it there."
        ) from None
    if size == 0:
        raise UserError(f"{name!r}: a video was expected, found an empty file (0 bytes); fetch it again.")


def _best_stream(source: Any, name: str) -> Any:
    """The stream that FFmpeg ranks first, cover pictures left out."""
    best = source.streams.best("video")
    if best is not None and not _is_picture(best):
        return best
    for stream in source.streams.video:
        if not _is_picture(stream):
            return stream
    kinds = sorted({stream.type for stream in source.streams}) or ["nothing"]
    raise UserError(
        f"{name!r}: a video stream was expected, found {' and '.join(kinds)} only; "
        "take its rows out of the index or fetch the right file."
    )


def _is_picture(stream: Any) -> bool:
    from av.stream import Disposition

    return bool(stream.disposition & Disposition.attached_pic)


@dataclass
class _Seen:
    """One pass over the file: packets as lists, the first frame that decoded, and what went wrong."""

    pts: list[int]
    key: list[bool]
    shown: list[bool]
    corrupt: list[bool]
    last_duration: int = 0
    first_frame: Any = None
    stopped: str | None = None


def _read_packets(source: Any, stream: Any, tick: Callable[[], None]) -> _Seen:
    import av

    stream.codec_context.thread_count = 1
    stream.thread_type = "NONE"
    is_shown = _SHOWN.get(stream.codec_context.codec.canonical_name, _always)
    seen = _Seen([], [], [], [])
    packets = source.demux(stream)
    tried = 0
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            break
        except av.FFmpegError as error:
            seen.stopped = _cause(error)
            break
        if packet.size == 0:
            if packet.pts is None and packet.dts is None:
                continue  # the sign that asks a decoder for its last frames
            seen.shown.append(False)
        else:
            seen.shown.append(not packet.is_discard and is_shown(packet))
            if seen.first_frame is None and tried < _TRIED_PACKETS and len(seen.pts) < _TRIED_AT_MOST:
                tried += seen.shown[-1]
                seen.first_frame = _try(stream.codec_context, packet)
        seen.pts.append(NO_PTS if packet.pts is None else packet.pts)
        seen.key.append(packet.is_keyframe)
        seen.corrupt.append(packet.is_corrupt)
        seen.last_duration = packet.duration or 0
        if len(seen.pts) % _TICK_PACKETS == 0:
            tick()
    if seen.first_frame is None and tried < _TRIED_PACKETS and len(seen.pts) < _TRIED_AT_MOST:
        seen.first_frame = _try(stream.codec_context, None)
    return seen


def _try(context: Any, packet: Any) -> Any:
    import av

    try:
        frames = context.decode(packet)
    except av.FFmpegError:
        return None
    return frames[0] if frames else None


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
    """From a frame's first byte: marker (2 bits), profile (2, reversed), with profile 3 one more, show_existing, type, show."""
    bit = 3 if first & 0x30 != 0x30 else 2
    show_existing = first >> bit & 1
    return bool(show_existing or first >> (bit - 2) & 1)


_SHOWN: dict[str, Callable[[Any], bool]] = {"vp8": _vp8_shown, "vp9": _vp9_shown}


def _build(
    name: str, source: Any, stream: Any, seen: _Seen, logs: list[Any], tick: Callable[[], None]
) -> Container:
    context = stream.codec_context
    count = len(seen.pts)
    if count == 0:
        declared = f"{stream.frames} frames" if stream.frames else "a video stream"
        raise UserError(
            f"{name!r}: {declared} expected, found none: the file ends after its header; fetch it again."
        )
    packets = Packets(
        np.array(seen.pts, dtype=np.int64),
        np.array(seen.key, dtype=bool),
        np.array(seen.shown, dtype=bool),
        np.array(seen.corrupt, dtype=bool),
    )
    time_base = Fraction(stream.time_base)
    warnings: list[str] = []
    demux_logs = [text.strip() for _, module, text in logs if module in source.format.name]
    doubt = _doubt(name, source, stream, packets, tick)
    if doubt is None:
        shown = np.flatnonzero(packets.shown)
        order = shown[np.argsort(packets.pts[shown], kind="stable")]
        pts, key, packet, index_source = packets.pts[order], packets.key[order], order, "packets"
    else:
        pts, key, index_source = _decoded_index(name, tick)
        packet = np.full(len(pts), -1, dtype=np.int64)
        warnings.append(
            f"the packets do not tell the frames ({doubt}); the file was decoded in order to count them"
        )
    if len(pts) == 0:
        raise UserError(
            f"{name!r}: {count} packets of {context.codec.canonical_name} video, but no frame of them can be shown; fetch the file again."
        )
    container_rate = stream.average_rate or stream.guessed_rate or Fraction(0)
    if index_source == "rate":
        rate = Fraction(container_rate) or Fraction(25)
        time_base, vfr, interval = 1 / rate, False, Fraction(1)
    else:
        rate, vfr, interval = _rate(pts, time_base, Fraction(container_rate))
    damage, expected = _damage(name, source, stream, seen, demux_logs, pts, time_base, rate, index_source)
    if packets.corrupt.any():
        warnings.append(f"{int(packets.corrupt.sum())} packets are damaged by the container's own account")
    if seen.first_frame is None:
        warnings.append("none of the first packets decodes to a frame")
    frame = seen.first_frame
    aspect = stream.sample_aspect_ratio or Fraction(1)
    return Container(
        path=name,
        format=source.format.name,
        codec=context.codec.canonical_name,
        pix_fmt=frame.format.name if frame is not None else context.pix_fmt,
        width=frame.width if frame is not None else context.width,
        height=frame.height if frame is not None else context.height,
        sample_aspect=Fraction(aspect) if aspect > 0 else Fraction(1),
        rotation=int(frame.rotation) if frame is not None else 0,
        time_base=time_base,
        average_rate=rate,
        stream_index=stream.index,
        pts=pts,
        key=key,
        packet=packet,
        packets=packets,
        index_source=index_source,
        is_vfr=vfr,
        median_interval=interval,
        expected_frames=expected,
        damage=damage,
        warnings=warnings,
    )


def _doubt(name: str, source: Any, stream: Any, packets: Packets, tick: Callable[[], None]) -> str | None:
    """Why the packets do not tell the presented frames, or None where they do."""
    shown = packets.pts[packets.shown]
    if not len(shown):
        return "no packet is marked as shown"
    if (shown == NO_PTS).any():
        return f"{int((shown == NO_PTS).sum())} of {len(shown)} have no presentation time"
    if twice := int((np.diff(np.sort(shown)) == 0).sum()):
        return f"{twice} presentation times occur twice"
    first_key = int(np.argmax(packets.key)) if packets.key.any() else len(packets) - 1
    early = packets.shown & (packets.pts < packets.pts[first_key])
    early[:first_key] |= packets.shown[:first_key]
    if early.any():  # they may or may not be decodable
        return _doubt_by_trial(name, int(np.flatnonzero(early)[-1]) + 1 + _TRIED_PACKETS, tick)
    if not _TIMED_FORMATS & set(source.format.name.split(",")):
        return _doubt_by_trial(name, _TRIED_PACKETS, tick)
    return None


def _doubt_by_trial(name: str, most: int, tick: Callable[[], None]) -> str | None:
    """Decode the first ``most`` packets: a frame for each that is shown must come out, in order, at the packet's time."""
    import av

    count = 0
    given: list[int] = []
    taken: list[int | None] = []
    with av.open(name, metadata_errors="replace") as source:
        stream = _best_stream(source, name)
        stream.codec_context.thread_count = 1
        stream.thread_type = "NONE"
        try:
            for packet in source.demux(stream):
                if packet.size == 0 or count == most:
                    break
                tick()
                count += 1
                if not packet.is_discard:
                    given.append(packet.pts)
                taken += [frame.pts for frame in stream.codec_context.decode(packet)]
            taken += [frame.pts for frame in stream.codec_context.decode(None)]
        except av.FFmpegError:
            return "the first packets do not decode cleanly"
    if taken != sorted(given):
        return "the times of the first packets are not those of their frames"
    return None


def _decoded_index(name: str, tick: Callable[[], None]) -> tuple[np.ndarray, np.ndarray, str]:
    """Decode everything in order: ``pts`` int64 [n] and ``key`` bool [n] of the frames that come out, and the source."""
    pts: list[int | None] = []
    key: list[bool] = []
    for frame in decode_in_order(name, tick):
        pts.append(frame.pts)
        key.append(bool(frame.key_frame))
    times = [NO_PTS if value is None else value for value in pts]
    array = np.array(times, dtype=np.int64)
    if len(array) and (array != NO_PTS).all() and (np.diff(array) > 0).all():
        return array, np.array(key, dtype=bool), "decode"
    return np.arange(len(array), dtype=np.int64), np.array(key, dtype=bool), "rate"


def decode_in_order(name: str, tick: Callable[[], None]) -> Any:
    """Every frame of the best video stream from the file's start, on one thread; packets that fail give none."""
    import av

    with av.open(name, metadata_errors="replace") as source:
        stream = _best_stream(source, name)
        stream.codec_context.thread_count = 1
        stream.thread_type = "NONE"
        packets = source.demux(stream)
        count = 0
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError:
                packet = None
            ending = packet is None or (packet.size == 0 and packet.pts is None)
            with suppress(av.FFmpegError, EOFError):
                yield from stream.codec_context.decode(None if ending else packet)
            if ending:
                return
            count += 1
            if count % 20 == 0:
                tick()


def _rate(pts: np.ndarray, time_base: Fraction, declared: Fraction) -> tuple[Fraction, bool, Fraction]:
    """Average rate (frames/s), whether it varies, and the median interval in ticks.

    The rate is the container's where the frames' own times agree with it, as it is then exact; else it is counted.
    """
    count = len(pts)
    if count == 1:
        rate = declared or Fraction(1)
        return rate, False, 1 / (rate * time_base)
    intervals = np.sort(np.diff(pts))
    half = (count - 2) // 2
    median = Fraction(int(intervals[half]) + int(intervals[(count - 1) // 2]), 2)
    span = int(pts[-1] - pts[0])
    mean = Fraction(span, count - 1)
    # Times that are rounded to ticks, or shake a little, are still those of a constant rate.
    drift = np.abs((pts - pts[0]).astype(np.float64) - np.arange(count) * float(mean)).max()
    vfr = bool(drift > max(min(1.01, 0.3 * float(mean)), 0.1 * float(mean)))
    counted = 1 / (mean * time_base)
    # One tick of rounding at each end.
    tolerance = max(Fraction(1, 5000), Fraction(2, max(span, 1)))
    if declared and abs(declared - counted) <= tolerance * counted:
        return declared, vfr, median
    if not vfr:
        return _plain_rate(counted, tolerance), vfr, median
    return counted, vfr, median


def _plain_rate(counted: Fraction, tolerance: Fraction) -> Fraction:
    """The usual frame rate within ``tolerance`` of a counted one, if there is one."""
    for number in (24, 25, 30, 48, 50, 60, 100, 120, 12, 15, 10, 5, 1, 2):
        for rate in (Fraction(number), Fraction(number * 1000, 1001)):
            if abs(rate - counted) <= min(tolerance, Fraction(1, 2500)) * counted:
                return rate
    return counted


_CUT_SHORT = re.compile(r"partial file|ended prematurely|truncated|moov atom not found", re.IGNORECASE)
_OF_STREAM = re.compile(r"stream (\d+), offset")


def _damage(
    name: str,
    source: Any,
    stream: Any,
    seen: _Seen,
    logs: list[str],
    pts: np.ndarray,
    time_base: Fraction,
    rate: Fraction,
    index_source: str,
) -> tuple[str | None, int]:
    """A sentence if the file is cut short, and the number of presented frames that it declares."""
    import av

    found = len(pts)
    cut = [
        text
        for text in logs
        if _CUT_SHORT.search(text) and ((of := _OF_STREAM.search(text)) is None or int(of[1]) == stream.index)
    ]
    declared = 0
    if "avi" in source.format.name:  # counts slots, the empty ones too
        slots = stream.frames
        held = len(seen.pts) if index_source == "rate" else int(pts[-1] - pts[0]) + 1
        if slots and held < slots - max(1, slots // 50):
            cut.append(f"the index declares {slots} frames")
            declared = found + slots - held
    if not cut and seen.stopped is None:
        return None, found
    if not declared and stream.duration:
        declared = round(stream.duration * Fraction(stream.time_base) * rate)
    if not declared and source.duration:
        declared = round(Fraction(source.duration, av.time_base) * rate)
    declared = max(declared, found)
    if not cut and declared <= found:
        return None, found
    last = float((int(pts[-1]) - int(pts[0])) * time_base)
    reason = "; ".join(dict.fromkeys([*cut, *([seen.stopped] if seen.stopped else [])]))
    expected = f"{declared} frames expected, found {found}" if declared > found else f"{found} frames found"
    return (
        f"{name!r}: {expected}: the file is cut short after {last:.3f} s ({reason}); fetch it again.",
        declared,
    )
