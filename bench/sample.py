"""CPU seconds that sampling one clip takes, by length and decoder: ``python -m bench.sample``.

In one process, imports done, medians of three rounds in turn, so that two checkouts can be compared (``PYTHONPATH``
names the other one's ``workflow``).
"""

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from framefeat.index import fingerprints
from framefeat.records import SampleJob
from framefeat.sample import attempt
from framefeat.video.decord import import_decord

from bench.inputs import FPS, SAMPLE_FPS, SIZE, build

ROOT = Path(__file__).parents[1]
DATA = ROOT / "bench" / "data"
SECONDS = (5, 60, 240)
ROUNDS = 3


class _Silent:
    """Where a child would tell its parent how far it is."""

    def say(self, **state: Any) -> None:
        pass

    def tick(self) -> None:
        pass


def sample(path: Path, seconds: int, decoder: str) -> tuple[float, str]:
    """CPU seconds, and what decoded."""
    record = {
        "video_id": path.stem,
        "path": str(path),
        "timestamps": (np.arange(seconds * SAMPLE_FPS) / SAMPLE_FPS).tolist(),
        "fps": float(FPS),
        "fingerprint": path.name,
        "times_sha256": "",
        "facts": fingerprints.examine(str(path))["facts"],
    }
    with tempfile.TemporaryDirectory() as folder:
        names = ("frames", "recheck", "thumbnails")
        paths = {name: f"{folder}/{name}" for name in names}
        job = SampleJob(record, "squash224", "index", decoder, 2, {}, paths)
        began = time.process_time()
        sampler = attempt.Sampler(job, _Silent())  # type: ignore[arg-type]
        evidence = sampler.run()
        sampler.close()
        return (
            time.process_time() - began,
            f"{evidence['decoder']}, looked at by {evidence['recheck']['reader']}",
        )


def main() -> None:
    import_decord()
    sources = sorted((ROOT / "resources" / "example").glob("*.mp4"))
    print(f"one clip of {SIZE[0]}x{SIZE[1]} H.264 at {FPS} fps, {SAMPLE_FPS} rows a second")
    for seconds in SECONDS:
        folder = DATA / f"clips{seconds}"
        build(folder, sources, seconds, clips=1)
        path = folder / "clip000.mp4"
        rounds = [
            {decoder: sample(path, seconds, decoder) for decoder in ("pyav", "auto")} for _ in range(ROUNDS)
        ]
        for decoder in ("pyav", "auto"):
            spent = [result[decoder][0] for result in rounds]
            print(
                f"{seconds:4} s {decoder:5} {median(spent):.3f} s ({min(spent):.3f} to {max(spent):.3f})  {rounds[0][decoder][1]}"
            )


if __name__ == "__main__":
    main()
