"""What a video file holds: which frames are presented, when, and how they can be read.

Times stay integers in the stream's own time base; seconds are made of them at the very end. Time 0 is the first
presented frame of the video stream that FFmpeg calls best: not the container's start, and not the audio's.
"""

import os
import re
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from framefeat.errors import UserError
from framefeat.records import Facts
from framefeat.video.apertures import asked_crop
from framefeat.video.packets import (
    NO_PTS,
    TRIED_PACKETS,
    Packets,
    Reading,
    Tick,
    Trial,
    best_stream,
    cause,
    check_file,
    open_source,
    packets_of,
    read_packets,
)
from framefeat.video.reference import JUMP_SECONDS, clock_goes_back, decoded_order, prepare, restarts

#: Formats that store a presentation time for every packet; the times of others are FFmpeg's guesses.
_TIMED_FORMATS = {"mov", "mp4", "matroska", "webm", "flv", "ivf", "ogg", "nut", "gif", "apng"}
_NO_TIMESTAMPS, _TS_DISCONT = 0x0080, 0x0200  # AVFMT_NOTIMESTAMPS, AVFMT_TS_DISCONT
#: A group of pictures of so many packets, none of them reordered, is a contradiction where the decoder reorders.
_GROUP = 8


@dataclass(frozen=True)
class Container:
    """One video stream.

    ``pts`` (int64 [n], ascending, in units of ``time_base``) and ``key`` (bool [n]) belong to the presented frames;
    ``packet`` (int64 [n]) is the position of each one's packet in ``packets``, -1 where the index is not the packets'.
    ``last_duration``: ticks that the last frame is shown, by the container's account (0: it does not say).

    ``index_source`` says where ``pts`` comes from: ``packets``; ``decode`` (the packets do not tell, so the file was
    decoded in order); ``rate`` (the same, and the frames have no usable times: frame k is at k / average rate).

    ``in_order``: why no packet may be left out and no place sought for; None where both is safe. ``full_delay``: see
    ``reference.Order``. ``doubts``: contradictions that nothing decides.
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
    last_duration: int = 0
    in_order: str | None = None
    full_delay: bool = False
    warnings: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)

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
    def last_shown(self) -> Fraction:
        """Ticks that the last frame is shown: its own duration, and at least the median interval."""
        return max(self.median_interval, Fraction(self.last_duration))

    @property
    def duration_sec(self) -> float:
        """Frames / average rate; with a variable rate: the last frame's time + how long it is shown."""
        if self.is_vfr:
            return float((int(self.pts[-1]) - self.start_pts + self.last_shown) * self.time_base)
        return float(self.n_presented / self.average_rate)

    def times(self) -> np.ndarray:
        """Presentation times, float64 [n], seconds from the first presented frame."""
        return self.seconds(self.pts)

    def seconds(self, pts: np.ndarray) -> np.ndarray:
        """Stream ticks (int64) to seconds from the first presented frame (float64), rounded once."""
        ticks = np.asarray(pts, dtype=np.int64) - self.start_pts
        return ticks * self.time_base.numerator / self.time_base.denominator


def facts(container: Container) -> Facts:
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
        "last_duration_sec": float(container.last_shown * container.time_base),
        "interval_sec": float(container.median_interval * container.time_base),
        "start_sec": container.start_sec,
        "vfr": container.is_vfr,
        "index_source": container.index_source,
        "warnings": list(container.warnings),
        "doubts": list(container.doubts),
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


def _nothing() -> None:
    return None


def read_container(
    path: str | os.PathLike[str],
    tick: Tick = _nothing,
    contradiction: str | None = None,
    trial: bool = True,
) -> Container:
    """Read the packets of the best video stream once, and decode the first of them; all of them where they do not tell.

    ``tick`` is called now and then, as a sign of life. ``contradiction``: what a reader found that the packets did not
    foretell, so that they are not believed. ``trial``: False where the first packets of this very content were tried before,
    and told the frames. Raises ``UserError``, one sentence, for a file that is missing, empty,
    unreadable or without a video stream.
    """
    import av

    name = str(path)
    check_file(name)
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)
    try:
        with av.logging.Capture(local=False) as logs:
            with open_source(name) as source:
                stream = best_stream(source, name)
                reading = read_packets(source, stream, tick, trial)
                return _build(name, source, stream, reading, logs, tick, contradiction)
    except av.FFmpegError as error:
        raise UserError(
            f"{name!r}: FFmpeg cannot read this file ({cause(error)}); it is damaged or not a video: fetch it again, "
            "or take its rows out of the index."
        ) from None


