"""Small clips of many codecs and containers, and ways to break them: the same break for the same seed.

Even seeds break bytes. Odd seeds break packets: their order, times, flags and payload, in a container that stays whole.
"""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
from framefeat.proof import numbered, odd_clips
from framefeat.proof.numbered import Recipe
from framefeat.proof.odd_clips import ODD_CLIPS, SMALL
from framefeat.sample.child import ChildLost, Line, run_in_child

_X265 = odd_clips.HEVC_B.options
_VPX = {"deadline": "realtime", "cpu-used": "8", "g": "12", "b": "200k"}


def _recipe(encoder: str, suffix: str, **more: object) -> Recipe:
    return replace(Recipe(f"{encoder}-base", suffix, encoder=encoder, frames=40, size=SMALL), **more)


_B = odd_clips.H264_B.options
_MPEG4 = odd_clips.ASP_B.options
SOURCES: tuple[Recipe, ...] = (
    *(_recipe("libx264", suffix, options=_B) for suffix in (".mp4", ".mkv", ".ts", ".flv", ".avi", ".mov")),
    _recipe("libx264", ".h264", options=_B),
    _recipe("libx265", ".mp4", options=_X265, size=(96, 128)),
    _recipe("libx265", ".mkv", options=_X265, size=(96, 128)),
    _recipe("libvpx", ".webm", options=_VPX),
    _recipe("libvpx-vp9", ".webm", options=_VPX),
    _recipe("libvpx-vp9", ".ivf", options=_VPX),
    _recipe("libsvtav1", ".mp4", options={"preset": "8", "g": "12", "crf": "30", "svtav1-params": "lp=1"}),
    _recipe("mpeg4", ".avi", options=_MPEG4),
    _recipe("mpeg4", ".mp4", options=_MPEG4),
    _recipe("mpeg2video", ".mpg", options=_MPEG4),
    _recipe("mpeg2video", ".ts", options=_MPEG4),
    _recipe("mjpeg", ".avi", pix_fmt="yuvj420p"),
    _recipe("gif", ".gif", pix_fmt="gray", rate=Fraction(10)),
    _recipe("wmv2", ".wmv", options={"g": "12"}),
    _recipe("ffv1", ".mkv", options={"g": "12"}),
    _recipe("flv", ".flv", options={"g": "12"}),
)
ODD = [
    kind
    for kind in ODD_CLIPS
    if kind.file
    in ("fields.mp4", "two_descriptions.mp4", "pts_is_dts.mp4", "palette_changes.avi", "joined_back.ts")
]


def source(number: int, folder: Path) -> Path:
    """One of the whole clips."""
    kinds = [*SOURCES, *ODD]
    kind = kinds[number % len(kinds)]
    if isinstance(kind, Recipe):
        return numbered.make(kind, folder).path
    return odd_clips.make(kind, folder)[0].path


def broken(seed: int, whole: Path, folder: Path) -> Path:
    """A broken copy of ``whole``: one to three ways of damage, at places that the seed draws."""
    random = np.random.default_rng(seed)
    ways = int(random.integers(1, 4))
    if seed % 2:
        target = (
            folder / f"{seed:04}-{whole.stem}{random.choice(_CONTAINERS.get(whole.suffix, [whole.suffix]))}"
        )
        if _remuxed(random, whole, target, ways):
            return target
        target.unlink(missing_ok=True)
    data = bytearray(whole.read_bytes())
    for _ in range(ways):
        data = _WAYS[random.integers(len(_WAYS))](random, data)
    target = folder / f"{seed:04}-{whole.stem}{whole.suffix}"
    target.write_bytes(data)
    return target


_CONTAINERS = {".mp4": [".mp4", ".mkv", ".mov", ".nut"], ".mkv": [".mkv", ".nut"], ".webm": [".webm", ".mkv"]}


def _remuxed(random: np.random.Generator, whole: Path, target: Path, ways: int) -> bool:
    packets = odd_clips.read(whole)
    samples = packets.samples
    for _ in range(ways):
        samples = _PACKET_WAYS[random.integers(len(_PACKET_WAYS))](random, samples)
    for laid in (samples, _in_order(samples)):
        try:  # in a process of its own: muxers refuse what they cannot write, or abort
            run_in_child(partial(_write, whole, target, replace(packets, samples=laid)), 10.0)
        except ChildLost:
            continue
        return True
    return False


def _write(whole: Path, target: Path, packets: odd_clips.Samples, line: Line) -> None:
    odd_clips.write(target, whole, packets)


