"""A video file's packet index: which frames a player presents, when, and where decoding may begin."""

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from framefeat.errors import UserError

NOPTS = np.iinfo(np.int64).min


@dataclass(frozen=True)
class Container:
    """What demuxing the best video stream tells, without decoding it.

    ``pts``: int64 [n] presentation times of the presented frames, ascending, in units of ``time_base`` seconds.
    ``packet_pts``: int64 [p] of all packets in file order (``NOPTS`` where absent); ``packet_key``, ``packet_shown``: bool [p].
    ``source`` says how frames and times belong together: ``packets`` (a frame has its packet's time), ``order`` (packets
    carry decoding times at most, as in AVI: the k-th frame decoded has the k-th time, or k / fps where there is none), or
    ``decode`` (the packets are ambiguous, so every frame was decoded once to learn its time).
    """

    path: str
    format: str
    codec: str
    pix_fmt: str
    width: int
    height: int
    stream_index: int
    time_base: Fraction
    rate: Fraction
    pts: np.ndarray
    packet_pts: np.ndarray
    packet_key: np.ndarray
    packet_shown: np.ndarray
    source: str
    warnings: tuple[str, ...] = field(default=())

    @property
    def frames(self) -> int:
        return len(self.pts)

    def times(self) -> np.ndarray:
        """Presentation times, float64 seconds [n], from the first presented frame."""
        return (self.pts - self.pts[0]).astype(np.float64) * float(self.time_base)

    @property
    def interval(self) -> Fraction:
        """Median interval between neighbouring presented frames, in units of ``time_base``."""
        if self.frames < 2:
            return 1 / (self.rate * self.time_base)
        return Fraction(float(np.median(np.diff(self.pts)))).limit_denominator(1000)

    @property
    def is_vfr(self) -> bool:
        """Whether some frame is shown more than half an interval away from k / rate."""
        if self.frames < 2:
            return False
        even = np.arange(self.frames) / float(self.rate)
        return bool(np.abs(self.times() - even).max() > 0.5 / float(self.rate))

    @property
    def duration_sec(self) -> float:
        """Presented frames over the average rate; for a variable rate the last time plus the median interval."""
        if self.is_vfr:
            return float(self.times()[-1] + float(self.interval * self.time_base))
        return float(self.frames / self.rate)


def read_container(path: str | Path) -> Container:
    """Demux ``path`` once. Raises ``UserError`` (file, what is wrong) where no video can be had from it."""
    name = str(path)
    if not Path(name).is_file():
        raise UserError(f"{name!r} does not exist.")
    if Path(name).stat().st_size == 0:
        raise UserError(f"{name!r} is empty (0 bytes); fetch it again.")
    try:
        with av.open(name, metadata_errors="ignore") as container:
            stream = container.streams.best("video")
            if stream is None:
                raise UserError(f"{name!r} has no video stream.")
            return _index(name, container, stream)
    except (av.FFmpegError, IndexError, ValueError) as error:
        raise UserError(f"{name!r} cannot be opened as a video ({_text(error)}); it is damaged or no video.") from error


