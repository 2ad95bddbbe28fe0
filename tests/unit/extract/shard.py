"""A shard as the merge and the sampling leave it, and its extraction through the command line."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from framefeat import cli, identity, stored
from framefeat.files import write_json
from framefeat.layout import ResultsFolder
from framefeat.needs import Wanted
from framefeat.records import EmbedRequest, VideoToEmbed
from framefeat.video.geometry import Geometry

from tests import models

ROWS, BAD, AGAIN = 5, 2, [1, 4]
BACKBONE = "model"


class Shard:
    """Videos of ``rows`` rows each, by key. Of those with five rows or more, row 2 is bad; rows 1 and 4 are decoded
    again.

    ``spec``: the backbone's description, as its key has it; a stand-in's where nothing is computed with it.
    """

    def __init__(
        self,
        results: Path,
        rows: Mapping[str, int] | None = None,
        spec: Mapping[str, Any] | None = None,
        geometry: str = "squash224",
    ) -> None:
        self.results = ResultsFolder(results)
        self.rows = dict(rows or {"v": ROWS})
        self.keys = list(self.rows)
        self.name = self.keys[0] if len(self.keys) == 1 else "shard+00of64"
        self.geometry = geometry
        self.spec = dict(spec or {"name": "model"})
        self.weights = results / "weights.pth"
        self.identity = "w1"
        self.precision = "float32"
        self.slices: dict[str, Any] = {}
        self.evidence: dict[str, Any] = {}
        for number, key in enumerate(self.keys):
            self._sample(key, self.rows[key], seed=number)
        records = {
            key: {
                **entry,
                "path": f"{key}.mp4",
                "timestamps": [0.5 * row for row in range(entry["rows"])],
                "facts": None,
                "error": None,
                "warnings": [],
                "doubts": [],
            }
            for key, entry in self.slices.items()
        }
        write_json(self.results.shard(self.name), {"schema": 1, "videos": self.slices})
        write_json(self.results.videos_of(self.name), records)

    def _sample(self, key: str, rows: int, seed: int) -> None:
        self.slices[key] = entry = {
            "video_id": key,
            "fingerprint": f"f of {key}",
            "fps": 25.0,
            "alignment": "index",
            "rows": rows,
            "times_sha256": f"t of {key}",
        }
        frames = models.pictures(rows, *Geometry.from_name(self.geometry).output, seed=seed)
        bad = [row == BAD and rows >= ROWS for row in range(rows)]
        again = [row for row in AGAIN if row < rows]
        frames[bad] = 0
        self.evidence[key] = {
            "video_id": key,
            "key": identity.sample_key(entry, alignment="index", geometry=self.geometry, decoder="auto"),
            "decoder": "pyav",
            "rows": {
                "timestamp_sec": [0.5 * row for row in range(rows)],
                "native_idx": [-1 if lost else 10 * row for row, lost in enumerate(bad)],
                "pts_sec": [None if lost else 0.5 * row for row, lost in enumerate(bad)],
                "status": ["bad" if lost else "ok" for lost in bad],
            },
            "recheck": {
                "reader": "decord",
                "rows": again,
                "mean_abs_diff": [0.0] * len(again),
                "agrees": bool(again),
            },
            "decoder_reason": "",
            "warnings": [],
            "doubts": [],
            "problems": [],
        }
        for path, array in ((self.frames(key), frames), (self.recheck(key), frames[again])):
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, array)
        self.write_evidence(key)

    def write_evidence(self, key: str) -> None:
        path = self.results.evidence(self.geometry, key)
        stored.write(path, self.evidence[key], {"thumbnails": stored.as_bytes(b"jpeg")})

    def frames(self, key: str = "v") -> Path:
        return self.results.frames(self.geometry, key)

    def recheck(self, key: str = "v") -> Path:
        return self.results.recheck(self.geometry, key)

    def features(self, key: str = "v") -> Path:
        return self.results.backbone(BACKBONE).features(key)

    @property
    def extracted(self) -> Path:
        return self.results.backbone(BACKBONE).extracted(self.name)

    @property
    def wanted(self) -> Wanted:
        backbone = {
            "folder": BACKBONE,
            "geometry": self.geometry,
            "spec": json.dumps(self.spec),
            "weights": self.identity,
        }
        return Wanted.of("index", "auto", self.precision, [backbone])

    def arguments(self, *more: str) -> list[str]:
        return [
            "extract", str(self.results.root), "--shard", self.name, "--backbone", BACKBONE, "--wanted",
            self.wanted.to_json(), "--weights", str(self.weights), "--precision", self.precision, "--device", "cpu",
            "--gpus", "0", "--keep-frames", *more,
        ]  # fmt: skip

    def run(self, *more: str) -> int:
        """As Snakemake runs it: what says that the shard is done goes before the job begins."""
        self.extracted.unlink(missing_ok=True)
        return cli.main(self.arguments(*more))

    def request(self, *keys: str, **more: Any) -> EmbedRequest:
        """What the job asks an embedder for, of these videos in this order; features are written where they stay."""
        request = self.wanted.backbones[0].request
        videos: list[VideoToEmbed] = [
            {
                "place": place,
                "video": key,
                "rows": self.rows[key],
                "key": identity.features_key(request, self.evidence[key]),
                "evidence": str(self.results.evidence(self.geometry, key)),
                "frames": str(self.frames(key)),
                "recheck": str(self.recheck(key)),
                "features": str(self.features(key)),
            }
            for place, key in enumerate(keys)
        ]
        asked: Any = {
            "spec": json.dumps(self.spec), "weights": str(self.weights), "weights_identity": self.identity,
            "precision": self.precision, "batch_size": "auto", "threads": 1, "videos": videos, "scratch": "",
            "together": True, "warnings": [],
        }  # fmt: skip
        return {**asked, **more}

    def bytes(self, key: str = "v") -> bytes:
        return self.features(key).read_bytes()

    def record(self, key: str = "v") -> Any:
        return stored.read_record(self.features(key))

    def values(self, key: str = "v") -> np.ndarray:
        """float32 [T, D]."""
        return stored.read_array(self.features(key), "features")

    def there(self) -> list[str]:
        """The videos whose features are there."""
        return [key for key in self.keys if self.features(key).is_file()]

    def left(self) -> list[str]:
        """What is half-made."""
        return [path.name for path in self.features().parent.iterdir() if path.name.startswith(".")]


def real_spec(arch: str, weights: Path) -> dict[str, Any]:
    """A library's model with a file of weights, as a run describes it."""
    from framefeat.backbone import resolve

    return identity.identifying(resolve.resolve(arch, str(weights), "squash224").to_json())
