"""Toy collections for real Snakemake runs: a few short clips, a frame index, a live MobileNetV3-Large."""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest

from tests.models import live_mobilenet
from tests.workflow.collection import FPS, MANY, write_index
from tests.workflow.project import Project


def write_clip(path: Path, seed: int, frames: int = 60, fps: int = FPS) -> None:
    """An H.264 clip with B-frames of drifting coloured blobs: every frame differs, every seed differs."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (6, 8, 3)).astype(np.uint8)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream(
            "libx264", rate=fps, options={"preset": "veryfast", "bf": "2", "g": "20"}
        )
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for number in range(frames):
            image = np.kron(np.roll(coarse, number // 4, axis=1), np.ones((16, 16, 1), np.uint8))
            image[: 4 + number, :8] = 255 - image[: 4 + number, :8]
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24"))
            )
        container.mux(stream.encode())


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MobileNetV3-Large state dict whose activations are alive."""
    path = tmp_path_factory.mktemp("weights") / "live.pth"
    live_mobilenet(path)
    return path


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for seed, name in enumerate(("a", "b", "c", "other")):
        write_clip(folder / f"{name}.mp4", seed)
    return folder


@pytest.fixture(scope="module")
def new_project(
    tmp_path_factory: pytest.TempPathFactory, clips: Path, weights: Path
) -> Callable[..., Project]:
    """Make a project of videos a, b, c with four rows each (2 fps), interleaved."""

    def make(ids: tuple[str, ...] = ("a", "b", "c"), name: str = "project") -> Project:
        project = Project(tmp_path_factory.mktemp(name) / "work")
        for source in ("a", "b", "c")[: len(ids)]:
            shutil.copy(clips / f"{source}.mp4", project.videos / f"{source}.mp4")
        rows = pd.DataFrame(
            {
                "video_id": [video_id for _ in range(4) for video_id in ids],
                "frame_idx": [number for number in range(4) for _ in ids],
                "timestamp_sec": [number / 2 for number in range(4) for _ in ids],
                "label": [f"l{number}" for number in range(4 * len(ids))],
            }
        )
        videos = pd.DataFrame(
            {
                "video_id": ids,
                "video_path": [f"{name}.mp4" for name in ("a", "b", "c")[: len(ids)]],
                "fps": FPS,
            }
        )
        project.write_index(rows, videos)
        project.config["weights"] = str(weights)
        return project

    return make


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A few clips of ten frames; each video is a copy of one."""
    folder = tmp_path_factory.mktemp("tiny")
    paths = [folder / f"{seed}.mp4" for seed in range(5)]
    for seed, path in enumerate(paths):
        write_clip(path, seed, frames=10)
    return paths


def own_copy(clip: Path, path: Path) -> None:
    """The same frames in another file: a mere copy would take over what is stored of the first."""
    name = path.stem.encode()
    path.write_bytes(clip.read_bytes() + (8 + len(name)).to_bytes(4, "big") + b"free" + name)


@pytest.fixture(scope="module")
def new_collection(
    tmp_path_factory: pytest.TempPathFactory, tiny: list[Path], weights: Path
) -> Callable[..., Project]:
    """Make a project that has files of ``MANY`` videos, each of its own content, and an index of some of them."""

    def make(videos: Iterable[str], name: str = "shards") -> Project:
        project = Project(tmp_path_factory.mktemp(name) / "work")
        for number, video in enumerate(MANY):
            own_copy(tiny[number % len(tiny)], project.videos / f"{video}.mp4")
        project.config["weights"] = str(weights)
        write_index(project, videos)
        return project

    return make
