"""What a video file holds: which frames are presented, when, and how they can be read.

Times stay integers in the stream's own time base; seconds are made of them at the very end. Time 0 is the first
presented frame of the video stream that FFmpeg calls best: not the container's start, and not the audio's.
"""

import os
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from framefeat.errors import MachineError, UserError
from framefeat.records import Facts
from framefeat.video.apertures import asked_crop
from framefeat.video.cut_short import shortfall
from framefeat.video.packets import (
    Packets,
    Reading,
    Tick,
    Trial,
    best_stream,
    cause,
    check_file,
    nothing,
    open_source,
    read_packets,
)
from framefeat.video.presented import Presented, clock_doubts, presented
from framefeat.video.timing import Timing, by_rate, by_times
from framefeat.words import many


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


def probe(path: str | os.PathLike[str], every: int | None = None) -> dict[str, Any]:
    """``{"facts": dict | None, "error": str | None}``; never raises for what is wrong with the file itself.

    Both are there for a file that is damaged but not useless. With ``every``, a file with facts also has ``"sampled"``:
    that number, and the presentation times (seconds) of every so many-th frame.
    """
    try:
        container = read_container(path)
    except MachineError:
        raise
    except UserError as error:
        return {"facts": None, "error": str(error)}
    found = {"facts": facts(container), "error": container.damage}
    if every is None:
        return found
    return found | {"sampled": {"every": every, "times": declared_times(container)[::every].tolist()}}


def declared_times(container: Container) -> np.ndarray:
    """Presentation times (float64 seconds) of all frames that the file declares: those it lacks follow at its rate.

    None of the latter is near enough to the last frame to be taken for it.
    """
    times = container.times()
    lost = container.expected_frames - container.n_presented
    end = times[-1] + float(container.last_shown * container.time_base)
    step = max(float(1 / container.average_rate), float(container.median_interval * container.time_base))
    return np.concatenate([times, end + step * np.arange(lost)])


def read_container(
    path: str | os.PathLike[str],
    tick: Tick = nothing,
    contradiction: str | None = None,
    trial: bool = True,
) -> Container:
    """Read the packets of the best video stream once, and decode the first of them; all of them where they do not tell.

    ``tick`` is called now and then, as a sign of life. ``contradiction``: what a reader found that the packets did not
    foretell, so that they are not believed. ``trial``: False where the first packets of this very content were tried
    before, and told the frames. Raises ``UserError``, one sentence, for a file that is missing, empty, unreadable or
    without a video stream.
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
                return _container(name, source, stream, reading, logs, tick, contradiction)
    except av.FFmpegError as error:
        raise UserError(
            f"{name!r}: FFmpeg cannot read this file ({cause(error)}); it is damaged or not a video: fetch it again, "
            "or leave the video out."
        ) from None


def _container(
    name: str,
    source: Any,
    stream: Any,
    reading: Reading,
    logs: list[Any],
    tick: Tick,
    contradiction: str | None,
) -> Container:
    context = stream.codec_context
    codec = context.codec.canonical_name
    packets = reading.packets()
    if not len(packets):
        declared = f"{stream.frames} frames" if stream.frames else "a video stream"
        raise UserError(
            f"{name!r}: {declared} expected, found none: the file ends after its header; fetch it again."
        )
    frames = presented(name, source, stream, reading, packets, tick, contradiction)
    if not len(frames.pts):
        raise UserError(
            f"{name!r}: {many(len(packets), 'packet')} of {codec} video, but no frame of them can be shown; "
            "fetch the file again."
        )
    timing = _timing(frames, stream, reading)
    reason, expected = shortfall(source, stream, reading, logs, frames, timing.average_rate)
    first = reading.trial.first_frame
    aspect = stream.sample_aspect_ratio or Fraction(1)
    rotation = int(first.rotation) if first is not None else 0
    crop = asked_crop(name, source.format.name, int(stream.id))
    return Container(
        path=name,
        format=source.format.name,
        codec=codec,
        pix_fmt=first.format.name if first is not None else context.pix_fmt,
        width=first.width if first is not None else context.width,
        height=first.height if first is not None else context.height,
        sample_aspect=Fraction(aspect) if aspect > 0 else Fraction(1),
        rotation=rotation,
        time_base=timing.time_base,
        average_rate=timing.average_rate,
        stream_index=stream.index,
        pts=frames.pts,
        key=frames.key,
        packet=frames.packet,
        packets=packets,
        index_source=frames.source,
        is_vfr=timing.is_vfr,
        median_interval=timing.median_interval,
        expected_frames=expected,
        damage=None if reason is None else _damage(name, frames, timing, reason, expected),
        last_duration=timing.last_duration,
        in_order=reading.state,
        full_delay=frames.full_delay,
        warnings=[*frames.warnings, *_picture_warnings(packets, context, reading.trial, rotation, crop)],
        doubts=[
            *frames.doubts,
            *clock_doubts(frames.pts, timing.time_base, source),
            *_lost_references(reading.lost_before),
        ],
    )


def _lost_references(packets: list[int]) -> list[str]:
    """FFmpeg shows old pictures instead, and says nothing."""
    if not packets:
        return []
    return [
        f"pictures that others refer to are missing in it ({many(len(packets), 'gap')}, the first before packet {packets[0]}): "
        "frames from there to the next key frame may show something else"
    ]


def _timing(frames: Presented, stream: Any, reading: Reading) -> Timing:
    declared = Fraction(stream.average_rate or stream.guessed_rate or 0)
    if frames.source == "rate":
        return by_rate(declared)
    last_duration = reading.durations[int(frames.packet[-1])]
    return by_times(frames.pts, Fraction(stream.time_base), declared, last_duration)


def _damage(name: str, frames: Presented, timing: Timing, reason: str, expected: int) -> str:
    found = len(frames.pts)
    last = float((int(frames.pts[-1]) - int(frames.pts[0])) * timing.time_base)
    counts = f"{expected} frames expected, found {found}" if expected > found else f"{found} frames found"
    return f"{name!r}: {counts}: the file is cut short after {last:.3f} s ({reason}); fetch it again."


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
