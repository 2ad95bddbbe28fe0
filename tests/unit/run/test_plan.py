"""``framefeat plan`` where a person is mistaken; what it foretells is compared with real runs in tests/workflow and
tests/edits."""

import json
import shutil
from pathlib import Path

import pytest
from framefeat import settings
from framefeat.errors import UserError
from framefeat.layout import ResultsFolder
from framefeat.run import plan as run_plan

from tests.unit.shard_fixture import record, store_evidence, store_features, write_merge


def test_videos_that_are_done_are_counted_across_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the words after an interruption: with every backbone, and whether or not a shard is done."""
    wanted = settings.resolve(
        {"dataset": "toy", "videos": str(tmp_path), "backbones": ["resnet18", "resnet50"]}
    )
    asked = run_plan.wanted_of(wanted, run_plan.chosen_backbones(wanted))
    results = ResultsFolder(tmp_path)
    write_merge(results, {"shard+0of2": [record("a"), record("b")], "shard+1of2": [record("c")]})
    assert run_plan.videos_done(wanted, results) == (0, 3)
    for video in "ab":
        for geometry in asked.geometries:
            store_evidence(results, asked, record(video), geometry)
    for video, backbones in {"a": asked.backbones, "b": asked.backbones[:1]}.items():
        for backbone in backbones:
            store_features(results, backbone, video)
    assert run_plan.videos_done(wanted, results) == (1, 3)
    store_features(results, asked.backbones[1], "b")
    assert run_plan.videos_done(wanted, results) == (2, 3)


def test_videos_that_leave_are_known_after_a_merge_that_failed(tmp_path: Path) -> None:
    """Snakemake has deleted what the one before it left; the matrices tell which videos they hold."""
    results = ResultsFolder(tmp_path)
    write_merge(results, {"a+b": [record("a b")]})
    assert run_plan._ids_before(run_plan.Merged(results).slices, results) == {"a b"}
    manifest = results.backbone("resnet18").manifest
    manifest.parent.mkdir(parents=True)
    manifest.write_text(
        json.dumps(
            {
                "total_frames": 2,
                "feature_dim": 1,
                "videos": [
                    {"video_id": name, "first_row": row, "last_row": row}
                    for row, name in enumerate(("a b", "c"))
                ],
            }
        )
    )
    shutil.rmtree(results.shards)
    assert run_plan._ids_before(run_plan.Merged(results).slices, results) == {"a b", "c"}
    manifest.write_text("{")
    assert run_plan._ids_before(run_plan.Merged(results).slices, results) == set()


def test_without_a_configuration_there_are_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_plan.configuration() == {}
    with pytest.raises(
        UserError, match=r"names no input, and the example's folder 'resources/example' is not below"
    ):
        run_plan.run()
    with pytest.raises(UserError, match=r"folders that do not exist[^$]*frame_index: 'gone.csv'"):
        run_plan.run(entries=["frame_index=gone.csv", "video_index=gone.csv"])


@pytest.mark.parametrize("content", [None, b"a: [", b"\xff\xfe", b"- a\n- b\n", b"words"])
def test_what_is_no_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config").mkdir()
    Path("config/config.yaml").write_text("dataset: a\n")
    mine = tmp_path / "mine.yaml"
    if content is not None:
        mine.write_bytes(content)
    with pytest.raises(UserError, match=r"mine.yaml.*no configuration"):
        run_plan.configuration([mine])


def test_command_line_values_are_read_as_snakemake_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parse_config = pytest.importorskip("snakemake.cli").parse_config
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("weights: {a: x.pth}\ndataset: a\n")
    (tmp_path / "b.yaml").write_text("weights: {b: y.pth}\nalignment: pts\n")
    entries = [
        "dataset=2024", "sample_fps=0.5", "keep_frames=True", "warm_embedder=false", "videos='my films'",
        "frame_index=", "backbones=[resnet18, resnet50]", "weights={c: z.pth}", "annotations=a: [", "video_root=null",
    ]  # fmt: skip
    config = run_plan.configuration([tmp_path / "a.yaml", tmp_path / "b.yaml"], entries)
    said = parse_config(entries)
    assert config == {"alignment": "pts", **said, "weights": {"a": "x.pth", "b": "y.pth", "c": "z.pth"}}
    assert type(config["dataset"]) is type(said["dataset"])
    for wrong in ("dataset", "=a", "2=a"):
        with pytest.raises(UserError, match="KEY=VALUE"):
            run_plan.configuration([tmp_path / "a.yaml"], [wrong])


def test_the_folder_of_the_results_is_named_as_the_reader_sees_it() -> None:
    changes = run_plan.Changes(
        dataset="mine", results="sub/results/mine", merges=[], redraws=False, sample={}, extract={}, taken_over={}, removed=["gone"],
        videos=1, rows_changed=True, assemble=[], refused={}, missing=[], lost=[], weights=[], damaged=[],
    )  # fmt: skip
    told = "\n".join(run_plan.sentences(changes, Path("my work")))
    assert told.splitlines()[-2].endswith("framefeat stale 'my work/sub/results/mine' --delete")


@pytest.mark.parametrize(
    ("asked", "left_out", "told"),
    [
        (None, None, []),  # by hand
        ("[]", None, ["files of the last merge are not whole"]),
        ('{"collection": "other"}', None, ["a table or a file came, went or changed"]),
        ('{"collection": "other", "drop": true}', None, ["a table or a file", "on_bad_frames changed"]),
        ('{"sample_every": "15"}', None, ["sample_every changed"]),
        (
            '{"collection": "other"}',
            {"unread": [{"path": "b.mp4"}]},
            ["looked at again by each run ('b.mp4')"],
        ),
    ],
)
def test_why_the_index_is_merged_again(
    tmp_path: Path, asked: str | None, left_out: object, told: list[str]
) -> None:
    """``asked``: what of it was another in the last merge."""
    wanted = settings.resolve({"dataset": "toy", "videos": str(tmp_path / "clips")})
    results = ResultsFolder(tmp_path)
    write_merge(results, {"a": [record("a")]})
    results.left_out.write_text(json.dumps(left_out or {}))
    now = run_plan.asked_of_merge(wanted, run_plan.stat_digest(wanted, results.root))
    if asked is not None:
        before = json.loads(asked)
        results.merged.write_text(json.dumps({**now, **before} if isinstance(before, dict) else before))
    reasons = run_plan._merges_again(wanted, results)
    assert len(reasons) == len(told)
    for reason, words in zip(reasons, told, strict=True):
        assert words in reason
    results.index.unlink()
    assert run_plan._merges_again(wanted, results) == ["files of the last merge are not there"]
