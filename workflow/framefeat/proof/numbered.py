"""Clips whose pixels carry their own frame number: large black and white blocks that survive any encoder.

A clip's times and presented frames are known before it is written, so that a reader can be compared with the truth and
not with another reader.
"""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

BITS = 16
#: Blocks across and down, and the smallest block in pixels.
_GRID = (4, 4)


def draw_number(number: int, height: int, width: int) -> np.ndarray:
    """uint8 [H, W]: ``number`` as 16 blocks, row by row, the highest bit first; 40 is 0 and 215 is 1."""
    bits = np.array([number >> shift & 1 for shift in range(BITS - 1, -1, -1)], dtype=np.uint8).reshape(
        _GRID[::-1]
    )
    rows = np.arange(height) * _GRID[1] // height
    columns = np.arange(width) * _GRID[0] // width
    return (40 + 175 * bits)[rows][:, columns]


def read_number(rgb: np.ndarray) -> int:
    """The number that ``draw_number`` drew, read from a frame of any size (uint8 [H, W, 3])."""
    height, width = rgb.shape[:2]
    number = 0
    for row in range(_GRID[1]):
        for column in range(_GRID[0]):
            top, left = (4 * row + 1) * height // (4 * _GRID[1]), (4 * column + 1) * width // (4 * _GRID[0])
            bottom, right = (
                (4 * row + 3) * height // (4 * _GRID[1]),
                (4 * column + 3) * width // (4 * _GRID[0]),
            )
            block = rgb[top : max(bottom, top + 1), left : max(right, left + 1)]
            number = number << 1 | int(block.mean() > 128)
    return number


@dataclass(frozen=True)
class Recipe:
    """How one clip is made.

    ``intervals``: between presentation times, again and again, in units of 1/``clock`` s (default: a constant rate);
    ``first``: the number in the first frame's pixels; ``border``: white pixels around them.
    """

    name: str
    suffix: str
    encoder: str = "libx264"
    rate: Fraction = Fraction(25)
    frames: int = 100
    options: dict[str, str] = field(default_factory=dict)
    container_options: dict[str, str] = field(default_factory=dict)
    pix_fmt: str = "yuv420p"
    size: tuple[int, int] = (96, 128)
    intervals: tuple[int, ...] = ()
    clock: int = 1000
    offset: Fraction = Fraction(0)
    cut_at: int = 0
    hide_every: int = 0
    first: int = 0
    upside_down: bool = False
    border: int = 0

    @property
    def file(self) -> str:
        return self.name + self.suffix

    def hides(self, number: int) -> bool:
        """Whether that frame is encoded and never shown (VP8 only)."""
        return bool(self.hide_every) and number % self.hide_every == self.hide_every - 1


@dataclass(frozen=True)
class Clip:
    """A clip on disk and the truth about it: presented frame k carries the number ``numbers[k]`` and is shown at
    ``times[k]`` seconds after the first presented one."""

    recipe: Recipe
    path: Path
    numbers: tuple[int, ...]
    times: tuple[Fraction, ...]

    @property
    def fps(self) -> float:
        """What an index would give as the native rate."""
        if self.recipe.intervals or self.recipe.hide_every:
            return float((len(self.times) - 1) / self.times[-1])
        return float(self.recipe.rate)


def _x264(**more: str) -> dict[str, str]:
    return {"preset": "ultrafast", "g": "30", "bf": "0", "sc_threshold": "0", **more}


def _b_frames(**more: str) -> dict[str, str]:
    return {"preset": "veryfast", "g": "30", "bf": "3", "sc_threshold": "0", "b_strategy": "0", **more}


def _rate_name(rate: Fraction) -> str:
    return f"{float(rate):.3f}".rstrip("0").rstrip(".").replace(".", "_")


