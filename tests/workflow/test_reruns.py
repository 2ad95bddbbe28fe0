"""Exact job sets: after a complete run, each edit recomputes what it calls for and nothing more."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest

from tests.workflow.conftest import write_clip
from tests.workflow.project import Project, Run

BACKBONE = "mobilenet_v3_large"
MERGED = ["merge_index:toy"]
ASSEMBLED = [f"assemble:{BACKBONE}", "report:toy"]


def recomputed(*videos: str) -> list[str]:
    return [f"{rule}:{video}" for rule in ("extract_features", "sample_frames") for video in videos]


@pytest.fixture(scope="module")
def project(new_project: Callable[..., Project]) -> Project:
    """A complete run that the edits of this module start from, one after the other."""
    project = new_project()
    assert run_as_planned(project).jobs == sorted([*MERGED, *recomputed("a", "b", "c"), *ASSEMBLED])
    return project


@pytest.fixture(autouse=True)
def settled(project: Project) -> Iterator[None]:
    """Each test leaves a complete state behind, so that the next one starts from one."""
    yield
    project.run()


def run_as_planned(project: Project) -> Run:
    """A run whose jobs, sorted, are those that ``framefeat plan`` foretold: also whether there are any."""
    told = project.framefeat("plan", "--json", "--configfile", "run.yaml")
    assert told.returncode == 0, told.stdout
    plan = json.loads(told.stdout)
    done = project.run()
    assert done.of("sample_frames") == sorted(f"sample_frames:{video}" for video in plan["sample"])
    embedded = {video for videos in plan["extract"].values() for video in videos}
    assert set(done.of("extract_features")) == {f"extract_features:{video}" for video in embedded}
    foretold = ("merges", "taken_over", "removed", "rows_changed", "assemble", "missing", "redraws")
    assert bool(done.jobs) == bool(plan["sample"] or embedded or any(plan[name] for name in foretold))
    assert not plan["merges"] or set(MERGED) < set(done.jobs)
    return Run(done.status, done.output, sorted(done.jobs))


def appended(table: pd.DataFrame, **row: object) -> pd.DataFrame:
    return pd.concat([table, pd.DataFrame([row])], ignore_index=True)


def matrix(project: Project) -> np.ndarray:
    return np.load(project.results / BACKBONE / "toy_features.npy")


def test_nothing_changed(project: Project) -> None:
    done = run_as_planned(project)
    assert done.jobs == []
    assert "Nothing to be done" in done.output
    assert "Nothing to be done" in project.framefeat("plan", "--configfile", "run.yaml").stdout


def test_files_that_are_gone_are_foretold(project: Project) -> None:
    """A result is made again; what it was made from, with the next result."""
    folder = project.results / BACKBONE
    jobs = {}
    for path in (
        project.results / "report.html",
        project.results / "index.parquet",
        folder / "features" / "b.safetensors",
        folder / "frame_index.parquet",
    ):
        path.unlink()
        told = project.framefeat("plan", "--configfile", "run.yaml").stdout
        assert told.startswith("toy:")
        assert f"{path.relative_to(project.folder)} is not there" in told
        done = run_as_planned(project)
        assert ("Nothing to be done" in told) == (not done.jobs)
        jobs[path.name] = done.jobs
    assert jobs == {
        "report.html": ["report:toy"],
        "index.parquet": sorted([*MERGED, "report:toy"]),
        "b.safetensors": [],
        "frame_index.parquet": sorted([*recomputed("b"), *ASSEMBLED]),
    }


def test_a_report_that_was_left_behind_is_foretold(project: Project) -> None:
    """As by a rule that needs the matrix alone."""
    target = f"results/toy/{BACKBONE}/toy_features.npy"
    rows = project.rows()
    project.write_index(rows.iloc[1:], project.video_table())
    done = project.run(target)
    assert "assemble" in str(done.jobs)
    assert "report:" not in "".join(done.jobs)
    assert re.search("^report: ", done.output, re.M) is None, "the page is of other rows"
    assert re.search("^next: framefeat show ", done.output, re.M)
    told = project.framefeat("plan", "--configfile", "run.yaml").stdout
    assert told == "toy:\nThe report will be drawn; no video is decoded or embedded.\n"
    assert run_as_planned(project).jobs == ["report:toy"]
    project.run(target, "--forcerun", "assemble")
    assert run_as_planned(project).jobs == [], "the same content"
    project.write_index(rows, project.video_table())
    run_as_planned(project)


def test_what_follows_a_merge_of_a_large_index_is_foretold(project: Project) -> None:
    """Snakemake does not look whether its content is the same."""
    rows = project.rows()
    letters = np.random.default_rng(0).choice(list("abcdefghijklmnopqrstuvwxyz"), (len(rows), 200_000))
    project.write_index(rows.assign(label=list(map("".join, letters))), project.video_table())
    project.run()
    assert (project.results / "index.parquet").stat().st_size > 1_000_000
    os.utime(project.videos / "a.mp4")
    assert run_as_planned(project).jobs == sorted([*MERGED, *ASSEMBLED])
    os.utime(project.results / BACKBONE / "frame_index.parquet")
    assert run_as_planned(project).jobs == ["report:toy"]
    project.write_index(rows, project.video_table())


@pytest.mark.parametrize(
    ("stage", "jobs"),
    [("evidence/squash224", recomputed("a")), (f"{BACKBONE}/features", ["extract_features:a"])],
    ids=["sample", "extract"],
)
def test_after_a_job_that_failed_the_next_run_goes_on(project: Project, stage: str, jobs: list[str]) -> None:
    """Snakemake has written down what the failed job was made of, and the matrix of the earlier run is there."""
    write_clip(project.videos / "a.mp4", seed=len(stage))
    output = project.results / stage / "a.safetensors"
    output.unlink()
    output.mkdir()  # so nothing can be written there
    assert project.run(check=False).status != 0
    output.rmdir()
    assert sorted(project.run().jobs) == sorted([*jobs, *ASSEMBLED])
    assert project.run().jobs == []


def test_a_refused_matrix_is_refused_again_whatever_was_made_of_an_earlier_one(project: Project) -> None:
    """The HDF5 file is there, and newer than what it was made of."""
    project.run("export_h5")
    clip = project.videos / "b.mp4"
    whole = clip.read_bytes()
    clip.write_bytes(b"\0" * 100 + whole[100:])
    for _ in range(3):
        done = project.run("export_h5", check=False)
        assert done.status != 0
        assert "1 of 3 videos has bad rows" in done.output
    project.config["on_bad_frames"] = "mask"
    assert f"assemble:{BACKBONE}" in project.run("export_h5", check=False).jobs
    del project.config["on_bad_frames"]
    clip.write_bytes(whole)
    assert "write_h5" in str(project.run("export_h5").jobs)
    assert "Nothing to be done" in project.run("export_h5").output


def test_files_that_are_cut_are_foretold(project: Project) -> None:
    """Snakemake sees none of them."""
    folder = project.results / BACKBONE
    for path, said in (
        (
            project.results / "evidence" / "squash224" / "b.safetensors",
            "is not whole; delete it, and it is made",
        ),
        (
            folder / "features" / "b.safetensors",
            "is not whole; delete it, and it is made again with the next",
        ),
        (folder / "toy_features.npy", "is not a whole .npy file"),
        (folder / "frame_index.parquet", "is not a whole Parquet file"),
        (folder / "feature_manifest.json", "is not a whole manifest"),
    ):
        whole, stat = path.read_bytes(), path.stat()
        path.write_bytes(whole[: len(whole) // 2])
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        told = project.framefeat("plan", "--configfile", "run.yaml").stdout
        assert told.startswith("toy: Nothing to be done")
        assert said in told
        assert ("--forcerun assemble" in told) == (folder == path.parent)
        assert run_as_planned(project).jobs == []
        path.write_bytes(whole)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_a_lost_shard_costs_no_matrix(project: Project) -> None:
    """Snakemake takes the shards that are left for all there are, and deletes the matrix of all to make one of them."""
    before = matrix(project).tobytes()
    (project.results / "shards" / "b.json").unlink()
    assert run_as_planned(project).jobs == sorted([*MERGED, "report:toy"])
    assert matrix(project).tobytes() == before
    # Nor does it hide what else there is to do.
    for lost in ("index.parquet", "left_out.json"):
        (project.results / lost).unlink()
    config = dict(project.config)
    project.config = config | {"decoder": "pyav"}
    done = run_as_planned(project)
    assert done.jobs == sorted([*MERGED, *recomputed("a", "b", "c"), *ASSEMBLED])
    project.config = config
    project.run()


def test_index_touched_or_rewritten_or_columns_reordered(project: Project) -> None:
    for name in ("frames.csv", "videos.csv"):
        os.utime(project.folder / name)
    assert run_as_planned(project).jobs == []
    project.write_index(project.rows(), project.video_table())
    assert run_as_planned(project).jobs == []
    rows, videos = project.rows(), project.video_table()
    project.write_index(rows[rows.columns[::-1]], videos[videos.columns[::-1]])
    # The order of the columns is the order in frame_index.parquet.
    assert run_as_planned(project).jobs == sorted([*MERGED, *ASSEMBLED])


def test_what_is_merged_again_though_no_row_changes_is_foretold(project: Project) -> None:
    """A file that is touched, a key that decides nothing here, and tables under other names."""
    before = dict(project.config)
    os.utime(project.folder / "videos" / "b.mp4")
    assert "will be merged again" in project.framefeat("plan", "--configfile", "run.yaml").stdout
    assert run_as_planned(project).jobs == sorted([*MERGED, "report:toy"])
    project.config = before | {"video_root": str(project.folder)}
    assert run_as_planned(project).jobs == sorted([*MERGED, "report:toy"])
    shutil.copy(project.folder / "videos.csv", project.folder / "others.csv")
    project.config = before | {"video_index": "others.csv"}
    assert run_as_planned(project).jobs == sorted([*MERGED, *ASSEMBLED])
    project.config = before
    assert run_as_planned(project).jobs == sorted([*MERGED, *ASSEMBLED])


def test_an_index_that_is_gone_is_no_reason_to_be_content(project: Project) -> None:
    """Snakemake alone would say 'Nothing to be done'."""
    before = dict(project.config)
    project.config |= {"frame_index": "frame.csv", "video_index": "video.csv"}
    for arguments in ([], ["--dry-run"]):
        done = project.run(*arguments, check=False)
        assert done.status != 0
        assert "frame_index: 'frame.csv'" in done.output
        assert "video_index: 'video.csv'" in done.output
        assert "Traceback" not in done.output
    project.config = before | {"annotations": "gone.tsv"}
    project.run()
    done = project.run("export_h5", check=False)
    assert done.status != 0
    assert "annotations: the file 'gone.tsv' does not exist" in done.output
    project.config = before


def test_the_export_is_redone_alone_and_tells_what_its_summaries_are_worth(project: Project) -> None:
    """Clips without cuts: no shot fits the budget, and the terminal says so."""
    before = dict(project.config)
    done = project.run("export_h5")
    assert done.of("write_h5") == done.jobs
    assert "toy.h5: summaries are empty in 3 of 3 videos (a, b, c)" in done.output
    project.config = before | {"export_l2": True}
    assert project.run("export_h5").jobs == done.jobs
    assert project.run().jobs == []
    # The shots, and the labels, of another file.
    with (
        h5py.File(project.results / BACKBONE / "toy.h5") as made,
        h5py.File(project.folder / "other.h5", "w") as other,
    ):
        for group in made:
            frames = int(made[group]["n_frames"][()])
            other[f"{group}/change_points"] = [[0, 19], [20, frames - 1]]
            other[f"{group}/n_frames"] = frames
            other[f"{group}/picks"] = [0, 20]
            other[f"{group}/gtscore"] = [0.25, 0.75]
            other[f"{group}/user_summary"] = np.ones((1, frames), np.float32)
    project.config = before | {"export_segments_from": "other.h5"}
    assert project.run("export_h5").jobs == done.jobs
    with h5py.File(project.results / BACKBONE / "toy.h5") as made:
        assert made.attrs["change_points"] == "from other.h5"
        assert made["video_1/change_points"][0].tolist() == [0, 19]
        assert "gtscore" not in made["video_1"]
    project.config = before | {"export_labels_from": "other.h5"}
    assert project.run("export_h5").jobs == done.jobs
    with h5py.File(project.results / BACKBONE / "toy.h5") as made:
        assert {"gtscore", "user_summary"} <= set(made["video_1"])
    with h5py.File(project.folder / "other.h5", "a") as other:
        other["video_1/gtscore"][...] = [0.75, 0.25]
    os.utime(project.folder / "other.h5", (1_000_000_000, 1_000_000_000))
    assert project.run("export_h5").jobs == done.jobs
    assert project.run("export_h5").jobs == []
    project.config = before


def test_the_export_destroys_nothing_that_is_there(project: Project) -> None:
    """Neither the source of its own shots, by whatever name, nor what it did not write, nor the export before one that
    fails."""
    before = dict(project.config)
    project.run("export_h5")
    made = project.results / BACKBONE / "toy.h5"
    content = made.read_bytes()
    (project.folder / "link.h5").symlink_to(made)
    for name in (str(made), str(made.relative_to(project.folder)), "link.h5"):
        for key in ("export_segments_from", "export_labels_from"):
            project.config = before | {key: name}
            done = project.run("export_h5", check=False)
            assert done.status != 0
            assert f"{key}: {name!r} is the file that export_h5 writes" in done.output
            assert made.read_bytes() == content
    project.config = before | {"export_segments_from": "gone.h5"}
    done = project.run("export_h5", check=False)
    assert done.status != 0
    assert "gone.h5" in done.output
    assert made.read_bytes() == content
    project.config = before | {"export_l2": True}
    made.write_bytes(b"precious")
    done = project.run("export_h5", check=False)
    assert done.status != 0
    assert "framefeat did not write it" in done.output
    assert made.read_bytes() == b"precious"
    made.unlink()
    project.config = before


def test_one_time_edited_one_row_added_one_removed(project: Project) -> None:
    rows = project.rows()
    rows.loc[rows["video_id"] == "b", "timestamp_sec"] += [0, 0.04, 0, 0]
    project.write_index(rows, project.video_table())
    assert run_as_planned(project).jobs == sorted([*MERGED, *recomputed("b"), *ASSEMBLED])
    rows = appended(rows, video_id="a", frame_idx=4, timestamp_sec=2.0, label="new")
    project.write_index(rows, project.video_table())
    assert run_as_planned(project).jobs == sorted([*MERGED, *recomputed("a"), *ASSEMBLED])
    assert matrix(project).shape == (13, 960)
    project.write_index(rows.drop(index=rows.index[2]), project.video_table())
    assert run_as_planned(project).jobs == sorted([*MERGED, *recomputed("c"), *ASSEMBLED])
    assert matrix(project).shape == (12, 960)


def test_rows_reordered_and_labels_changed(project: Project) -> None:
    rows = project.rows()
    before = matrix(project)
    project.write_index(rows[::-1], project.video_table())
    assert run_as_planned(project).jobs == sorted([*MERGED, *ASSEMBLED])
    assert np.array_equal(matrix(project), before[::-1])
    rows["label"] = "changed"
    project.write_index(rows, project.video_table())
    assert run_as_planned(project).jobs == sorted([*MERGED, *ASSEMBLED])


def test_video_touched_or_copied_again(project: Project) -> None:
    path = project.videos / "a.mp4"
    os.utime(path)
    assert set(run_as_planned(project).jobs) <= {*MERGED, *ASSEMBLED}
    shutil.copy(path, path.with_suffix(".copy"))
    os.replace(path.with_suffix(".copy"), path)
    assert set(run_as_planned(project).jobs) <= {*MERGED, *ASSEMBLED}


def test_video_replaced_by_an_older_file(project: Project, clips: Path) -> None:
    path = project.videos / "b.mp4"
    shutil.copy(clips / "other.mp4", path)
    os.utime(path, (1_000_000_000, 1_000_000_000))
    assert run_as_planned(project).jobs == sorted([*MERGED, *recomputed("b"), *ASSEMBLED])


def test_index_replaced_by_an_older_file(project: Project) -> None:
    """As ``cp -p``, ``mv`` and unpacking an archive do it."""
    rows, videos = project.rows(), project.video_table()

    def write_old() -> None:
        project.write_index(rows, videos)
        for name in ("frames.csv", "videos.csv"):
            os.utime(project.folder / name, (1_000_000_000, 1_000_000_000))

    rows.loc[rows["video_id"] == "c", "timestamp_sec"] += 0.04
    write_old()
    assert run_as_planned(project).jobs == sorted([*MERGED, *recomputed("c"), *ASSEMBLED])
    videos.loc[videos["video_id"] == "a", "fps"] *= 2
    rows = rows[(rows["video_id"] != "a") | (rows["timestamp_sec"] < 1)]
    write_old()
    assert run_as_planned(project).jobs == sorted([*MERGED, *recomputed("a"), *ASSEMBLED])
    assert run_as_planned(project).jobs == []


def test_collection_moved_and_files_renamed(project: Project) -> None:
    project.videos.rename(project.folder / "moved")
    project.videos = project.folder / "moved"
    project.config["video_root"] = "moved"
    (project.videos / "c.mp4").rename(project.videos / "renamed.mp4")
    videos = project.video_table()
    videos.loc[videos["video_id"] == "c", "video_path"] = "renamed.mp4"
    project.write_index(project.rows(), videos)
    assert set(run_as_planned(project).jobs) <= {*MERGED, *ASSEMBLED}


def test_video_added_then_removed(project: Project) -> None:
    rows, videos = project.rows(), project.video_table()
    write_clip(project.videos / "d.mp4", seed=9)
    more_rows = appended(rows, video_id="d", frame_idx=0, timestamp_sec=1.0, label="x")
    project.write_index(more_rows, appended(videos, video_id="d", video_path="d.mp4", fps=25))
    assert run_as_planned(project).jobs == sorted([*MERGED, *recomputed("d"), *ASSEMBLED])
    project.write_index(rows, videos)
    assert run_as_planned(project).jobs == sorted([*MERGED, *ASSEMBLED])
    assert len(matrix(project)) == len(rows)
    assert "d" not in {video["video_id"] for video in manifest(project)["videos"]}

    def files() -> set[str]:
        found = (path for path in project.results.rglob("d.*") if path.is_file())
        return {str(path.relative_to(project.results)) for path in found}

    left = files()
    assert f"{BACKBONE}/features/d.safetensors" in left
    listed = project.framefeat("stale", "results/toy")
    assert listed.returncode == 0
    assert all(name in listed.stdout for name in left), listed.stdout
    assert files() == left
    assert project.framefeat("stale", "results/toy", "--delete").returncode == 0
    assert files() == set()
    assert run_as_planned(project).jobs == []


def manifest(project: Project) -> dict[str, Any]:
    return json.loads((project.results / BACKBONE / "feature_manifest.json").read_text())


def test_how_not_what(project: Project) -> None:
    before = dict(project.config)
    project.config |= {
        "device": "auto",
        "batch_size": 8,
        "decoder_timeout": 60,
        "keep_frames": True,
        "warm_embedder": False,
    }
    assert project.run(cores=1).jobs == []
    profile = project.folder / "mine"
    profile.mkdir()
    (profile / "config.yaml").write_text("printshellcmds: true\nkeep-going: true\nlatency-wait: 9\n")
    assert project.run("--profile", "mine").jobs == []
    assert project.run("--quiet", "progress").jobs == []
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
    assert run_as_planned(project).jobs == sorted([*recomputed("a", "b", "c"), *ASSEMBLED])
    assert not np.allclose(matrix(project), before)
    shutil.copy(weights, other)
    os.utime(other, (1_000_000_000, 1_000_000_000))
    project.run()
    assert np.array_equal(matrix(project), before)


def test_alignment_and_precision(project: Project) -> None:
    project.config["alignment"] = "pts"
    assert run_as_planned(project).jobs == sorted([*MERGED, *recomputed("a", "b", "c"), *ASSEMBLED])
    project.config["alignment"] = "index"
    project.run()
    project.config["precision"] = "bf16"
    assert run_as_planned(project).jobs == sorted([*recomputed("a", "b", "c"), *ASSEMBLED])
    project.config["precision"] = "float32"


def test_kept_frames_spare_the_decoding(project: Project) -> None:
    """A backbone added later finds them; and no sampling job waits for the device until they are gone."""
    from tests.models import live_model

    before = dict(project.config)
    project.config |= {"keep_frames": True, "alignment": "pts"}
    project.run()
    planned = project.run("--dry-run", "--printshellcmds", "--forcerun", "sample_frames").output
    assert "--backlog 0" in planned
    small = project.folder / "small.pth"
    live_model("mobilenet_v3_small", small)
    project.config["backbones"] = [BACKBONE, "mobilenet_v3_small"]
    project.config["weights"] = {BACKBONE: before["weights"], "mobilenet_v3_small": str(small)}
    assert run_as_planned(project).of("sample_frames", "extract_features") == [
        f"extract_features:{video}" for video in "abc"
    ]
    project.config = before


def test_backbone_added_and_its_weights_replaced(project: Project) -> None:
    """Frames are gone: sampling runs again, but the first backbone's stored features stay without a forward pass."""
    from tests.models import live_model

    before = matrix(project)
    stamp = (project.results / BACKBONE / "features").stat().st_mtime_ns

    def untouched() -> bool:
        return (project.results / BACKBONE / "features").stat().st_mtime_ns == stamp and np.array_equal(
            matrix(project), before
        )

    project.config["backbones"] = [BACKBONE, "mobilenet_v3_small"]
    small = project.folder / "small.pth"
    live_model("mobilenet_v3_small", small)
    project.config["weights"] = {BACKBONE: project.config["weights"], "mobilenet_v3_small": str(small)}
    run_as_planned(project)
    assert untouched()
    path = project.results / "mobilenet_v3_small" / "toy_features.npy"
    first = np.load(path)
    assert first.shape[1] == 576
    live_model("mobilenet_v3_small", small, seed=7)
    run_as_planned(project)
    assert untouched()
    assert not np.allclose(np.load(path), first)
    # Left out while a video changes, it is brought up to date when it comes back.
    both = project.config["backbones"]
    project.config["backbones"] = BACKBONE
    rows = project.rows()
    rows.loc[rows["video_id"] == "a", "timestamp_sec"] += 0.04
    project.write_index(rows, project.video_table())
    project.run()
    project.config["backbones"] = both
    assert run_as_planned(project).of("sample_frames") == ["sample_frames:a"]
