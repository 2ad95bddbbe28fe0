"""A collection of more than 64 videos whose shards have several each."""

import hashlib
from collections.abc import Iterable

import pandas as pd

from tests.workflow.project import Project

#: Of every clip.
FPS = 25
#: Of 64 buckets, those that all videos here fall into: four shards, so that each has several videos.
BUCKETS = (3, 17, 40, 62)
TIMES = (0.0, 0.2)


def bucket(video: str, of: int = 64) -> int:
    """The place of a video among so many buckets (a power of two): its digest's first bits."""
    return int(hashlib.sha256(video.encode()).hexdigest(), 16) * of >> 256


def shard(video: str, of: int = 64) -> str:
    return f"shard+{bucket(video, of):0{len(str(of - 1))}}of{of}"


def names(count: int) -> list[str]:
    """The first so many ids that have a bucket among ``BUCKETS``."""
    found: list[str] = []
    number = 0
    while len(found) < count:
        if bucket(f"v{number}") in BUCKETS:
            found.append(f"v{number}")
        number += 1
    return found


def write_index(project: Project, videos: Iterable[str], **times: tuple[float, ...]) -> None:
    """The same two times of each video, all of them by time; ``times``: of those that have others."""
    videos = list(videos)
    rows = [
        (video, times.get(video, TIMES)[number], f"{video} {number}")
        for number in range(len(TIMES))
        for video in videos
    ]
    project.write_index(
        pd.DataFrame(rows, columns=["video_id", "timestamp_sec", "label"]),
        pd.DataFrame({"video_id": videos, "video_path": [f"{video}.mp4" for video in videos], "fps": FPS}),
    )


#: The videos of which a collection has files, and those whose number is just above 64.
MANY = names(130)
FEW = MANY[:65]