def _build(
    name: str,
    source: Any,
    stream: Any,
    reading: Reading,
    logs: list[Any],
    tick: Tick,
    contradiction: str | None,
) -> Container:
    context = stream.codec_context
    packets = reading.packets()
    count = len(packets)
    if count == 0:
        declared = f"{stream.frames} frames" if stream.frames else "a video stream"
        raise UserError(
            f"{name!r}: {declared} expected, found none: the file ends after its header; fetch it again."
        )
    time_base = Fraction(stream.time_base)
    demux_logs = [text.strip() for _, module, text in logs if module in source.format.name]
    jump = _jump(source, time_base)
    doubt = contradiction or _doubt(name, source, context, packets, reading, jump, tick)
    guessed = bool(int(source.format.flags) & _NO_TIMESTAMPS or "avi" in source.format.name)
    index = (
        _index_of_packets(packets)
        if doubt is None
        else _decoded_index(name, packets, jump, doubt, tick, guessed)
    )
    if not len(index.pts):
        raise UserError(
            f"{name!r}: {count} packets of {context.codec.canonical_name} video, but no frame of them can be shown; "
            "fetch the file again."
        )
    declared_rate = Fraction(stream.average_rate or stream.guessed_rate or 0)
    last_duration = reading.durations[int(index.packet[-1])]
    if index.source == "rate":
        rate = declared_rate or Fraction(25)
        time_base, vfr, interval, last_duration = 1 / rate, False, Fraction(1), 0
    else:
        rate, vfr, interval = _rate(index.pts, time_base, declared_rate)
        vfr = vfr or last_duration > Fraction(3, 2) * interval
    damage, expected = _damage(
        name, source, stream, reading, demux_logs, index.pts, time_base, rate, index.source
    )
    frame = reading.trial.first_frame
    aspect = stream.sample_aspect_ratio or Fraction(1)
    rotation = int(frame.rotation) if frame is not None else 0
    crop = asked_crop(name, source.format.name, int(stream.id))
    return Container(
        path=name,
        format=source.format.name,
        codec=context.codec.canonical_name,
        pix_fmt=frame.format.name if frame is not None else context.pix_fmt,
        width=frame.width if frame is not None else context.width,
        height=frame.height if frame is not None else context.height,
        sample_aspect=Fraction(aspect) if aspect > 0 else Fraction(1),
        rotation=rotation,
        time_base=time_base,
        average_rate=rate,
        stream_index=stream.index,
        pts=index.pts,
        key=index.key,
        packet=index.packet,
        packets=packets,
        index_source=index.source,
        is_vfr=vfr,
        median_interval=interval,
        expected_frames=expected,
        damage=damage,
        last_duration=last_duration,
        in_order=reading.state,
        full_delay=index.full_delay,
        warnings=[*index.warnings, *_picture_warnings(packets, context, reading.trial, rotation, crop)],
        doubts=[*index.doubts, *_clock_doubts(index.pts, time_base, source)],
    )


def _picture_warnings(
    packets: Packets, context: Any, trial: Trial, rotation: int, crop: str | None
) -> list[str]:
    """What a person may want to know of the pictures, though nothing is wrong with their order."""
    warnings = []
    if packets.corrupt.any():
        warnings.append(f"{int(packets.corrupt.sum())} packets are damaged by the container's own account")
    if trial.first_frame is None:
        warnings.append("none of the first packets decodes to a frame")
    if transfer := _HDR_TRANSFERS.get(int(context.color_trc or 0)):
        warnings.append(f"HDR video ({transfer}): colours are taken as they are stored, without tone mapping")
    if trial.interlaced:
        warnings.append("interlaced video: a frame holds two moments, and is not deinterlaced")
    if abs(rotation - 90 * round(rotation / 90)) > 1:
        warnings.append(f"its display matrix turns by {rotation} degrees, no quarter turn: it is not applied")
    if crop:
        warnings.append(
            f"its container asks for {crop}: it is not applied, frames show the whole stored picture"
        )
    return warnings


#: Transfer characteristics of ITU-T H.273 that are high dynamic range.
_HDR_TRANSFERS = {16: "PQ", 18: "HLG"}


@dataclass(frozen=True)
class _Index:
    """The presented frames: see ``Container``."""

    pts: np.ndarray
    key: np.ndarray
    packet: np.ndarray
    source: str
    full_delay: bool = False
    warnings: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


def _index_of_packets(packets: Packets) -> _Index:
    shown = np.flatnonzero(packets.shown)
    order = shown[np.argsort(packets.pts[shown], kind="stable")]
    return _Index(packets.pts[order], packets.key[order], order, "packets")


def _decoded_index(
    name: str, packets: Packets, jump: int | None, doubt: str, tick: Tick, guessed: bool
) -> _Index:
    order = decoded_order(name, packets, jump, tick, guessed)
    count = len(order.key)
    return _Index(
        np.arange(count, dtype=np.int64) if order.times is None else order.times,
        order.key,
        np.full(count, -1, dtype=np.int64),
        "rate" if order.times is None else "decode",
        order.full_delay,
        (
            f"the packets do not tell the frames ({doubt}); the file was decoded in order to count them",
            *order.warnings,
        ),
        order.doubts,
    )


def _jump(source: Any, time_base: Fraction) -> int | None:
    """Ticks beyond which a step of the clock is a restart, in formats whose clocks restart; None elsewhere."""
    restarting = int(source.format.flags) & _TS_DISCONT or "flv" in source.format.name
    return int(JUMP_SECONDS / time_base) if restarting else None