_RATES = (
    Fraction(24000, 1001),
    Fraction(24),
    Fraction(25),
    Fraction(30000, 1001),
    Fraction(29917, 1000),
    Fraction(30),
    Fraction(60000, 1001),
)
_IRREGULAR = (33, 67, 20, 104, 41, 33, 250, 33, 12, 90)
_X265 = {
    "preset": "ultrafast",
    "x265-params": "log-level=none:keyint=30:bframes=3:b-adapt=0:pools=1:frame-threads=1",
}
_OPEN_X265 = {"preset": "veryfast", "x265-params": _X265["x265-params"] + ":open-gop=1"}
_PYRAMID = _b_frames(**{"b-pyramid": "normal", "bf": "7", "refs": "4"})
_OPEN = _b_frames(**{"x264-params": "open-gop=1", "b-pyramid": "normal"})
_VP9 = {"deadline": "realtime", "cpu-used": "8", "g": "30", "b": "200k"}
_SVT = {"preset": "6", "g": "30", "crf": "10", "svtav1-params": "lp=1"}
_MPEG4 = {"g": "12", "b": "400k"}

RECIPES: tuple[Recipe, ...] = (
    *(Recipe(f"cfr_{_rate_name(rate)}", ".mp4", rate=rate, options=_b_frames()) for rate in _RATES),
    Recipe("h264_no_b", ".mp4", options=_x264()),
    Recipe("h264_pyramid", ".mp4", options=_PYRAMID),
    Recipe("h264_open_gop", ".mp4", options=_OPEN),
    Recipe("h264_open_gop", ".mkv", options=_OPEN, frames=200),
    Recipe("h264_open_gop", ".ts", options=_OPEN),
    Recipe("h264_one_key_60s", ".mp4", frames=1500, options=_b_frames(g="9999")),
    Recipe("h264_intra_refresh", ".mp4", options=_x264(**{"x264-params": "intra-refresh=1"})),
    Recipe("h264_interlaced", ".ts", options=_b_frames(flags="+ildct+ilme")),
    Recipe("h264_b", ".mkv", rate=Fraction(30000, 1001), options=_b_frames()),
    Recipe("h264_b", ".mov", options=_b_frames()),
    Recipe("h264_b", ".avi", options=_b_frames()),
    Recipe("h264_b", ".ts", options=_b_frames()),
    Recipe("h264_b", ".flv", options=_b_frames()),
    Recipe(
        "h264_fragmented",
        ".mp4",
        options=_b_frames(),
        container_options={"movflags": "frag_keyframe+empty_moov"},
    ),
    Recipe("h264_10bit", ".mp4", options=_b_frames(), pix_fmt="yuv420p10le"),
    Recipe("h264_444", ".mp4", options=_b_frames(), pix_fmt="yuv444p"),
    Recipe("h264_full_range", ".mp4", options=_b_frames(), pix_fmt="yuvj420p"),
    Recipe("h264_one_frame", ".mp4", frames=1, options=_x264()),
    Recipe("h264_vfr", ".mp4", intervals=_IRREGULAR, options=_b_frames()),
    Recipe("h264_vfr", ".mkv", intervals=_IRREGULAR, options=_b_frames()),
    Recipe("vp9_vfr", ".webm", encoder="libvpx-vp9", intervals=_IRREGULAR, options=_VP9),
    Recipe("h264_start_5s", ".mp4", offset=Fraction(5), options=_b_frames()),
    Recipe("h264_start_5s", ".mkv", offset=Fraction(5), options=_b_frames()),
    Recipe("h264_start_5s", ".ts", offset=Fraction(5), options=_b_frames()),
    Recipe(
        "h264_negative_start",
        ".mkv",
        offset=Fraction(-1),
        options=_x264(),
        container_options={"avoid_negative_ts": "disabled"},
    ),
    Recipe(
        "h264_negative_start",
        ".ts",
        offset=Fraction(-1),
        options=_x264(),
        container_options={"avoid_negative_ts": "disabled"},
    ),
    Recipe("h264_cut", ".mp4", cut_at=47, frames=150, options=_b_frames()),
    Recipe("h264_cut_open_gop", ".mp4", cut_at=77, frames=150, options=_OPEN),
    Recipe("h264_cut_one_key", ".mov", cut_at=200, frames=300, options=_b_frames(g="9999")),
    Recipe("hevc_cut", ".mp4", encoder="libx265", cut_at=44, frames=120, options=_X265),
    Recipe("hevc_b", ".mp4", encoder="libx265", options=_X265),
    Recipe("hevc_open_gop", ".mkv", encoder="libx265", options=_OPEN_X265),
    Recipe("hevc_open_gop", ".ts", encoder="libx265", options=_OPEN_X265),
    Recipe("vp9", ".webm", encoder="libvpx-vp9", options=_VP9),
    Recipe("vp9", ".mp4", encoder="libvpx-vp9", options=_VP9),
    Recipe("vp8", ".webm", encoder="libvpx", options=_VP9),
    Recipe("vp8_hidden", ".webm", encoder="libvpx", options=_VP9, hide_every=7),
    Recipe("av1", ".mp4", encoder="libsvtav1", options=_SVT),
    Recipe("av1", ".mkv", encoder="libsvtav1", options=_SVT),
    Recipe("av1", ".webm", encoder="libsvtav1", rate=Fraction(30000, 1001), options=_SVT),
    Recipe("mpeg4", ".mp4", encoder="mpeg4", options=_MPEG4),
    Recipe("mpeg4_b", ".mp4", encoder="mpeg4", options={**_MPEG4, "bf": "2"}),
    Recipe("mpeg4_b", ".avi", encoder="mpeg4", options={**_MPEG4, "bf": "2"}),
    Recipe("mpeg4_b", ".mkv", encoder="mpeg4", options={**_MPEG4, "bf": "2"}),
    Recipe("mpeg2_b", ".ts", encoder="mpeg2video", options={**_MPEG4, "bf": "2"}),
    Recipe("mpeg2_b", ".mpg", encoder="mpeg2video", options={**_MPEG4, "bf": "2"}),
    Recipe("mjpeg", ".avi", encoder="mjpeg", options={"q": "3"}, pix_fmt="yuvj420p"),
)

