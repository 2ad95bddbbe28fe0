"""Numbered clips for the tests, made once for each process, and ways to damage them."""

import functools
import tempfile
from pathlib import Path

import numpy as np
from framefeat.proof.numbered import RECIPES, Clip, make
from framefeat.proof.odd_clips import ODD_CLIPS
from framefeat.proof.truth import Truth, odd_truth_of

CASES = Path(__file__).resolve().parents[2] / "shared" / "cases"
SHARED = Path(__file__).resolve().parents[2] / "shared" / "clips"


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="framefeat-clips-")


@functools.cache
def made(file: str) -> Clip:
    """The numbered clip of that file name."""
    recipe = next(recipe for recipe in RECIPES if recipe.file == file)
    return make(recipe, Path(_folder().name))


@functools.cache
def odd(file: str) -> tuple[Path, Truth]:
    """The odd clip of that file name, and the truth about it."""
    return odd_truth_of(next(kind for kind in ODD_CLIPS if kind.file == file), Path(_folder().name))


def noisy(
    path: Path, frames: int = 90, key_every: int = 30, faststart: bool = True, encoder: str = "libx264"
) -> Path:
    """A clip of dense noise, so that damage hits picture data wherever it strikes."""
    import av

    random = np.random.default_rng(1)
    options = {"movflags": "faststart"} if faststart and path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=options) as output:
        stream = output.add_stream(encoder, rate=30, options={"g": str(key_every), "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(
                random.integers(0, 255, (96, 128, 3), dtype=np.uint8), format="rgb24"
            )
            frame.pts = number
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def damaged(source: Path, target: Path, at: float = 0.5, size: int = 300) -> Path:
    """A copy with ``size`` bytes overwritten at that part of its length."""
    data = bytearray(source.read_bytes())
    place = int(len(data) * at)
    data[place : place + size] = np.random.default_rng(2).bytes(size)
    target.write_bytes(data)
    return target


def cut_short(source: Path, target: Path, keep: float = 0.55) -> Path:
    """A copy of the first part of the file."""
    data = source.read_bytes()
    target.write_bytes(data[: int(len(data) * keep)])
    return target


def audio_only(path: Path) -> Path:
    import av

    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 2048), dtype=np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 44100
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def quiet(path: Path, frames: int = 90) -> Path:
    """A scene in which neighbouring frames differ by about 1 of 255: less than many a tolerance, and by no less than
    that."""
    import av

    random = np.random.default_rng(3)
    picture = random.uniform(60, 180, (12, 16, 3))
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25, options={"g": "30", "crf": "4"})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for _ in range(frames):
            picture = picture + random.choice([-1.2, 1.2], picture.shape)
            shown = np.kron(picture, np.ones((8, 8, 1))).clip(0, 255).astype(np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
        output.mux(stream.encode(None))
    return path


def without_pictures(source: Path, target: Path, packets: range) -> Path:
    """A copy in which those packets hold no picture that can be decoded; all others are what they were."""
    import av

    with av.open(str(source)) as original, av.open(str(target), "w") as output:
        stream = original.streams.video[0]
        copy = output.add_stream_from_template(stream)
        for number, packet in enumerate(packet for packet in original.demux(stream) if packet.size):
            if number in packets:
                broken = av.Packet(b"\0\0\0\5\x41\xff\xff\xff\xff")
                broken.pts, broken.dts, broken.duration = packet.pts, packet.dts, packet.duration
                broken.time_base = packet.time_base
                packet = broken
            packet.stream = copy
            output.mux(packet)
    return target
