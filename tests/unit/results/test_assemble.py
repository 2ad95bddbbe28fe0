"""The assemble stage: the matrix in the index's order, out of parts that fit what is asked for, and of no others."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from framefeat import stored
from framefeat.errors import UserError
from framefeat.files import read_json, write_json
from framefeat.identity import features_key, identifying, request_key, sample_key, times_digest
from framefeat.index.merge import COLUMNS, KEY, SLICE_ROW
from framefeat.results import assemble

DIM = 5
SPEC = {
    "folder": "model",
    "name": "model",
    "display": "Model",
    "kind": "file",
    "weights": "w.pth",
    "file": "w.pth",
    "sha256": None,
    "geometry": "squash224",
    "mean": [0.0],
    "std": [1.0],
    "dim": DIM,
}
HOW = {"alignment": "index", "decoder": "auto"}


class Parts:
    """``results/toy`` with the stored parts of three videos whose rows are interleaved; ``a`` asks for one time
    twice."""

    def __init__(self, folder: Path) -> None:
        self.results = folder / "results" / "toy"
        self.model = self.results / "model"
        self.features: dict[str, np.ndarray] = {}
        random = np.random.default_rng(0)
        self.slices: dict[str, dict[str, Any]] = {}
        for video, count in (("a", 3), ("b", 2), ("c", 4)):
            times = np.arange(count) / 2
            wanted = {
                "video_id": video,
                "fingerprint": video * 64,
                "times_sha256": times_digest(times),
                "fps": 25.0,
                "rows": count,
            }
            self.slices[video] = wanted
            evidence = {
                "video_id": video,
                "key": sample_key(wanted, geometry="squash224", **HOW),
                "versions": {"av": "1"},
                "video": None,
                "decoder": "decord",
                "decoder_reason": "",
                "rows": {
                    "timestamp_sec": times.tolist(),
                    "native_idx": [round(t * 25) for t in times],
                    "pts_sec": times.tolist(),
                    "status": ["ok"] * count,
                },
                "recheck": {"rows": [0], "agrees": True},
                "warnings": [],
                "problems": [],
            }
            self.store_evidence(video, evidence)
            self.embed(video, random.standard_normal((count, DIM)).astype(np.float32))
        self.write_shards()
        order = [
            ("b", 1),
            ("a", 2),
            ("c", 0),
            ("c", 3),
            ("a", 0),
            ("a", 2),
            ("b", 0),
            ("c", 1),
            ("c", 2),
            ("a", 1),
        ]
        self.rows = order
        videos, places = zip(*order, strict=True)
        table = pa.table({
            "video_id": list(videos), "timestamp_sec": [place / 2 for place in places], "label": list(range(10)),
            KEY: list(videos), SLICE_ROW: list(places),
        })  # fmt: skip
        names = json.dumps(["video_id", "timestamp_sec", "label"])
        pq.write_table(table.replace_schema_metadata({COLUMNS: names}), self.results / "index.parquet")

    def shard(self, name: str) -> Path:
        return self.results / "shards" / f"{name}.json"

    def write_shards(self) -> None:
        """``a`` and ``c`` in one shard, ``b`` in another."""
        for name, videos in (("shard+0of2", "ac"), ("shard+1of2", "b")):
            slices = {video: self.slices[video] for video in videos}
            write_json_in(self.shard(name), {"schema": 3, "videos": slices})

    def evidence(self, video: str) -> Path:
        return self.results / "evidence" / "squash224" / f"{video}.safetensors"

    def read_evidence(self, video: str) -> dict[str, Any]:
        return stored.read_record(self.evidence(video))

    def store_evidence(self, video: str, evidence: dict[str, Any]) -> None:
        stored.write(self.evidence(video), evidence, {"thumbnails": stored.as_bytes(b"")})

    def array(self, video: str) -> Path:
        return self.model / "features" / f"{video}.safetensors"

    def store_features(self, video: str, record: Any, features: np.ndarray) -> None:
        stored.write(self.array(video), record, {"features": features})

    def embed(
        self,
        video: str,
        features: np.ndarray,
        precision: str = "float32",
        weights: str = "w1",
        network: Any = None,
    ) -> None:
        """What an extraction would leave of these features."""
        asked = request_key(json.dumps(identifying(SPEC)), weights, precision)
        self.features[video] = features
        record = {
            "key": features_key(asked, self.read_evidence(video)),
            "weights_sha256": "0" * 64,
            "features_sha256": hashlib.sha256(features.tobytes()).hexdigest(),
            "recheck": {"rows": [0], "agrees": True},
            "verified": True,
            "batch_size": 16,
            "batch_halved": False,
            "device": "cpu",
            "warnings": [],
            "versions": {"torch": "2"},
        }
        self.store_features(video, record | ({"network": network} if network else {}), features)

    def assemble(self, **more: str) -> dict[str, Any]:
        values = {
            "dataset": "toy",
            "precision": "float32",
            "weights_identity": "w1",
            "on_bad_frames": "fail",
            **HOW,
        }
        assemble.assemble(self.results, "squash224", SPEC, **(values | more))
        return read_json(self.model / "feature_manifest.json")

    def matrix(self) -> np.ndarray:
        return np.load(self.model / "toy_features.npy")


def write_json_in(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, value)


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return Parts(tmp_path)


def test_row_i_is_row_i(parts: Parts) -> None:
    manifest = parts.assemble()
    expected = np.stack([parts.features[video][place] for video, place in parts.rows])
    assert np.array_equal(parts.matrix(), expected)
    index = pd.read_parquet(parts.model / "frame_index.parquet")
    assert index.columns.tolist() == [
        "video_id", "timestamp_sec", "label", "native_idx", "pts_sec", "offset_sec", "status"
    ]  # fmt: skip
    assert index["video_id"].tolist() == [video for video, _ in parts.rows]
    assert (index["offset_sec"] == 0).all()
    assert manifest["alignment_verified"] is True
    for video in manifest["videos"]:
        rows = [row for row, (name, _) in enumerate(parts.rows) if name == video["video_id"]]
        assert video["row_numbers"] == rows
        digest = hashlib.sha256(np.ascontiguousarray(expected[rows]).tobytes()).hexdigest()
        assert video["features_sha256"] == digest


def test_one_bad_row_and_nothing_is_verified(parts: Parts) -> None:
    evidence = parts.read_evidence("b")
    evidence["rows"]["status"][1], evidence["rows"]["native_idx"][1] = "bad", -1
    evidence["rows"]["pts_sec"][1] = None
    evidence["problems"] = ["frame 1 at 1.000 s: broken"]
    parts.store_evidence("b", evidence)
    features = parts.features["b"].copy()
    features[1] = np.nan
    parts.embed("b", features)
    with pytest.raises(UserError, match=r"'b': 1 of its 2 rows \(0\): frame 1 at 1.000 s: broken"):
        parts.assemble()
    assert not (parts.model / "toy_features.npy").exists()
    manifest = parts.assemble(on_bad_frames="mask")
    assert manifest["alignment_verified"] is False
    assert manifest["verdict"] == "not verified"
    assert manifest["counts"] == {"ok": 9, "clamped": 0, "bad": 1}
    assert np.isnan(parts.matrix()[0]).all()


def test_all_videos_with_bad_rows_are_listed_and_how_to_go_on(parts: Parts) -> None:
    """Those whose frames are bad, and those whose features are."""
    evidence = parts.read_evidence("a")
    evidence["rows"] |= {"status": ["bad"] * 3, "native_idx": [-1] * 3, "pts_sec": [None] * 3}
    parts.store_evidence("a", evidence | {"problems": ["'a.mp4': it is no video", "more"], "decoder": None})
    parts.embed("a", np.full((3, DIM), np.nan, np.float32))
    features = parts.features["c"].copy()
    features[2] = np.nan
    parts.embed("c", features)
    record = stored.read_record(parts.array("c"))
    parts.store_features("c", record | {"bad_rows": [2], "problems": ["1 row is not finite"]}, features)
    report = parts.results / "report.html"
    report.write_text("Verified: every row ...")
    with pytest.raises(UserError) as error:
        parts.assemble()
    assert not report.exists(), "it is of a matrix that Snakemake has removed"
    heading, *listed, advice = str(error.value).splitlines()
    assert (
        heading
        == "2 of 3 videos have bad rows, and on_bad_frames is 'fail' (rows of the frame index, from 0):"
    )
    assert listed == [
        "  - 'a': all 4 rows: 'a.mp4': it is no video",
        f"  - 'c': 1 of its 4 rows ({parts.rows.index(('c', 2))}): 1 row is not finite",
    ]
    assert "Replace these files" in advice
    assert "on_bad_frames=mask" in advice
    manifest = parts.assemble(on_bad_frames="mask")
    assert manifest["counts"] == {"ok": 5, "clamped": 0, "bad": 5}
    index = pd.read_parquet(parts.model / "frame_index.parquet")
    lost = parts.rows.index(("c", 2))
    assert index.loc[lost, ["native_idx", "status"]].tolist() == [-1, "bad"]
    assert index.loc[lost, ["pts_sec", "offset_sec"]].isna().all()
    entries = {video["video_id"]: video for video in manifest["videos"]}
    assert entries["c"]["problems"] == ["1 row is not finite"]
    assert not entries["c"]["verified"]
    assert entries["b"]["verified"]


def test_a_rule_that_does_not_fit_the_file(parts: Parts) -> None:
    """Every row is the frame that was asked for, and yet not where its time is."""
    video = {"frames": 50, "frames_found": 50, "fps": 20.0, "interval_sec": 0.05, "vfr": False}
    video["index_source"] = "packets"
    assert parts.assemble()["verdict"] == "verified"
    evidence = parts.read_evidence("c")
    evidence["video"] = video
    evidence["rows"]["pts_sec"] = [number / 20 for number in evidence["rows"]["native_idx"]]
    parts.store_evidence("c", evidence)
    parts.embed("c", parts.features["c"])
    manifest = parts.assemble()
    assert list(manifest)[:6] == [
        "backbone", "weights", "feature_dim", "total_frames", "alignment_verified", "order"
    ]  # fmt: skip
    assert manifest["order"] == "sequential_per_frame_index"
    assert manifest["alignment_verified"] is True
    assert manifest["verdict"] == "doubtful"
    assert manifest["doubtful"] == {"videos": 1, "max_abs_offset_sec": pytest.approx(0.4)}
    assert manifest["notes"] == [
        "1 video doubtful, rows up to 0.400 s from their frames: their doubts say why"
    ]
    doubtful = {entry["video_id"]: entry for entry in manifest["videos"]}["c"]
    assert doubtful["verified"] is True
    assert doubtful["verdict"] == "doubtful"
    assert "the index says 25 fps, the file has 20" in doubtful["doubts"][0]


def test_what_computed_the_features_and_what_slows_it_is_told(parts: Parts) -> None:
    fast = {"device": "NVIDIA Test", "driver": "570.1", "cuda": "13.2", "cudnn": 91000, "warnings": []}
    slow = {"device": "cpu", "warnings": ["m is not folded"]}
    for video, network in zip("abc", (fast, slow, slow), strict=True):
        parts.embed(video, parts.features[video], network=network)
    manifest = parts.assemble()
    assert sorted(manifest["computed_by"], key=len) == [slow, fast]
    assert manifest["notes"] == ["m is not folded"]


def test_a_file_that_cannot_be_understood_is_never_verified(parts: Parts) -> None:
    evidence = parts.read_evidence("b") | {"doubts": ["order and times contradict each other"]}
    parts.store_evidence("b", evidence)
    parts.embed("b", parts.features["b"])
    manifest = parts.assemble()
    assert manifest["alignment_verified"] is False
    assert manifest["verdict"] == "doubtful"
    assert [entry["verdict"] for entry in manifest["videos"]].count("doubtful") == 1
    entry = next(entry for entry in manifest["videos"] if entry["doubts"])
    assert entry["video_id"] == "b"
    assert entry["verified"] is False


def other_time(parts: Parts) -> None:
    parts.slices["b"]["times_sha256"] = "0" * 64
    parts.write_shards()


def other_content(parts: Parts) -> None:
    parts.slices["b"]["fingerprint"] = "0" * 64
    parts.write_shards()


def other_weights(parts: Parts) -> None:
    parts.embed("b", parts.features["b"], weights="w0")


def other_precision(parts: Parts) -> None:
    parts.embed("b", parts.features["b"], precision="bf16")


def sampled_again(parts: Parts) -> None:
    evidence = parts.read_evidence("b")
    evidence["rows"]["native_idx"][1] += 1
    parts.store_evidence("b", evidence)


def edited_features(parts: Parts) -> None:
    record = stored.read_record(parts.array("b"))
    parts.store_features("b", record, np.ascontiguousarray(parts.features["b"][::-1]))


def cut_features(parts: Parts) -> None:
    parts.array("b").write_bytes(parts.array("b").read_bytes()[:-4])


def cut_evidence(parts: Parts) -> None:
    parts.evidence("b").write_bytes(parts.evidence("b").read_bytes()[:20])


def listed_record(parts: Parts) -> None:
    parts.store_features("b", [], parts.features["b"])


@pytest.mark.parametrize(
    ("damage", "file", "reason"),
    [
        (other_time, "evidence/squash224/b.safetensors", "its times changed"),
        (other_content, "evidence/squash224/b.safetensors", "the file's content changed"),
        (other_weights, "model/features/b.safetensors", "other weights"),
        (other_precision, "model/features/b.safetensors", "precision changed from bf16 to float32"),
        (sampled_again, "model/features/b.safetensors", "its frames were sampled again since"),
        (edited_features, "model/features/b.safetensors", "is not what it was"),
        (cut_features, "model/features/b.safetensors", "cannot be used"),
        (cut_evidence, "evidence/squash224/b.safetensors", "cannot be used"),
        (listed_record, "model/features/b.safetensors", "cannot be used"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_parts_that_do_not_fit_are_named(
    parts: Parts, damage: Callable[[Parts], None], file: str, reason: str
) -> None:
    """Whatever the files' times say: as after ``snakemake --touch``, or a disk's fault."""
    before = parts.assemble()["matrix_sha256"]
    damage(parts)
    report = parts.results / "report.html"
    report.write_text("Verified: every row ...")
    with pytest.raises(UserError, match="Delete these files and run again") as error:
        parts.assemble()
    line = next(line for line in str(error.value).splitlines() if line.startswith("  - "))
    assert file in line
    assert reason in line
    assert read_json(parts.model / "feature_manifest.json")["matrix_sha256"] == before
    assert not report.exists(), "Snakemake removes the matrix that it shows"


def test_shards_decide_no_byte(parts: Parts) -> None:
    parts.assemble()
    names = ("toy_features.npy", "frame_index.parquet", "feature_manifest.json")
    before = [(parts.model / name).read_bytes() for name in names]
    for shard in ("shard+0of2", "shard+1of2"):
        parts.shard(shard).unlink()
    for video, entry in parts.slices.items():
        write_json_in(parts.shard(video), {"schema": 3, "videos": {video: entry}})
    parts.assemble()
    assert [(parts.model / name).read_bytes() for name in names] == before


def test_a_video_that_no_shard_has(parts: Parts) -> None:
    parts.shard("shard+1of2").unlink()
    with pytest.raises(UserError, match=r"shards' knows no video 'b'; .*--forcerun merge_index"):
        parts.assemble()


def test_all_that_do_not_fit_are_listed(parts: Parts) -> None:
    cut_evidence(parts)
    with pytest.raises(UserError) as error:
        parts.assemble(alignment="pts")
    assert sum(line.startswith("  - ") for line in str(error.value).splitlines()) == 3
