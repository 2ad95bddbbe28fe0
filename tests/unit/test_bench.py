"""The benchmark's own promises: what it compares computes the same, and it writes its own section alone."""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench import __main__ as bench
from bench import document, gpu, inputs
from tests.models import live_mobilenet


def test_a_set_is_named_by_its_clips() -> None:
    assert bench.Clips.named("200x5") == bench.Clips(200, 5, ("auto",))
    assert bench.Clips.named("12x60").decoders == ("auto", "pyav")
    with pytest.raises(argparse.ArgumentTypeError, match="CLIPSxSECONDS"):
        bench.Clips.named("60")


def test_a_rival_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.npy", tmp_path / "theirs.npy"
    matrix = np.random.default_rng(0).standard_normal((4, 16)).astype(np.float32)
    np.save(ours, matrix)
    np.save(theirs, 2 * matrix)
    bench.check_alike(ours, theirs)
    np.save(theirs, matrix[[0, 1, 3, 2]])
    with pytest.raises(SystemExit, match=r"row [23] of"):
        bench.check_alike(ours, theirs)
    np.save(theirs, np.where(np.arange(4)[:, None] == 1, np.nan, matrix))
    with pytest.raises(SystemExit, match="row 1 of"):
        bench.check_alike(ours, theirs)


def test_a_ratio_is_of_neighbouring_runs() -> None:
    def runs(*walls: float) -> list[dict[str, float]]:
        return [{"wall": wall, "cpu": 2 * wall, "peak_rss": 1e6} for wall in walls]

    text = bench.table({"200x5": {"runs": {"auto": runs(10, 40, 30), bench.RIVAL: runs(10, 20, 60)}}})
    assert "**1.00 (0.50 to 2.00)**" in text
    assert "30.0 (10.0 to 40.0)" in text


def test_a_command_writes_its_section_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "ROOT", tmp_path)
    target = tmp_path / "docs" / "benchmarks.md"
    target.parent.mkdir()
    target.write_text(
        "a\n<!-- one:start -->\nold\n<!-- one:end -->\nb\n<!-- two:start -->\nc\n<!-- two:end -->\n"
    )
    document.write_section("one", "new\n")
    found = target.read_text()
    assert found.startswith("a\n<!-- one:start -->\n\nnew\n\n<!-- one:end -->\nb\n")
    assert found.endswith("<!-- two:start -->\nc\n<!-- two:end -->\n")
    with pytest.raises(SystemExit, match="three:start"):
        document.write_section("three", "lost")


def test_further_clips_are_the_same_files_under_other_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "DISTINCT", 2)
    for number in range(2):
        (tmp_path / "2x5").mkdir(exist_ok=True)
        (tmp_path / "2x5" / f"clip{number:03}.mp4").write_bytes(bytes([number]))
    inputs.build(tmp_path / "5x5", [], 5, clips=5)
    content = [(tmp_path / "5x5" / f"clip{number:03}.mp4").read_bytes() for number in range(5)]
    assert content == [b"\0", b"\1", b"\0", b"\1", b"\0"]
    rows = pd.read_parquet(tmp_path / "5x5" / "frames.parquet")
    assert rows["video_id"].nunique() == 5
    assert len(rows) == 5 * 5 * inputs.SAMPLE_FPS


def test_the_embedder_takes_what_the_gpu_benchmark_asks_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "DATA", tmp_path)
    weights = live_mobilenet(tmp_path / "weights.pth")
    assert gpu.embedder_fps(weights, "float32", "cpu", 5, 2) > 0


@pytest.mark.parametrize(
    ("embedder", "wall", "verdict"),
    [
        (70.0, 13.0, "Both are met."),
        (69.0, 13.0, "Missed: the embedder at clips of 60 s in float32: 69% of the plain loop."),
        (70.0, 14.0, "Missed: the whole command at clips of 60 s: 1.40 times decoding."),
    ],
)
def test_the_goals_on_a_gpu_are_judged(embedder: float, wall: float, verdict: str) -> None:
    found = {
        "device": {"device": "NVIDIA Test", "driver": "570.1", "cuda": "13.2", "cudnn": 91000},
        "torch": "2.15.0",
        "machine": "a machine",
        "rounds": 3,
        "embedder": {"float32": {"plain": 100.0, "contiguous": 90.0, 60: embedder}},
        "command": {60: {"decode": 10.0, "wall": wall, "clips": 12}},
    }
    text = gpu.section(found)
    assert text.startswith("NVIDIA Test (driver 570.1, cuda 13.2, cudnn 91000; torch 2.15.0); a machine.")
    assert text.endswith(verdict)
