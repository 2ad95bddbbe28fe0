"""What the manifest says of where a matrix came from: the same words for the same inputs, wherever they lie."""

import json
import shlex
from typing import Any

import pytest
import yaml
from framefeat.results.origin import origin
from framefeat.settings import resolve

SPEC = {"name": "resnet50", "kind": "enum", "weights": "IMAGENET1K_V1", "file": "resnet50.pth"}


def of(spec: dict[str, Any] | None = None, **config: Any) -> dict[str, Any]:
    return origin(resolve({"dataset": "toy"} | config), SPEC | (spec or {}))


def test_a_folder_and_its_rate() -> None:
    assert of(videos="films/*.mp4") == {
        "source": {"videos": "films/*.mp4"},
        "sampling": {"sample_fps": 2.0},
        "command": "snakemake --config dataset=toy 'videos=films/*.mp4' sample_fps=2 backbones=resnet50",
    }


def test_every_kth_frame_needs_no_alignment() -> None:
    found = of(videos="films", sample_every=15)
    assert found["sampling"] == {"sample_every": 15}
    assert (
        found["command"] == "snakemake --config dataset=toy videos=films sample_every=15 backbones=resnet50"
    )


def test_two_indexes_by_their_names() -> None:
    found = of(
        frame_index="/home/me/frames.csv", video_index="tables/videos.csv", video_root="/home/me/films"
    )
    assert found["source"] == {"frame_index": "frames.csv", "video_index": "videos.csv"}
    assert found["sampling"] == {"times": "frame index"}
    assert "/home" not in json.dumps(found)
    assert "sample_fps" not in found["command"]


@pytest.mark.parametrize(
    ("videos", "named"),
    [
        ("/data/films", "films"),
        ("/data/films/", "films"),
        ("/mnt/other/films/**/*.mp4", "films/**/*.mp4"),
        ("/*.mp4", "*.mp4"),
        ("/", "/"),
        ("~/films", "films"),
        ("resources/example", "resources/example"),
        ("../films", "../films"),
    ],
)
def test_no_folder_of_one_machine(videos: str, named: str) -> None:
    assert of(videos=videos)["source"] == {"videos": named}


def test_how_is_not_what() -> None:
    """Nor do other backbones and their weights change what is said of this one."""
    weights = {"resnet50": "IMAGENET1K_V1", "vgg16": "/home/me/vgg.pth"}
    assert of() == of(
        device="cpu", batch_size=7, shard_rows=9, keep_frames=True, warm_embedder=False, decoder_timeout=9,
        video_root="/data", backbones=["vgg16", "resnet50"], weights=weights, export_l2=True,
    )  # fmt: skip


def test_what_decides_the_rows_is_said_as_snakemake_reads_it() -> None:
    config = {
        "alignment": "pts", "decoder": "pyav", "precision": "bf16", "preprocess": "weights", "on_bad_frames": "mask",
        "sample_fps": 0.3,
    }  # fmt: skip
    told = shlex.split(of(weights="IMAGENET1K_V2", spec={"weights": "IMAGENET1K_V2"}, **config)["command"])
    again = {key: yaml.safe_load(value) for key, value in (word.split("=", 1) for word in told[2:])}
    first = resolve({"dataset": "toy", "backbones": "resnet50", "weights": "IMAGENET1K_V2"} | config)
    assert resolve(again) == first


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"kind": "file", "weights": "live.pth", "file": "/home/me/live.pth"}, ["weights=live.pth"]),
        ({"kind": "tag", "weights": "a1_in1k", "name": "timm:resnet50.a1_in1k"}, []),
        ({}, []),
    ],
)
def test_weights_by_name(spec: dict[str, Any], words: list[str]) -> None:
    assert shlex.split(of(spec)["command"])[6:] == words
