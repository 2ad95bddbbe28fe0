"""Exact job sets: after a complete run, each edit recomputes what it calls for and nothing more."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.workflow.conftest import write_clip
from tests.workflow.project import Project

HEAVY = ("sample_frames", "extract_features")
BACKBONE = "mobilenet_v3_large"


@pytest.fixture(scope="module")
def project(new_project: Callable[..., Project]) -> Project:
    """A complete run that the edits of this module start from, one after the other."""
    project = new_project()
    done = project.run()
    assert done.of(*HEAVY) == sorted(f"{rule}:{video}" for rule in HEAVY for video in "abc")
    return project


@pytest.fixture(autouse=True)
def settled(project: Project) -> Iterator[None]:
    """Each test leaves a complete state behind, so that the next one starts from one."""
    yield
    project.run()


def appended(table: pd.DataFrame, **row: object) -> pd.DataFrame:
    return pd.concat([table, pd.DataFrame([row])], ignore_index=True)


def matrix(project: Project) -> np.ndarray:
    return np.load(project.results / BACKBONE / "toy_features.npy")


def test_nothing_changed(project: Project) -> None:
    done = project.run()
    assert done.jobs == []
    assert "Nothing to be done" in done.output


def test_index_touched_or_rewritten_or_columns_reordered(project: Project) -> None:
    for name in ("frames.csv", "videos.csv"):
        os.utime(project.folder / name)
    assert project.run().jobs == []
    project.write_index(project.rows(), project.video_table())
    assert project.run().of(*HEAVY) == []
    rows, videos = project.rows(), project.video_table()
    project.write_index(rows[rows.columns[::-1]], videos[videos.columns[::-1]])
    assert project.run().of(*HEAVY) == []


def test_one_time_edited_one_row_added_one_removed(project: Project) -> None:
    rows = project.rows()
    rows.loc[rows["video_id"] == "b", "timestamp_sec"] += [0, 0.04, 0, 0]
    project.write_index(rows, project.video_table())
    assert project.run().of(*HEAVY) == ["extract_features:b", "sample_frames:b"]
    rows = appended(rows, video_id="a", frame_idx=4, timestamp_sec=2.0, label="new")
    project.write_index(rows, project.video_table())
    assert project.run().of(*HEAVY) == ["extract_features:a", "sample_frames:a"]
    assert matrix(project).shape == (13, 960)
    project.write_index(rows.drop(index=rows.index[2]), project.video_table())
    assert project.run().of(*HEAVY) == ["extract_features:c", "sample_frames:c"]
    assert matrix(project).shape == (12, 960)


def test_rows_reordered_and_labels_changed(project: Project) -> None:
    rows = project.rows()
    before = matrix(project)
    project.write_index(rows[::-1], project.video_table())
    done = project.run()
    assert done.of(*HEAVY) == []
    assert f"assemble:{BACKBONE}" in done.jobs
    assert np.array_equal(matrix(project), before[::-1])
    rows["label"] = "changed"
    project.write_index(rows, project.video_table())
    done = project.run()
    assert done.of(*HEAVY) == []
    assert f"assemble:{BACKBONE}" in done.jobs


def test_video_touched_or_copied_again(project: Project) -> None:
    path = project.videos / "a.mp4"
    os.utime(path)
    assert project.run().of(*HEAVY) == []
    shutil.copy(path, path.with_suffix(".copy"))
    os.replace(path.with_suffix(".copy"), path)
    assert project.run().of(*HEAVY) == []


def test_video_replaced_by_an_older_file(project: Project, clips: Path) -> None:
    path = project.videos / "b.mp4"
    shutil.copy(clips / "other.mp4", path)
    os.utime(path, (1_000_000_000, 1_000_000_000))
    assert project.run().of(*HEAVY) == ["extract_features:b", "sample_frames:b"]


def test_collection_moved_and_files_renamed(project: Project) -> None:
    project.videos.rename(project.folder / "moved")
    project.videos = project.folder / "moved"
    project.config["video_root"] = "moved"
    (project.videos / "c.mp4").rename(project.videos / "renamed.mp4")
    videos = project.video_table()
    videos.loc[videos["video_id"] == "c", "video_path"] = "renamed.mp4"
    project.write_index(project.rows(), videos)
    done = project.run()
    assert done.of(*HEAVY) == []


def test_video_added_then_removed(project: Project) -> None:
    rows, videos = project.rows(), project.video_table()
    write_clip(project.videos / "d.mp4", seed=9)
    more_rows = appended(rows, video_id="d", frame_idx=0, timestamp_sec=1.0, label="x")
    project.write_index(more_rows, appended(videos, video_id="d", video_path="d.mp4", fps=25))
    done = project.run()
    assert done.of(*HEAVY) == ["extract_features:d", "sample_frames:d"]
    assert f"assemble:{BACKBONE}" in done.jobs
    project.write_index(rows, videos)
    done = project.run()
    assert done.of(*HEAVY) == []
    assert f"assemble:{BACKBONE}" in done.jobs
    assert len(matrix(project)) == len(rows)


def test_how_not_what(project: Project) -> None:
    before = dict(project.config)
    project.config |= {"device": "auto", "batch_size": 8, "decoder_timeout": 60, "keep_frames": True}
    assert project.run(cores=1).jobs == []
    project.config = before


def test_project_updated(project: Project, tmp_path: Path) -> None:
    """Rules and modules that are newer, and whose text differs, recompute nothing: only algorithm versions do."""
    link = project.folder / "workflow"
    source = link.resolve()
    shutil.copytree(source, tmp_path / "workflow")
    for path in (tmp_path / "workflow" / "rules").glob("*.smk"):
        path.write_text(path.read_text().replace("framefeat ", "framefeat  ") + "\n# a comment\n")
    link.unlink()
    link.symlink_to(tmp_path / "workflow")
    assert project.run().jobs == []
    link.unlink()
    link.symlink_to(source)


def test_weights_replaced(project: Project, weights: Path, tmp_path: Path) -> None:
    from tests.models import live_mobilenet

    before = matrix(project)
    other = tmp_path / "other.pth"
    live_mobilenet(other, seed=5)
    project.config["weights"] = str(other)
    done = project.run()
    assert done.of("extract_features") == [f"extract_features:{video}" for video in "abc"]
    assert not np.allclose(matrix(project), before)
    shutil.copy(weights, other)
    os.utime(other, (1_000_000_000, 1_000_000_000))
    project.run()
    assert np.array_equal(matrix(project), before)


def test_alignment_and_precision(project: Project) -> None:
    project.config["alignment"] = "pts"
    assert project.run().of("sample_frames") == [f"sample_frames:{video}" for video in "abc"]
    project.config["alignment"] = "index"
    project.run()
    project.config["precision"] = "bf16"
    assert project.run().of("extract_features") == [f"extract_features:{video}" for video in "abc"]
    project.config["precision"] = "float32"


def test_backbone_added(project: Project) -> None:
    """Frames are gone: sampling runs again, but the first backbone's stored features come back without a forward pass."""
    before = matrix(project)
    stamp = (project.results / BACKBONE / "store").stat().st_mtime_ns
    project.config["backbones"] = [BACKBONE, "mobilenet_v3_small"]
    from tests.models import live_model

    small = project.folder / "small.pth"
    live_model("mobilenet_v3_small", small)
    project.config["weights"] = {BACKBONE: project.config["weights"], "mobilenet_v3_small": str(small)}
    project.run()
    assert np.array_equal(matrix(project), before)
    assert (project.results / BACKBONE / "store").stat().st_mtime_ns == stamp, (
        "the stored features were made again"
    )
    assert np.load(project.results / "mobilenet_v3_small" / "toy_features.npy").shape[1] == 576