#: Ticks per second of the formats that do not keep the encoder's clock.
_CLOCKS = {".mkv": 1000, ".webm": 1000, ".flv": 1000, ".ts": 90000, ".mpg": 90000}


def make(recipe: Recipe, folder: Path) -> Clip:
    """Write the clip into ``folder`` (if it is not there yet) and tell the truth about it."""
    path = folder / recipe.file
    numbers = range(recipe.frames)
    clock = Fraction(1, recipe.clock) if recipe.intervals else 1 / recipe.rate
    ticks = _ticks(recipe)
    if not path.is_file():
        whole = path.with_name("." + recipe.name + "-whole" + recipe.suffix) if recipe.cut_at else path
        temporary = whole.with_name(".tmp-" + whole.name)
        _encode(recipe, temporary, numbers, ticks, clock)
        temporary.rename(whole)
        if recipe.cut_at:
            cut = path.with_name(".tmp-" + path.name)
            _copy_from(whole, cut, Fraction(ticks[recipe.cut_at]) * clock)
            whole.unlink()
            cut.rename(path)
    shown = [number for number in numbers if number >= recipe.cut_at and not recipe.hides(number)]
    kept = [ticks[number] * clock for number in shown]
    rounded = [_round_to(recipe.offset + time, _CLOCKS.get(recipe.suffix)) for time in kept]
    drawn = tuple(recipe.first + number for number in shown)
    return Clip(recipe, path, drawn, tuple(time - rounded[0] for time in rounded))


def _ticks(recipe: Recipe) -> list[int]:
    if not recipe.intervals:
        return list(range(recipe.frames))
    ticks = [0]
    while len(ticks) < recipe.frames:
        ticks.append(ticks[-1] + recipe.intervals[len(ticks) % len(recipe.intervals)])
    return ticks


def _round_to(time: Fraction, clock: int | None) -> Fraction:
    """Rounded to the nearest tick, halves away from zero, as FFmpeg does it."""
    if clock is None:
        return time
    ticks = abs(time) * clock
    whole = (2 * ticks.numerator + ticks.denominator) // (2 * ticks.denominator)
    return Fraction(whole if time >= 0 else -whole, clock)


