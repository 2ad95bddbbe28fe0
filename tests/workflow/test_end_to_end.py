"""The main job on real clips: the notebook's numbers, hard ids, the same bytes again, damage, and what verify
catches."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from framefeat.results.verify import verify_folder

from bench.baselines import notebook
from tests.workflow.conftest import write_clip
from tests.workflow.project import ROOT, SHARED, Project

BACKBONE = "mobilenet_v3_large"
CLIPS = ROOT / "resources" / "example"
OUTPUTS = ("toy_features.npy", "frame_index.parquet", "feature_manifest.json")


def digests(project: Project) -> dict[str, str]:
    folder = project.results / BACKBONE
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in OUTPUTS}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Project:
    """The example's three clips under hard ids, their rows interleaved and out of order, one time twice; computed
    once."""
    project = Project(tmp_path_factory.mktemp("real") / "work")
    ids = {
        "-esJrBWj2d8": ("bikes", 25.0, 20),
        "007": ("bigbuckbunny", 25.0, 10),
        "NA.recheck": ("carphone_pristine", 29.97, 8),
        "NA": ("carphone_pristine", 29.97, 8),
    }
    rows = [
        {"video_id": video_id, "timestamp_sec": number / 2, "note": f"{video_id} {number}"}
        for number in range(20)
        for video_id, (_, _, count) in ids.items()
        if number < count
    ]
    rows = [*rows[::-1], {"video_id": "NA", "timestamp_sec": 1.0, "note": "again"}]
    for name, _, _ in ids.values():
        shutil.copy(CLIPS / f"{name}.mp4", project.videos)
    videos = [
        {"video_id": video_id, "video_path": f"/kaggle/input/somewhere/{name}.mp4", "fps": fps}
        for video_id, (name, fps, _) in ids.items()
    ]
    videos.append({"video_id": "without rows", "video_path": "bikes.mp4", "fps": 25.0})
    project.write_index(pd.DataFrame(rows), pd.DataFrame(videos))
    project.config["weights"] = str(weights)
    project.run()
    return project


def test_features_are_the_notebook_s(real: Project, weights: Path) -> None:
    """To 1e-3 of a standard deviation and cosine 0.99999, row by row, with activations that are alive."""
    rows, videos = real.rows(), real.video_table()
    paths = {video.video_id: str(real.videos / Path(video.video_path).name) for video in videos.itertuples()}
    fps = dict(zip(videos["video_id"], videos["fps"], strict=True))
    expected = notebook(rows, paths, fps, weights)
    found = np.load(real.results / BACKBONE / "toy_features.npy", mmap_mode="r")
    assert found.dtype == np.float32
    assert found.shape == (len(rows), 960)
    assert found.flags.c_contiguous
    spread = float(expected.std())
    assert spread > 0.05, "the model's activations are dead: the comparison would mean nothing"
    assert np.abs(found - expected).max() / spread < 1e-3
    cosines = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() > 0.99999


def test_index_and_manifest(real: Project) -> None:
    rows = real.rows()
    index = pd.read_parquet(real.results / BACKBONE / "frame_index.parquet")
    assert list(index.columns) == [*rows.columns, "native_idx", "pts_sec", "offset_sec", "status"]
    assert index["note"].tolist() == rows["note"].tolist()
    assert index["video_id"].tolist() == rows["video_id"].tolist()
    fps = dict(zip(real.video_table()["video_id"], real.video_table()["fps"], strict=True))
    expected = [round(t * fps[v]) for v, t in zip(rows["video_id"], rows["timestamp_sec"], strict=True)]
    assert index["native_idx"].tolist() == expected
    assert np.allclose(index["offset_sec"], index["pts_sec"] - index["timestamp_sec"])
    assert np.abs(index["offset_sec"]).max() <= 0.5 / 25 + 1e-9
    manifest = json.loads((real.results / BACKBONE / "feature_manifest.json").read_text())
    assert manifest["backbone"] == "MobileNetV3-Large"
    assert manifest["weights"] == "live.pth"
    assert manifest["feature_dim"] == 960
    assert manifest["total_frames"] == len(rows)
    assert manifest["alignment_verified"] is True
    assert manifest["order"] == "sequential_per_frame_index"
    assert manifest["verdict"] == "verified"
    assert [video["video_id"] for video in manifest["videos"]] == list(dict.fromkeys(rows["video_id"]))
    assert not list((real.results / "frames").rglob("*.npy")), "temporary frames are left"


def once_more(real: Project, folder: Path, **config: Any) -> Project:
    """The same inputs in a fresh folder, not yet run."""
    again = Project(folder)
    shutil.rmtree(again.videos)
    again.videos.symlink_to(real.videos)
    again.write_index(real.rows(), real.video_table())
    again.config = real.config | config
    return again


def test_same_bytes_from_scratch_whatever_the_order(real: Project, tmp_path: Path) -> None:
    again = once_more(real, tmp_path / "work")
    again.run(cores=1)
    assert digests(again) == digests(real)


def test_same_bytes_without_a_warm_embedder(real: Project, tmp_path: Path) -> None:
    again = once_more(real, tmp_path / "work", warm_embedder=False)
    again.run()
    assert digests(again) == digests(real)
    started = Path("logs", "toy", "embedder")
    assert (real.folder / started).exists(), (
        "an embedder leaves no log here: this test looks at the wrong place"
    )
    assert not (again.folder / started).exists(), "an embedder was started"


def test_snakemake_s_own_report_holds_ours(real: Project) -> None:
    real.run("--report", "own.html")
    text = (real.folder / "own.html").read_text(encoding="utf-8")
    assert "Frame features" in text
    assert "report.html" in text


def test_verify_holds_and_catches_swapped_rows(real: Project, tmp_path: Path, weights: Path) -> None:
    done = real.framefeat("verify", "results/toy", "--weights", str(weights))
    assert done.returncode == 0, done.stdout
    copy = tmp_path / "results"
    shutil.copytree(real.results, copy)
    folder = copy / BACKBONE
    matrix = np.load(folder / "toy_features.npy")
    matrix[[3, 11]] = matrix[[11, 3]]
    np.save(folder / "toy_features.npy", matrix)
    manifest = json.loads((folder / "feature_manifest.json").read_text())
    manifest["matrix_sha256"] = hashlib.sha256((folder / "toy_features.npy").read_bytes()).hexdigest()
    (folder / "feature_manifest.json").write_text(json.dumps(manifest))
    done = real.framefeat("verify", str(copy), "--weights", str(weights))
    assert done.returncode == 1
    assert "features_sha256" in done.stdout
    # Even where every checksum was corrected, the frames themselves tell.
    for entry in manifest["videos"]:
        rows = entry.get("row_numbers") or range(entry["first_row"], entry["last_row"] + 1)
        entry["features_sha256"] = hashlib.sha256(matrix[list(rows)].tobytes()).hexdigest()
    (folder / "feature_manifest.json").write_text(json.dumps(manifest))
    done = real.framefeat("verify", str(copy), "--weights", str(weights), "--rows", "0")
    assert done.returncode == 1
    assert "cosine" in done.stdout


def test_verify_finds_what_was_edited_in_the_manifest(real: Project, tmp_path: Path) -> None:
    """Also where matrix and index are whole: the rest is told again from what is stored of each video."""
    copy = tmp_path / "toy"
    shutil.copytree(real.results, copy)
    path = copy / BACKBONE / "feature_manifest.json"
    whole = json.loads(path.read_text())
    first = whole["videos"][0]
    edits: dict[str, dict[str, Any]] = {
        "alignment_verified is false": {"alignment_verified": False},
        "verdict is": {"verdict": "not verified"},
        "precision is": {"precision": "bf16"},
        "decoder is": {"decoder": "pyav"},
        "alignment is": {"alignment": "pts"},
        "backbone is": {"backbone": "ResNet"},
        "dataset is": {"dataset": "zz"},
        "notes is": {"notes": ["all is well"]},
        "spec describes no backbone": {"spec": {}},
        "total_frames is 'x'": {"total_frames": "x"},
        "rows that it gave before": {"videos": [*whole["videos"], first]},
        "the manifest says decoder is null": {"videos": [first | {"decoder": None}, *whole["videos"][1:]]},
        "the manifest says counts is": {
            "videos": [first | {"counts": {"ok": 0, "clamped": 0, "bad": 20}}, *whole["videos"][1:]]
        },
        "container is 5": {"videos": [first | {"container": 5}, *whole["videos"][1:]]},
    }
    for said, edit in edits.items():
        path.write_text(json.dumps(whole | edit))
        verdict = verify_folder(path.parent, rows_per_video=1, weights=[])
        failures = [*verdict.failures, *(text for video in verdict.videos for text in video.failures)]
        assert len([text for text in failures if said in text]) == 1, (said, failures)
    path.write_text(json.dumps(whole))
    assert verify_folder(path.parent, rows_per_video=1, weights=[]).ok
    os.utime(next((copy / BACKBONE / "features").glob("*.safetensors")))  # as if computed again since
    (later,) = verify_folder(path.parent, rows_per_video=1, weights=[]).warnings
    assert later.startswith("of 1 video what the manifest says could not be compared")


def test_verify_without_the_weights_checks_the_rest(real: Project, tmp_path: Path) -> None:
    done = real.framefeat("verify", "results/toy", "--rows", "1")
    assert done.stdout.endswith("everything holds\n"), "the run's own weights file is remembered"
    copy = tmp_path / "results" / "toy"
    shutil.copytree(real.results, copy)
    cache = (real.folder / ".cache").rename(tmp_path / "cache")
    try:
        done = real.framefeat("verify", str(copy), "--rows", "1")
        refused = real.framefeat("verify", str(copy), "--rows", "1", "--weights", "run.yaml")
    finally:
        cache.rename(real.folder / ".cache")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("features not checked") == 1
    assert done.stdout.endswith("frames and files hold\n")
    assert refused.returncode == 1
    assert refused.stdout.count("features not checked") == 1


def test_a_damaged_video_is_a_finding(new_project: Callable[..., Project]) -> None:
    """Everything else is computed; ``fail`` refuses the matrix, and from there to ``mask`` only the matrix is made."""
    project = new_project(name="damage")
    whole = (project.videos / "b.mp4").read_bytes()
    (project.videos / "b.mp4").write_bytes(b"\0" * 100 + whole[100:])
    told = project.framefeat("plan", "--configfile", "run.yaml").stdout
    assert "on_bad_frames is fail, and 1 video has bad rows: no matrix will be assembled.\n  b: " in told
    done = project.run(check=False)
    assert done.status != 0
    assert "Traceback" not in done.output
    assert done.of("sample_frames", "extract_features") == [
        f"{rule}:{video}" for rule in ("extract_features", "sample_frames") for video in "abc"
    ]
    features = project.results / BACKBONE / "features"
    assert sorted(path.stem for path in features.glob("*.safetensors")) == ["a", "b", "c"]
    assert not (project.results / BACKBONE / "toy_features.npy").exists()
    at_once, _, at_the_end = done.output.partition(" failed:\n")
    assert at_once.count("b.mp4': FFmpeg cannot read this file") == 1
    assert at_the_end.count("b.mp4") == 1
    assert "'b': all 4 rows: " in at_the_end
    assert "1 of 3 videos has bad rows" in at_the_end
    assert "on_bad_frames=mask" in at_the_end
    plan = project.framefeat("plan", "--configfile", "run.yaml").stdout
    assert "0 of 3 videos will be decoded" in plan
    assert "no matrix will be assembled.\n  b: " in plan
    project.config["on_bad_frames"] = "mask"
    assert "will be assembled" in project.framefeat("plan", "--configfile", "run.yaml").stdout
    done = project.run()
    assert sorted(done.jobs) == [f"assemble:{BACKBONE}", "report:toy"]
    index = pd.read_parquet(project.results / BACKBONE / "frame_index.parquet")
    matrix = np.load(project.results / BACKBONE / "toy_features.npy")
    bad = (index["status"] == "bad").to_numpy()
    assert index.loc[bad, "video_id"].unique().tolist() == ["b"]
    assert (index.loc[bad, "native_idx"] == -1).all()
    assert index.loc[bad, ["pts_sec", "offset_sec"]].isna().all(axis=None)
    assert np.isnan(matrix[bad]).all()
    assert np.isfinite(matrix[~bad]).all()
    manifest = json.loads((project.results / BACKBONE / "feature_manifest.json").read_text())
    assert manifest["alignment_verified"] is False
    assert manifest["counts"]["bad"] == 4
    assert "bad" in done.output, "the run must say at its end that rows are bad"
    # Back to fail: the same refusal; and with the file replaced only its own jobs run.
    project.config["on_bad_frames"] = "fail"
    done = project.run(check=False)
    assert (done.status != 0, done.jobs) == (True, [f"assemble:{BACKBONE}"])
    (project.videos / "b.mp4").write_bytes(whole)
    done = project.run()
    assert done.of("sample_frames", "extract_features") == ["extract_features:b", "sample_frames:b"]


def test_without_its_weights_a_run_decodes_nothing(
    new_project: Callable[..., Project], tmp_path: Path
) -> None:
    """Not even with --keep-going; and once the weights are there, it goes on as if nothing had been."""
    from framefeat.backbone.torchvision_table import lookup
    from framefeat.backbone.weights import WeightsRef

    project = new_project(name="no-weights")
    project.config["backbones"] = ["mobilenet_v3_small", BACKBONE]
    project.config["weights"] = {BACKBONE: project.config["weights"]}
    home = without_a_network(tmp_path)
    done = project.run("--keep-going", check=False, env=home)
    assert done.status != 0
    assert done.of("sample_frames", "extract_features", "assemble") == []
    at_the_end = done.output.partition(" failed:\n")[2]
    assert "The weights of mobilenet_v3_small are not on this machine" in at_the_end
    assert "Traceback" not in done.output
    spec = lookup("mobilenet_v3_small", WeightsRef("enum", "IMAGENET1K_V1"), "squash224")
    assert spec is not None
    by_hand = project.folder / "resources" / "weights" / spec["file"]
    foretold = f"resources/weights/{spec['file']} is not there: it will be copied"
    assert foretold in project.framefeat("plan", "--configfile", "run.yaml").stdout
    by_hand.parent.mkdir(parents=True)
    by_hand.touch()
    assert foretold not in project.framefeat("plan", "--configfile", "run.yaml").stdout
    planned = project.run("--dry-run", env=home)
    assert planned.of("merge_index", "fetch_weights") == []
    assert planned.of("sample_frames") == [f"sample_frames:{video}" for video in "abc"]


def without_a_network(home: Path) -> dict[str, str]:
    """Nothing answers and nothing is cached, whatever this machine has."""
    places = dict.fromkeys(("HOME", "TORCH_HOME", "XDG_CACHE_HOME", "HF_HOME"), str(home))
    nobody = "http://127.0.0.1:9"
    return places | {"https_proxy": nobody, "HTTPS_PROXY": nobody, "no_proxy": "", "HF_HUB_OFFLINE": "1"}


def test_weights_that_are_gone_hide_no_change(new_project: Callable[..., Project], tmp_path: Path) -> None:
    """Snakemake looks at nothing of a matrix whose parts it does not know yet: a matrix of other weights, or of another
    decoder, would pass for this one. What needs no weights goes on without them."""
    import timm
    from safetensors.torch import save_file

    name = "mobilenetv3_small_050"
    home = without_a_network(tmp_path)
    project = new_project(("a",), name="weights-gone")
    local = dict(project.config)
    project.run()

    project.config = local | {"weights": "IMAGENET1K_V1"}
    refused = project.run(check=False, env=home)
    assert refused.status != 0
    assert refused.jobs == ["fetch_weights:mobilenet_v3_large-8738ca79.pth"]
    assert "The weights of mobilenet_v3_large are not on this machine" in refused.output

    project.config = local | {"backbones": f"timm:{name}", "weights": "IMAGENET1K_V1"}
    by_hand = project.folder / "resources" / "weights" / f"{name}.lamb_in1k.safetensors"
    by_hand.parent.mkdir(parents=True, exist_ok=True)
    save_file(timm.create_model(name, num_classes=0).state_dict(), by_hand)
    assert len(project.run(env=home).of("extract_features")) == 1
    by_hand.rename(tmp_path / "kept")
    assert project.run(env=home).jobs == []
    before = dict(project.config)
    project.config = before | {"on_bad_frames": "mask"}
    assert set(project.run(env=home).jobs) == {f"assemble:timm_{name}", "report:toy"}
    project.config = before | {"decoder": "pyav"}
    refused = project.run(check=False, env=home)
    assert refused.status != 0
    assert refused.of("sample_frames", "extract_features", "assemble") == []
    project.config = before
    write_clip(project.videos / "a.mp4", seed=9)
    refused = project.run(check=False, env=home)
    assert refused.status != 0
    assert refused.of("sample_frames", "extract_features", "assemble") == []
    by_hand.parent.mkdir(
        parents=True, exist_ok=True
    )  # Snakemake deletes a folder that a failed job leaves empty
    (tmp_path / "kept").rename(by_hand)
    assert project.run(env=home).of("extract_features") == ["extract_features:a"]


def test_a_rate_that_is_not_the_file_s_is_told_everywhere(new_project: Callable[..., Project]) -> None:
    """30 fps in the index, 25 in the file: every row is the frame that was asked for, up to 0.3 s from its time."""
    project = new_project(name="doubtful")
    videos = project.video_table()
    videos["fps"] = [25.0, 30.0, 25.0]
    project.write_index(project.rows(), videos)
    done = project.run()
    ending = done.output[done.output.index("_features.npy: float32") :]
    assert "alignment doubtful" in ending
    assert "1 video doubtful (rows up to 0.300 s from their frames):" in ending
    doubt = "the index says 30 fps, the file has 25: rows are up to 0.300 s from their frame"
    assert f"  b: {doubt}" in ending
    manifest = json.loads((project.results / BACKBONE / "feature_manifest.json").read_text())
    assert manifest["verdict"] == "doubtful"
    assert manifest["alignment_verified"] is True
    assert manifest["doubtful"] == {"videos": 1, "max_abs_offset_sec": pytest.approx(0.3)}
    shown = project.framefeat("show", "results/toy").stdout
    assert "alignment doubtful" in shown
    assert doubt in shown
    verified = project.framefeat("verify", "results/toy").stdout
    assert "everything holds; the verdict of the run stays: doubtful" in verified
    assert [line.split()[-1] for line in verified.splitlines() if line.startswith(("a ", "b ", "c "))] == [
        "verified", "doubtful", "verified"
    ]  # fmt: skip
    page = (project.results / "report.html").read_text(encoding="utf-8")
    assert '<section class="verdict doubtful"' in page
    assert f"b: {doubt}" in page
    assert "Verified: every row" not in page


def test_times_past_the_end(new_project: Callable[..., Project]) -> None:
    """The clips have 60 frames at 25 fps: t = 2.4 is one past the last frame, t = 2.6 is beyond."""
    project = new_project(name="late")
    rows = project.rows()
    late = pd.DataFrame(
        {"video_id": ["a", "c", "a"], "frame_idx": 9, "timestamp_sec": [2.4, 2.6, 99.0], "label": "late"}
    )
    project.write_index(pd.concat([rows, late], ignore_index=True), project.video_table())
    done = project.run(check=False)
    assert done.status != 0
    assert "row 13 ('c')" in done.output
    assert "row 14 ('a')" in done.output
    assert "row 12" not in done.output
    assert done.of("sample_frames") == []
    project.config["on_bad_frames"] = "mask"
    project.run()
    index = pd.read_parquet(project.results / BACKBONE / "frame_index.parquet")
    assert index["status"].tolist()[-3:] == ["clamped", "bad", "bad"]
    assert index["native_idx"].tolist()[-3:] == [59, -1, -1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"backbnes": "x"}, "did you mean 'backbones'"),
        ({"backbones": "mobilenet_v4_large"}, "mobilenet_v3_large"),
        ({"weights": "IMAGENET1K_V9"}, "IMAGENET1K_V1"),
        ({"weights": "nowhere/model.pth"}, "does not exist"),
        ({"frame_index": "nowhere.csv"}, "nowhere.csv"),
        ({"video_root": "nowhere"}, "video_root"),
    ],
)
def test_bad_configuration_is_one_sentence(
    new_project: Callable[..., Project], change: dict, words: str
) -> None:
    project = new_project(name="bad-config")
    project.config |= change
    done = project.run(check=False)
    assert done.status != 0
    assert words in done.output
    assert "Traceback" not in done.output
    assert done.of("sample_frames") == []


def test_any_characters_in_the_names_of_a_folder_and_its_files(
    new_project: Callable[..., Project], clips: Path
) -> None:
    project = new_project(("a",), name="characters")
    folder = project.folder / "set {1} {video} [id] it's: $HOME"
    folder.mkdir()
    for name in ("a:b.mp4", "{w} [t].mp4"):
        shutil.copy(clips / "a.mp4", folder / name)
    os.mkfifo(folder / "pipe.mp4")
    project.config |= {"frame_index": None, "video_index": None, "videos": folder.name}
    project.run("--until", "merge_index")
    assert pd.read_parquet(project.results / "index.parquet")["video_id"].unique().tolist() == [
        "a:b",
        "{w} [t]",
    ]
    left_out = json.loads((project.results / "left_out.json").read_text())
    assert [Path(entry["path"]).name for entry in left_out["files"]] == ["pipe.mp4"]
    (project.folder / "frames{i}.csv").touch()
    project.config |= {"frame_index": "frames{i}.csv", "video_index": "videos.csv"}
    done = project.run(check=False)
    assert "takes what stands in braces for a wildcard" in done.output
    assert "Traceback" not in done.output


def test_a_state_dict_that_does_not_fit(new_project: Callable[..., Project], tmp_path: Path) -> None:
    from tests.models import live_model

    project = new_project(("a",), name="misfit")
    project.write_index(project.rows().head(1), project.video_table().head(1))
    live_model("mobilenet_v3_small", tmp_path / "small.pth")
    project.config["weights"] = str(tmp_path / "small.pth")
    done = project.run(check=False)
    assert done.status != 0
    assert "does not fit mobilenet_v3_large" in done.output


def test_folder_input(tmp_path: Path, weights: Path) -> None:
    project = Project(tmp_path / "work")
    (project.videos / "deep").mkdir()
    write_clip(project.videos / "b.mp4", seed=1, frames=30)
    write_clip(project.videos / "deep" / "Z z.mp4", seed=2, frames=51)
    project.config = {"dataset": "toy", "videos": "videos", "weights": str(weights), "device": "cpu"}
    project.run()
    index = pd.read_parquet(project.results / BACKBONE / "frame_index.parquet")
    assert list(index.columns[:3]) == ["video_id", "frame_idx", "timestamp_sec"]
    assert index["video_id"].tolist() == ["Z z"] * 5 + ["b"] * 3
    assert index["timestamp_sec"].tolist() == [0, 0.5, 1, 1.5, 2, 0, 0.5, 1]
    assert index["frame_idx"].tolist() == [0, 1, 2, 3, 4, 0, 1, 2]


@pytest.mark.skipif(not (SHARED / "tvsum").is_dir(), reason="the TVSum tables are not here")
def test_tvsum_tables_cut_to_three_videos(tmp_path: Path, weights: Path) -> None:
    """The notebook's own index files, Kaggle paths and all, over stand-in videos of the first seconds."""
    ids = ["-esJrBWj2d8", "AwmHb44_ouw", "98MoyGZKHXc"]
    rows = pd.read_parquet(SHARED / "tvsum" / "tvsum_frame_index.parquet")
    rows = rows[rows["video_id"].isin(ids) & (rows["timestamp_sec"] < 2)]
    videos = pd.read_csv(SHARED / "tvsum" / "tvsum_index.csv", dtype={"video_id": str}, keep_default_na=False)
    project = Project(tmp_path / "work")
    for seed, video_id in enumerate(ids):
        write_clip(project.videos / f"{video_id}.mp4", seed=seed, frames=70, fps=30)
    videos = videos[videos["video_id"].isin(ids)].drop(columns="sha256")
    project.write_index(rows, videos)
    project.config["weights"] = str(weights)
    project.run()
    index = pd.read_parquet(project.results / BACKBONE / "frame_index.parquet")
    assert index[["video_id", "frame_idx"]].values.tolist() == rows[["video_id", "frame_idx"]].values.tolist()
    assert np.load(project.results / BACKBONE / "toy_features.npy").shape == (len(rows), 960)


def test_a_wrong_sha256_names_both(new_project: Callable[..., Project]) -> None:
    project = new_project(name="sha")
    videos = project.video_table()
    good = hashlib.sha256((project.videos / "a.mp4").read_bytes()).hexdigest()
    videos["sha256"] = [good, "0" * 64, ""]
    project.write_index(project.rows(), videos)
    done = project.run(check=False)
    assert done.status != 0
    assert "0" * 64 in done.output
    assert hashlib.sha256((project.videos / "b.mp4").read_bytes()).hexdigest() in done.output
    assert good not in done.output
