"""The report: its numbers, its choice of what is shown, and a page that is whole, bounded and safe."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from framefeat import stored
from framefeat.errors import UserError
from framefeat.report import build, frame_map, gather, numbers, section, stages, thumbs
from framefeat.vectors import row_lengths, unit_rows

from tests.unit.report.report_fixture import colour_features, drawn, leave_out, write_many, write_run

NASTY = "<script>alert('1')</script>"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    videos = [
        drawn("plain", [6, 8, 5], seed=1),
        drawn("hurt", [10, 10], seed=2, bad=[7, 8], problems=["rows 7 and 8: the decoder gave no frame"]),
        drawn(NASTY, [5, 5], seed=3, clamped=[9]),
        drawn("-dash 名前", [4], seed=4, warnings=["the index says 25 fps, the file 24"]),
    ]
    # Interleaved: the rows of a video are not neighbours.
    count = sum(len(video.times) for video in videos)
    order = np.random.default_rng(0).permutation(count)
    return write_run(
        root,
        videos,
        {"one": colour_features, "two": lambda frames: colour_features(frames) ** 2},
        order=order,
    )


def page_data(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


@pytest.fixture(scope="module")
def page(run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("page") / "report.html"
    facts = build.build(
        run, out, benchmarks=run.parents[1] / "benchmarks" / "demo", logs=run.parents[1] / "logs" / "demo"
    )
    assert facts["videos"] == 4
    assert facts["bytes"] == out.stat().st_size
    return out.read_text(encoding="utf-8")


def body(page: str) -> str:
    return page[: page.index('<script type="application/json"')]


def test_page_needs_no_network(page: str) -> None:
    own = body(page)
    assert "default-src 'none'" in own
    assert not re.search(r'(src|href)="(?!#|data:)', own)


def test_page_opens_with_the_verdict(page: str) -> None:
    own = body(page)
    assert own.index("Not verified") < own.index("Look at these first") < own.index('<h2 id="time-title"')
    assert "2 rows of 1 video have no frame" in own
    assert "sample_frames" in own


def test_doubtful_is_amber(tmp_path: Path) -> None:
    doubt = "the index says 30 fps, the file has 25: rows are up to 0.700 s from their frame"
    videos = [drawn("good", [4], seed=1), drawn("off", [4], seed=2, doubts=[doubt], late=0.7)]
    results = write_run(tmp_path, videos)
    leave_out(results, "a <b>.bin", "no video stream")
    build.build(results, tmp_path / "report.html")
    own = body((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert '<section class="verdict doubtful"' in own
    assert "Verified: every row" not in own
    assert "1 video doubtful, rows up to 0.720 s from their frames: off." in own
    assert f"off: {doubt}" in own
    assert '<div class="odd"><dt>Videos</dt>' in own
    assert '<span class="badge level2">doubtful</span>' in own
    assert "a &lt;b&gt;.bin</span>no video stream" in own


def test_no_picture_above_rows_without_a_frame(tmp_path: Path) -> None:
    videos = [drawn("end", [10, 10], seed=1, bad=[4, 17, 18, 19]), drawn("none", [3], seed=2, bad=[0, 1, 2])]
    build.build(write_run(tmp_path, videos), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    shown = {video["id"]: video for video in page_data(page)["backbones"][0]["details"]}
    assert shown["end"]["none"] == [[1.75, 2.25], [8.25, None]]
    assert shown["end"]["cell"] == [0, 1, 2, 3, *range(5, 17)]
    assert shown["end"]["cellTime"][-1] == 8.0
    assert shown["none"]["none"] == [[None, None]]
    assert shown["none"]["cell"] == []
    assert "same video twice" not in body(page)
    assert "0 likely cuts" not in body(page)[body(page).index('id="v-0-0"') :].split("<h3>none</h3>")[1][:300]


def test_stretches_without_a_frame_are_bounded() -> None:
    places = np.arange(20_000)
    status = np.where(places % 2, "bad", "ok")
    video = gather.ReportVideo("a", "a", {}, places, places / 2, np.zeros(len(places)), places, status)
    assert section._without_frame(video) == [[0.25, None]]
    video.status = np.where(places % 200 == 7, "bad", "ok")
    assert len(section._without_frame(video)) == 100


def test_ids_are_data(page: str) -> None:
    assert NASTY not in page
    assert "&lt;script&gt;alert(" in body(page)
    assert page_data(page)["backbones"][0]["map"]["videos"].count(NASTY) == 1


def test_wrong_videos_come_first(page: str) -> None:
    for backbone in page_data(page)["backbones"]:
        assert [video["id"] for video in backbone["details"]][:2] == ["hurt", NASTY]


def test_details_are_those_of_the_matrix(page: str, run: Path) -> None:
    matrix = np.load(run / "one" / "demo_features.npy")
    shown = next(v for v in page_data(page)["backbones"][0]["details"] if v["id"] == "plain")
    rows = matrix[shown["row"]]
    assert shown["time"] == sorted(shown["time"])
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(shown["change"][1:], 1 - (unit[1:] * unit[:-1]).sum(axis=1), atol=1e-3)
    assert shown["change"][0] is None
    assert shown["cuts"] == [3.0, 7.0]  # the scenes begin at samples 6 and 14, at two samples a second
    side = shown["side"]
    similarity = np.frombuffer(base64.b64decode(shown["similarity"]), np.uint8).reshape(side, side)
    assert (np.diag(similarity) == 254).all()
    expected = np.clip((unit @ unit.T - shown["lowest"]) / (1 - shown["lowest"]), 0, 1) * 254
    np.testing.assert_allclose(similarity, expected, atol=1.5)


def test_bad_rows_have_no_similarity_and_no_point(page: str) -> None:
    backbone = page_data(page)["backbones"][0]
    shown = next(v for v in backbone["details"] if v["id"] == "hurt")
    assert shown["status"].count("b") == 2
    side = shown["side"]
    similarity = np.frombuffer(base64.b64decode(shown["similarity"]), np.uint8).reshape(side, side)
    assert (similarity[7:9] == 255).all()
    assert not set(np.array(shown["row"])[[7, 8]]) & set(backbone["map"]["row"])


def test_neighbours_and_pictures_of_the_map(page: str, run: Path) -> None:
    data = page_data(page)
    shown = data["backbones"][0]["map"]
    unit = unit_rows(np.load(run / "one" / "demo_features.npy")[shown["row"]])
    video = np.array(shown["video"])
    for point in (0, len(video) // 2):
        other = np.where(video != video[point], unit @ unit[point], -2)
        assert shown["outside"][point][0][0] == int(other.argmax())
        assert all(video[place] == video[point] for place, _ in shown["inside"][point])
    assert all(0 <= sheet < len(data["sheets"]) for sheet, _ in shown["cell"])


def test_two_backbones_share_their_pictures(page: str) -> None:
    data = page_data(page)
    assert len(data["backbones"]) == 2
    assert len(data["sheets"]) == 4
    assert body(page).count("data-choose=") == 2


def test_one_backbone_folder(run: Path, tmp_path: Path) -> None:
    build.build(run / "two", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert len(page_data(page)["backbones"]) == 1
    assert len(page_data(page)["sheets"]) == 4
    assert "No benchmarks were kept" in page


def test_without_evidence_and_pictures(run: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(run / "one", tmp_path / "demo" / "one")
    build.build(tmp_path / "demo", tmp_path / "report.html")
    data = page_data((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert data["sheets"] == []
    assert len(data["backbones"][0]["map"]["row"]) > 30


def test_damaged_sprite_is_left_out(run: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(run, tmp_path / "demo")
    path = tmp_path / "demo" / "evidence" / "squash224" / "plain.safetensors"
    broken = stored.as_bytes(b"\xff\xd8 no picture")
    stored.write(path, stored.read_record(path), {"thumbnails": broken})
    build.build(tmp_path / "demo", tmp_path / "report.html")
    assert len(page_data((tmp_path / "report.html").read_text(encoding="utf-8"))["sheets"]) == 3


def test_many_videos_stay_bounded(tmp_path: Path) -> None:
    results = write_many(tmp_path, 700, rows=4, dim=16)
    kept = {kind: tmp_path / kind / "many" for kind in ("benchmarks", "logs")}
    facts = build.build(results, tmp_path / "report.html", **kept)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    data = page_data(page)
    assert facts["details"] == build.DETAILS
    assert len(data["backbones"][0]["map"]["row"]) <= frame_map.POINTS
    assert body(page).count('<tr><th scope="row">') <= section.TABLE_ROWS + 10
    flagged = [
        video["id"] for video in data["backbones"][0]["details"] if int(video["id"].split()[1]) % 10 == 0
    ]
    assert 30 <= len(flagged) < build.DETAILS  # the warned ones first, with room for others
    assert facts["bytes"] < 12e6


def test_mismatched_results_are_refused(run: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(run / "one", tmp_path / "one")
    np.save(tmp_path / "one" / "demo_features.npy", np.zeros((3, 4), np.float32))
    with pytest.raises(UserError, match="the matrix has 3 rows"):
        build.build(tmp_path / "one", tmp_path / "report.html")
    with pytest.raises(UserError, match=r"no feature_manifest\.json"):
        build.build(tmp_path / "nothing", tmp_path / "report.html")


# --- numbers


def test_changes_and_cuts() -> None:
    scenes = np.repeat(np.eye(3, 8), [5, 4, 6], axis=0) + 0.01 * np.random.default_rng(0).random((15, 8))
    unit, norms = unit_rows(scenes), row_lengths(scenes)
    assert norms == pytest.approx(np.linalg.norm(scenes, axis=1), rel=1e-6)
    change = numbers.changes(unit)
    assert np.isnan(change[0])
    assert numbers.likely_cuts(change).tolist() == [5, 9]
    assert numbers.likely_cuts(np.zeros(5, np.float32)).size == 0
    assert numbers.likely_cuts(np.full(3, np.nan)).size == 0


def test_short_scenes_are_cuts_too() -> None:
    """Where nearly every row begins a scene, the usual change is itself that of a cut."""
    unit = unit_rows(np.repeat(np.eye(6, 8), [2, 2, 2, 2, 2, 2], axis=0).astype(float))
    change = numbers.changes(unit)
    assert numbers.likely_cuts(change, numbers.typical_change(unit)).tolist() == [2, 4, 6, 8, 10]


def test_telling_rows_keep_every_peak() -> None:
    importance = np.zeros(10_000)
    importance[[17, 5000, 9999]] = 5
    kept = numbers.telling_rows(importance, 400)
    assert len(kept) == 400
    assert {17, 5000, 9999} <= set(kept.tolist())
    assert (np.diff(kept) > 0).all()


def test_principal_plane_is_that_of_the_singular_values() -> None:
    for shape in ((30, 7), (7, 30)):
        rows = np.random.default_rng(1).random(shape)
        plane = numbers.principal_plane(rows)
        values = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)
        assert np.linalg.norm(plane.xy, axis=0) == pytest.approx(values[:2], rel=1e-4)
        assert plane.explained[0] == pytest.approx(values[0] ** 2 / (values**2).sum(), rel=1e-4)
    assert numbers.principal_plane(np.zeros((1, 4))).xy.shape == (1, 2)
    assert numbers.principal_plane(np.arange(3.0)[:, None]).xy.shape == (3, 2)


def test_histogram_of_little() -> None:
    assert numbers.histogram(np.array([np.nan]))["counts"] == []
    assert sum(numbers.histogram(np.full(9, 2.5))["counts"]) == 9
    assert sum(numbers.histogram(np.random.default_rng(0).normal(size=9000))["counts"]) == 9000


def test_long_video_is_measured_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = write_run(tmp_path, [drawn("long", [9, 9, 9], seed=5)])
    whole = gather.read_backbone(results / "colour_grid")
    gather.measure(whole)
    monkeypatch.setattr(gather, "_CHUNK_ROWS", 4)
    pieces = gather.read_backbone(results / "colour_grid")
    gather.measure(pieces)
    np.testing.assert_allclose(pieces.changes, whole.changes, atol=1e-6)
    np.testing.assert_array_equal(pieces.norms, whole.norms)


def test_reasons() -> None:
    def video(number: int, **entry: object) -> gather.ReportVideo:
        places = np.arange(4)
        given = {"verified": True, "fps": 25.0, "features_sha256": str(number), **entry}
        return gather.ReportVideo(
            str(number), str(number), given, places, places / 2, np.zeros(4), places, np.full(4, "ok")
        )

    backbone = gather.Backbone(Path(), {}, np.zeros((4, 2)), [
        video(0), video(1, features_sha256="same"), video(2, features_sha256="same"), video(3, verified=False), video(4, doubts=["far"], verdict="doubtful"),
        video(5, features_sha256="NaN"), video(6, features_sha256="NaN"),
    ])  # fmt: skip
    nothing = np.full(4, "bad")
    for place in (5, 6):
        backbone.videos[place].status = nothing
    gather.judge(backbone)
    assert [one.severity for one in backbone.videos][:5] == [0, 1, 1, 3, 2]
    assert "2: the same video twice?" in backbone.videos[1].reasons[0][1]
    assert backbone.videos[4].reasons == [(2, "far")]
    assert not any("twice" in text for one in backbone.videos[5:] for _, text in one.reasons)
    assert gather.by_concern(backbone.videos)[0] == 3


def write_job(root: Path, job: str, measured: str, log: str = "") -> None:
    for kind, suffix, text in (
        ("benchmarks", ".tsv", f"s\th:m:s\tmax_rss\tcpu_time\n{measured}"),
        ("logs", ".log", log),
    ):
        path = root / kind / (job + suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_stages_add_up(tmp_path: Path) -> None:
    """Frames are those that the jobs worked on: of shards of several videos, and of what a run left to do."""
    two = "--- a: new\nworked on 1 of 1 videos, 9 rows\nworked on 2 of 3 videos, 30 rows\n"
    write_job(tmp_path, "sample_frames/squash224/shard+00of64", "2.0\t0:00:02\t100.5\t1.5\n", two)
    write_job(
        tmp_path,
        "sample_frames/squash224/shard+01of64",
        "2.0\t0:00:02\tNA\t-\n",
        "worked on 1 of 1 videos, 10 rows\n",
    )
    (tmp_path / "benchmarks" / "merge_index").mkdir()
    (tmp_path / "benchmarks" / "merge_index" / "merge_index.tsv").write_text("")
    folders = tmp_path / "benchmarks", tmp_path / "logs"
    merge, sample = stages.read_stages(*folders, ["shard+00of64", "shard+01of64"])
    assert merge.seconds == 0
    assert (sample.jobs, sample.seconds, sample.cpu_seconds, sample.max_rss_mb) == (2, 4.0, 1.5, 100.5)
    assert sample.frames_per_second == 10
    assert sample.rates == [15, 5]
    assert stages.read_stages(tmp_path / "none", None, []) == []


def test_jobs_of_shards_that_are_no_more_do_not_count(tmp_path: Path) -> None:
    """As after the collection doubled, or a video left it."""
    for shard in ("gone", "shard+00of64", "shard+000of128"):
        for rule in ("sample_frames/squash224", "extract_features/net"):
            write_job(
                tmp_path, f"{rule}/{shard}", "1.0\t0:00:01\t50\t1\n", "worked on 2 of 2 videos, 6 rows\n"
            )
    write_job(tmp_path, "assemble/net/net", "1.0\t0:00:01\t50\t1\n")
    found = stages.read_stages(tmp_path / "benchmarks", tmp_path / "logs", {"shard+000of128"})
    assert [(stage.label, stage.jobs, stage.frames) for stage in found] == [
        ("sample_frames · squash224", 1, 6), ("extract_features · net", 1, 6), ("assemble · net", 1, 0),
    ]  # fmt: skip


def test_jobs_without_a_log_have_no_rate(tmp_path: Path) -> None:
    write_job(tmp_path, "sample_frames/squash224/a", "2.0\t0:00:02\t100\t1\n", "killed")
    for logs in (tmp_path / "logs", tmp_path / "none", None):
        (stage,) = stages.read_stages(tmp_path / "benchmarks", logs, {"a"})
        assert (stage.jobs, stage.frames_per_second, stage.rates) == (1, None, [])


def test_large_sprites_are_made_smaller() -> None:
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (200, 24 * 300, 3)).astype(np.uint8)
    payload = io.BytesIO()
    Image.fromarray(noise).save(payload, "JPEG", quality=95)
    sheet = thumbs.sprite(payload.getvalue(), 24, 100_000)
    assert sheet is not None
    assert len(sheet.source) < 100_000 * 1.4
    assert sheet.width / sheet.height == pytest.approx(1.5, rel=0.1)
