"""The benchmark's inputs: clips of real footage, 640x360, 30 fps, H.264 with B-frames, and their two indexes."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np
import pandas as pd

FPS = 30
SIZE = (640, 360)
SAMPLE_FPS = 2
CLIPS = 12
#: More clips than these are the same files under other ids.
DISTINCT = 200


def _endless(path: Path) -> Iterator[np.ndarray]:
    """The clip forwards and backwards without end, as rgb24 frames of ``SIZE``."""
    with av.open(str(path)) as container:
        frames = [
            frame.to_ndarray(format="rgb24", width=SIZE[0], height=SIZE[1])
            for frame in islice(container.decode(video=0), 150)
        ]
    while True:
        yield from frames
        yield from reversed(frames)


def _write_clip(source: Path, target: Path, seconds: int, number: int) -> None:
    temporary = target.with_suffix(".part.mp4")
    frames = islice(_endless(source), number * 37, None)
    with av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream(
            "libx264", rate=FPS, options={"preset": "veryfast", "crf": "23", "bf": "3"}
        )
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        stream.codec_context.thread_count = 1
        for place, image in enumerate(islice(frames, seconds * FPS)):
            # A slow pan makes each round of the loop new to the encoder.
            shifted = np.roll(image, (place // 3 + 53 * number) % SIZE[0], axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shifted, format="rgb24")))
        container.mux(stream.encode())
    temporary.rename(target)


def build(folder: Path, sources: list[Path], seconds: int, clips: int = CLIPS) -> tuple[Path, Path]:
    """Make what is missing of the clips and write their two indexes; returns (frame_index, video_index).

    Beyond ``DISTINCT`` clips each is a hard link to one of a folder with so many, which is made beside ``folder``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [number for number in range(clips) if not (folder / _name(number)).exists()]
    if clips > DISTINCT:
        distinct = folder.with_name(f"{DISTINCT}x{seconds}")
        build(distinct, sources, seconds, DISTINCT)
        for number in missing:
            (folder / _name(number)).hardlink_to(distinct / _name(number % DISTINCT))
    elif missing:
        print(f"making {len(missing)} clips of {seconds} s in {folder}", flush=True)
        with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
            jobs = [
                pool.submit(
                    _write_clip, sources[number % len(sources)], folder / _name(number), seconds, number
                )
                for number in missing
            ]
            for job in jobs:
                job.result()
    ids = [Path(_name(number)).stem for number in range(clips)]
    times = np.arange(seconds * SAMPLE_FPS) / SAMPLE_FPS
    rows = pd.DataFrame({"video_id": np.repeat(ids, len(times)), "timestamp_sec": np.tile(times, clips)})
    videos = pd.DataFrame({"video_id": ids, "video_path": [f"{name}.mp4" for name in ids], "fps": float(FPS)})
    frame_index, video_index = folder / "frames.parquet", folder / "videos.csv"
    rows.to_parquet(frame_index)
    videos.to_csv(video_index, index=False)
    return frame_index, video_index


def _name(number: int) -> str:
    return f"clip{number:03}.mp4"