def _clock_doubts(pts: np.ndarray, time_base: Fraction, source: Any) -> list[str]:
    """A gap that dwarfs all other intervals together, in a format that stores no durations: a pause, or another clock?"""
    if len(pts) < 3 or not {"matroska", "webm", "flv"} & set(source.format.name.split(",")):
        return []
    steps = np.diff(pts)
    widest = int(steps.argmax())
    gap, rest = int(steps[widest]), int(steps.sum() - steps[widest])
    if gap * time_base <= JUMP_SECONDS or gap < 20 * rest:
        return []
    return [
        f"its clock jumps by {float(gap * time_base):.0f} s at frame {widest + 1}, and nothing tells whether that is a pause "
        "or the beginning of another clock"
    ]


def _doubt(
    name: str, source: Any, context: Any, packets: Packets, reading: Reading, jump: int | None, tick: Tick
) -> str | None:
    """Why the packets do not tell the presented frames, or None where nothing contradicts them."""
    shown = packets.pts[packets.shown]
    if not len(shown):
        return "no packet is marked as shown"
    if (shown == NO_PTS).any():
        return f"{int((shown == NO_PTS).sum())} of {len(shown)} have no presentation time"
    if twice := int((np.diff(np.sort(shown)) == 0).sum()):
        return f"{twice} presentation times occur twice"
    if clock_goes_back(packets):
        return "the file's clock goes back"
    if jump is not None and len(restarts(np.sort(shown), jump)):
        return "the file's clock jumps"
    if reading.unordered:
        return f"{reading.unordered} B pictures are shown after all that was decoded before them"
    if unmoved := _unmoved_group(packets, context):
        return unmoved
    timed = bool(_TIMED_FORMATS & set(source.format.name.split(",")))
    if reading.trial.complete and (reason := _contradiction(reading.trial, timed)):
        return reason
    first_key = int(np.argmax(packets.key)) if packets.key.any() else len(packets) - 1
    early = packets.shown & (packets.pts < packets.pts[first_key])
    early[:first_key] |= packets.shown[:first_key]
    if early.any():  # they may or may not be decodable
        most = int(np.flatnonzero(early)[-1]) + 1 + TRIED_PACKETS
        return _contradiction(_try_first(name, most, tick), timed=False)
    return None


def _unmoved_group(packets: Packets, context: Any) -> str | None:
    """HEVC, whose slices tell less: a decoder that reorders, and a group of pictures whose times do not."""
    if context.codec.canonical_name != "hevc" or not context.has_b_frames:
        return None
    edges = np.r_[np.flatnonzero(packets.key), len(packets)]
    for first, end in zip(edges[:-1], edges[1:], strict=True):
        if end - first >= _GROUP and (np.diff(packets.pts[first:end]) > 0).all():
            return f"pictures are reordered, and the times of {end - first} packets from packet {first} on are not"
    return None


def _contradiction(trial: Trial, timed: bool) -> str | None:
    """What the first frames say against the packets: each that is shown must come out, in order, at its packet's time.

    Where a packet cannot be decoded and the format is ``timed``, its frame alone is missing.
    """
    given, taken = trial.given, trial.taken
    if any(pts is None for pts in taken) or not set(taken) <= set(given):
        return "frames of the first packets have other times than their packets"
    if any(b <= a for a, b in zip(taken, taken[1:], strict=False)):  # type: ignore[operator]
        return "the first frames leave the decoder in another order than that of their times"
    if len(taken) < len(given) and not (timed and trial.failed):
        return f"the first {len(given)} packets give {len(taken)} frames"
    return None


def _try_first(name: str, most: int, tick: Tick) -> Trial:
    """Decode the first ``most`` packets."""
    import av

    trial = Trial()
    with open_source(name) as source:
        stream = best_stream(source, name)
        prepare(stream, full_delay=False)
        try:
            for position, packet in enumerate(packets_of(av, source, stream)):
                if position == most:
                    break
                tick()
                if packet.size and not packet.is_discard:
                    trial.given.append(packet.pts)
                trial.taken += [frame.pts for frame in stream.codec_context.decode(packet)]
            trial.taken += [frame.pts for frame in stream.codec_context.decode(None)]
        except av.FFmpegError:
            trial.failed = True
    return trial


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
    reading: Reading,
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
        held = len(reading.pts) if index_source == "rate" else int(pts[-1] - pts[0]) + 1
        if slots and held < slots - max(1, slots // 50):
            cut.append(f"the index declares {slots} frames")
            declared = found + slots - held
    if not cut and reading.stopped is None:
        return None, found
    if not declared and stream.duration:
        declared = round(stream.duration * Fraction(stream.time_base) * rate)
    if not declared and source.duration:
        declared = round(Fraction(source.duration, av.time_base) * rate)
    declared = max(declared, found)
    if not cut and declared <= found:
        return None, found
    last = float((int(pts[-1]) - int(pts[0])) * time_base)
    reason = "; ".join(dict.fromkeys([*cut, *([reading.stopped] if reading.stopped else [])]))
    expected = f"{declared} frames expected, found {found}" if declared > found else f"{found} frames found"
    return (
        f"{name!r}: {expected}: the file is cut short after {last:.3f} s ({reason}); fetch it again.",
        declared,
    )