def _encode(
    recipe: Recipe, path: Path, numbers: Sequence[int], ticks: Sequence[int], clock: Fraction
) -> None:
    import av

    offset = recipe.offset / clock
    with av.open(str(path), "w", options=recipe.container_options) as output:
        stream: Any = output.add_stream(recipe.encoder, rate=recipe.rate, options=recipe.options)
        stream.height, stream.width = recipe.size
        stream.pix_fmt = recipe.pix_fmt
        stream.codec_context.time_base = clock
        stream.codec_context.thread_count = 1
        if recipe.intervals:
            stream.time_base = clock
        packets: list[Any] = []
        for number in numbers:
            grey = _drawn(recipe, number)
            frame = av.VideoFrame.from_ndarray(grey, format="gray").reformat(format=recipe.pix_fmt)
            frame.pts = ticks[number]
            frame.time_base = clock
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for place, packet in enumerate(packets):
            if offset:
                shift = int(offset * clock / packet.time_base)
                packet.pts += shift
                packet.dts += shift
            output.mux(_hidden(packet) if recipe.hides(place) else packet)


def _drawn(recipe: Recipe, number: int) -> np.ndarray:
    height, width = (length - 2 * recipe.border for length in recipe.size)
    grey = draw_number(recipe.first + number, height, width)
    if recipe.upside_down:
        grey = grey[::-1, ::-1]
    return np.pad(grey, recipe.border, constant_values=235)


def _hidden(packet: Any) -> Any:
    """A VP8 packet with its show_frame bit cleared: it is decoded, and never shown."""
    import av

    data = bytearray(bytes(packet))
    data[0] &= 0xEF
    copy: Any = av.Packet(bytes(data))
    copy.pts, copy.dts, copy.duration = packet.pts, packet.dts, packet.duration
    copy.time_base, copy.stream, copy.is_keyframe = packet.time_base, packet.stream, packet.is_keyframe
    return copy


def _copy_from(source: Path, target: Path, start: Fraction) -> None:
    """Cut without encoding: from the key frame before ``start`` on, what precedes ``start`` hidden by an edit list."""
    import av

    with av.open(str(source)) as original, av.open(str(target), "w") as output:
        stream = original.streams.video[0]
        copy = output.add_stream_from_template(stream)
        packets = [packet for packet in original.demux(stream) if packet.size]
        begin = int(start / Fraction(stream.time_base or 1))
        keys = [
            place for place, packet in enumerate(packets) if packet.is_keyframe and (packet.pts or 0) <= begin
        ]
        for packet in packets[keys[-1] :]:
            packet.pts = (packet.pts or 0) - begin
            packet.dts = (packet.dts or 0) - begin
            packet.stream = copy
            output.mux(packet)


def nearest_frames(
    shown: Sequence[Fraction],
    fps: float,
    times: Sequence[float],
    alignment: str,
    lone_interval: Fraction,
    last_shown: Fraction = Fraction(0),
) -> list[int | None]:
    """The frame that each time means, by brute force; -1: the last one stands in (clamped); None: past the end.

    This is the rule itself, written without a thought for speed, to be compared with the planner. ``shown``: times
    of the presented frames; ``lone_interval``: a frame's duration where there is only one; ``last_shown``: how long
    the last one stays, where that is longer than usual.
    """
    count = len(shown)
    if alignment == "index":
        numbers = [round(time * fps) for time in times]
        return [n if n < count else -1 if n == count else None for n in numbers]
    gaps = sorted(b - a for a, b in zip(shown, shown[1:], strict=False)) or [lone_interval]
    median = (gaps[(len(gaps) - 1) // 2] + gaps[len(gaps) // 2]) / 2
    end = shown[-1] + max(median, last_shown)
    result: list[int | None] = []
    for time in times:
        moment = Fraction(repr(float(time)))
        if moment > end + median / 2:
            result.append(None)
        elif moment > end - median / 2:
            result.append(-1)
        else:
            near = bisect.bisect_left(shown, moment)
            around = range(max(0, near - 2), min(count, near + 2))
            result.append(min(around, key=lambda k, at=moment: (abs(at - shown[k]), k % 2)))  # type: ignore[misc]
    return result