def _text(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _index(name: str, container: Any, stream: Any) -> Container:
    codec = stream.codec_context.name
    shown_of = {"vp8": _vp8_shown, "vp9": _vp9_shown}.get(codec)
    pts: list[int] = []
    key: list[bool] = []
    shown: list[bool] = []
    warnings: list[str] = []
    demuxed = container.demux(stream)
    while True:
        try:
            packet = next(demuxed)
        except StopIteration:
            break
        except av.FFmpegError as error:
            warnings.append(f"reading stops after {len(pts)} packets: {_text(error)}")
            break
        if packet.size == 0:
            continue
        pts.append(NOPTS if packet.pts is None else packet.pts)
        key.append(bool(packet.is_keyframe))
        shown.append(not packet.is_discard and (shown_of is None or shown_of(bytes(packet))))
    packet_pts, packet_key, packet_shown = np.array(pts, np.int64), np.array(key, bool), np.array(shown, bool)
    if not packet_shown.any():
        raise UserError(f"{name!r} holds no frame: its header promises a {codec} stream, but {len(pts)} packets were found.")
    time_base = Fraction(stream.time_base)
    presented = packet_pts[packet_shown]
    guessed = stream.average_rate or stream.guessed_rate or stream.base_rate or Fraction(25)
    complete = bool((presented != NOPTS).all()) and len(np.unique(presented)) == len(presented)
    if container.format.name == "avi":
        source, times = "order", np.sort(presented)
        if not complete:
            time_base, times = 1 / Fraction(guessed), np.arange(len(presented), dtype=np.int64)
    elif complete:
        source, times = "packets", np.sort(presented)
    else:
        source, times = "decode", _decoded_times(name, stream.index)
    rate = _average_rate(times, time_base, Fraction(guessed))
    return Container(
        path=name, format=container.format.name, codec=codec, pix_fmt=str(stream.codec_context.pix_fmt),
        width=stream.codec_context.width, height=stream.codec_context.height, stream_index=stream.index,
        time_base=time_base, rate=rate, pts=times, packet_pts=packet_pts, packet_key=packet_key,
        packet_shown=packet_shown, source=source, warnings=tuple(warnings),
    )  # fmt: skip


def _average_rate(times: np.ndarray, time_base: Fraction, declared: Fraction) -> Fraction:
    """The declared average rate, unless the presented frames say otherwise (edit lists, missing headers)."""
    if len(times) < 2 or times[-1] == times[0]:
        return declared
    measured = Fraction(len(times) - 1) / (Fraction(int(times[-1] - times[0])) * time_base)
    if abs(measured - declared) <= declared / 200:
        return declared
    return measured.limit_denominator(100_000)


def _decoded_times(name: str, stream_index: int) -> np.ndarray:
    """Presentation times by decoding everything once, in order: for packets that do not tell them."""
    found: list[int] = []
    with av.open(name, metadata_errors="ignore") as container:
        stream = container.streams[stream_index]
        stream.codec_context.thread_count = 1
        for packet in container.demux(stream):
            try:
                found.extend(frame.pts for frame in stream.codec_context.decode(packet if packet.size else None))
            except av.FFmpegError:
                continue
    times = np.array(sorted({pts for pts in found if pts is not None}), np.int64)
    if not len(times):
        raise UserError(f"{name!r}: no frame of it can be decoded, or none has a presentation time.")
    return times


def _vp8_shown(packet: bytes) -> bool:
    # RFC 6386, 9.1: bit 4 of the first byte is show_frame.
    return bool(packet[0] & 0x10)


def _vp9_shown(packet: bytes) -> bool:
    """Whether a packet (a frame, or a superframe of several) holds a frame that is shown (VP9 bitstream, annex B, 6.2)."""
    marker = packet[-1]
    if marker & 0xE0 == 0xC0:
        frames, width = (marker & 7) + 1, ((marker >> 3) & 3) + 1
        size = 2 + width * frames
        if len(packet) >= size and packet[-size] == marker:
            start = 0
            for number in range(frames):
                place = len(packet) - size + 1 + width * number
                length = int.from_bytes(packet[place : place + width], "little")
                if length and start < len(packet) and _vp9_frame_shown(packet[start]):
                    return True
                start += length
            return False
    return _vp9_frame_shown(packet[0])


def _vp9_frame_shown(first: int) -> bool:
    if (first >> 4) & 3 == 3:  # profile 3 has a reserved bit
        return bool(first & 0x04 or first & 0x01)
    return bool(first & 0x08 or first & 0x02)


def facts(container: Container) -> dict[str, Any]:
    """What is worth recording of a container, JSON-able."""
    times = container.times()
    return {
        "format": container.format,
        "codec": container.codec,
        "pix_fmt": container.pix_fmt,
        "size": [container.width, container.height],
        "frames": container.frames,
        "fps": float(container.rate),
        "duration_sec": container.duration_sec,
        "last_sec": float(times[-1]),
        "interval_sec": float(container.interval * container.time_base),
        "start_sec": float(container.pts[0] * container.time_base),
        "vfr": container.is_vfr,
        "key_frames": int(container.packet_key.sum()),
        "times_from": container.source,
        "hidden_packets": int((~container.packet_shown).sum()),
    }


def probe(path: str) -> dict[str, Any]:
    """``{"facts": ..., "error": None}``, or ``{"facts": None, "error": sentence}`` for a file that is damaged."""
    try:
        return {"facts": facts(read_container(path)), "error": None}
    except UserError as error:
        return {"facts": None, "error": str(error)}