def _in_order(samples: "Samples") -> "Samples":
    """Decoding times that ascend, and presentation times that are not before them."""
    laid: Samples = []
    for sample in samples:
        dts = max(sample.dts, laid[-1].dts + 1) if laid else sample.dts
        laid.append(replace(sample, dts=dts, pts=max(sample.pts, dts)))
    return laid


Samples = list[odd_clips.Sample]


def _one(random: np.random.Generator, samples: Samples) -> int:
    return int(random.integers(len(samples)))


def _without(random: np.random.Generator, samples: Samples) -> Samples:
    at = _one(random, samples)
    return samples[:at] + samples[at + int(random.integers(1, 4)) :]


def _twice(random: np.random.Generator, samples: Samples) -> Samples:
    at = _one(random, samples)
    step = samples[-1].duration or 1
    later = [replace(s, pts=s.pts + step, dts=s.dts + step) for s in samples[at:]]
    return samples[: at + 1] + later


def _by_decoding_time(random: np.random.Generator, samples: Samples) -> Samples:
    since = _one(random, samples)
    return [replace(s, pts=s.dts) if place >= since else s for place, s in enumerate(samples)]


def _clock_jumps(random: np.random.Generator, samples: Samples) -> Samples:
    since, by = _one(random, samples), int(random.choice([-20, 3, 40, 4000]))
    shift = by * (samples[-1].duration or 1)
    return [
        replace(s, pts=s.pts + shift, dts=s.dts + shift) if place >= since else s
        for place, s in enumerate(samples)
    ]


def _other_flags(random: np.random.Generator, samples: Samples) -> Samples:
    return [replace(s, key=not s.key) if random.random() < 0.15 else s for s in samples]


def _times_shake(random: np.random.Generator, samples: Samples) -> Samples:
    step = samples[-1].duration or 1
    return [
        replace(s, pts=s.pts + int(step * random.integers(0, 3)) if random.random() < 0.1 else s.pts)
        for s in samples
    ]


def _spoilt(random: np.random.Generator, samples: Samples) -> Samples:
    at = _one(random, samples)
    data = bytearray(samples[at].data)
    for _ in range(random.integers(1, 6)):
        data[int(random.integers(len(data)))] ^= 1 << int(random.integers(8))
    return [*samples[:at], replace(samples[at], data=bytes(data)), *samples[at + 1 :]]


def _swapped(random: np.random.Generator, samples: Samples) -> Samples:
    """The pictures of two packets change places; the times stay."""
    one, two = sorted((_one(random, samples), _one(random, samples)))
    changed = list(samples)
    changed[one] = replace(samples[one], data=samples[two].data)
    changed[two] = replace(samples[two], data=samples[one].data)
    return changed


_PACKET_WAYS: tuple[Callable[[np.random.Generator, Samples], Samples], ...] = (
    _without,
    _twice,
    _by_decoding_time,
    _clock_jumps,
    _other_flags,
    _times_shake,
    _spoilt,
    _swapped,
)


def _place(random: np.random.Generator, data: bytearray) -> int:
    """Anywhere; now and then where the headers are."""
    reach = min(len(data), 900) if random.integers(8) == 0 else len(data)
    return int(random.integers(0, max(1, reach)))


def _flip(random: np.random.Generator, data: bytearray) -> bytearray:
    for _ in range(random.integers(1, 12)):
        if data:
            data[_place(random, data)] ^= 1 << int(random.integers(8))
    return data


def _noise(random: np.random.Generator, data: bytearray) -> bytearray:
    at, size = _place(random, data), int(random.integers(1, 60))
    data[at : at + size] = random.bytes(len(data[at : at + size]))
    return data


def _blank(random: np.random.Generator, data: bytearray) -> bytearray:
    at, size = _place(random, data), int(random.integers(1, 400))
    data[at : at + size] = bytes(len(data[at : at + size]))
    return data


def _cut(random: np.random.Generator, data: bytearray) -> bytearray:
    return data[: int(len(data) * random.uniform(0.3, 1))]


def _drop(random: np.random.Generator, data: bytearray) -> bytearray:
    at, size = _place(random, data), int(random.integers(1, 400))
    return data[:at] + data[at + size :]


def _repeat(random: np.random.Generator, data: bytearray) -> bytearray:
    at, size = _place(random, data), int(random.integers(1, 2000))
    return data[: at + size] + data[at:]


def _large(random: np.random.Generator, data: bytearray) -> bytearray:
    """A field of four bytes that says something huge."""
    at = _place(random, data)
    data[at : at + 4] = b"\x7f\xff\xff\xf0"[: len(data[at : at + 4])]
    return data


_WAYS = (_flip, _flip, _flip, _noise, _noise, _blank, _cut, _drop, _repeat, _large)
