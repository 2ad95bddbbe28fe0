"""The last lines of a run, and of one that failed."""

import os
from pathlib import Path

import pytest
from framefeat.files import write_json
from framefeat.layout import ResultsFolder
from framefeat.report.build import build
from framefeat.run import outcome

from tests.unit.report.report_fixture import colour_features, drawn, leave_out, write_run


def test_a_good_run_is_one_line(tmp_path: Path) -> None:
    results = write_run(tmp_path, [drawn("good", [4])])
    (line,) = outcome.lines(results, ["colour_grid"])
    assert line.endswith("float32 (4, 192), 1 video, alignment verified")


def test_a_good_run_names_the_report_and_the_next_command(tmp_path: Path) -> None:
    results = ResultsFolder(write_run(tmp_path, [drawn("good", [4])]))
    one = ("demo", ["colour_grid"])
    assert list(outcome.next_steps(results, "demo", ["not", "these"])) == []
    assert list(outcome.next_steps(results, *one)) == [f"next: framefeat show {results.root}"]
    build(results.root, results.report, one[1])
    assert list(outcome.next_steps(results, *one)) == [
        f"report: {results.report}",
        f"next: framefeat show {results.root}",
    ]


def test_a_report_of_other_results_is_not_named(tmp_path: Path) -> None:
    results = ResultsFolder(
        write_run(tmp_path, [drawn("good", [4])], {"a": colour_features, "b": colour_features})
    )
    build(results.root, results.report)

    def named(*backbones: str) -> bool:
        return "report: " in "".join(outcome.next_steps(results, "demo", backbones))

    assert named("a", "b")
    assert not named("a"), "it has more"
    assert not named("b", "a"), "in another order"
    manifest = results.backbone("a").manifest
    _make_newer(manifest, results.report)
    assert named("a", "b"), "the same content, again"
    manifest.write_text(manifest.read_text() + "\n")
    _make_newer(manifest, results.report)
    assert not named("a", "b")
    results.report.write_text(
        results.report.read_text(encoding="utf-8").replace("framefeat-drawn-of", "other")
    )
    _make_newer(results.report, manifest)
    assert named("a", "b"), "a page that does not say goes by its time"
    _make_newer(manifest, results.report)
    assert not named("a", "b")


def _make_newer(path: Path, than: Path) -> None:
    time = than.stat().st_mtime_ns + 1_000_000_000
    os.utime(path, ns=(time, time))


def test_paths_are_named_as_they_are_seen_from_where_snakemake_was_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    results = ResultsFolder(write_run(Path(), [drawn("good", [4])]))
    (line,) = outcome.lines(results.root, ["colour_grid"], Path("my work"))
    assert line.startswith(f"my work/{results.root}/colour_grid/")
    assert (
        list(outcome.next_steps(results, "demo", ["colour_grid"], Path("my work")))[-1]
        == f"next: framefeat show 'my work/{results.root}'"
    )


def test_doubtful_videos_are_told_as_bad_ones_are(tmp_path: Path) -> None:
    doubt = "the index says 30 fps, the file has 25: rows are up to 0.700 s from their frame"
    videos = [drawn("good", [4], seed=1), drawn("off", [4], seed=2, doubts=[doubt], late=0.7)]
    results = write_run(tmp_path, videos)
    first, *others = outcome.lines(results, ["colour_grid"])
    assert first.endswith("alignment doubtful")
    assert others == ["1 video doubtful (rows up to 0.720 s from their frames):", f"  off: {doubt}"]
    videos += [drawn("hurt", [4], seed=3, bad=[1], problems=["frame 1 at 1.000 s: broken"])]
    videos += [drawn("unlike", [4], seed=4, verified=False, warnings=["two decodes differ"])]
    results = write_run(tmp_path / "worse", videos)
    leave_out(results, "notes.bin", "no video stream")
    first, *others = outcome.lines(results, ["colour_grid"])
    assert first.endswith("alignment not verified")
    assert [line for line in others if line.startswith("  ")] == [
        "  hurt: 1 of 4 rows; frame 1 at 1.000 s: broken",
        "  unlike: two decodes differ",
        f"  off: {doubt}",
        "  notes.bin: no video stream",
    ]
    assert others[-1] == "ignored, being no videos: 2 text (.md)"


def test_long_lists_are_cut(tmp_path: Path) -> None:
    results = write_run(tmp_path, [drawn(f"v{number}", [2], doubts=["far"]) for number in range(25)])
    assert list(outcome.lines(results, ["colour_grid"]))[-1] == (
        "  ... and 5 more videos; framefeat show lists them all"
    )


def test_a_list_of_problems_is_not_cut_at_its_heading(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "a.log"
    log.parent.mkdir()
    log.write_text(
        "a warning\nframefeat extract: Weights file w.pth does not fit resnet18:\n  - no fc.bias\n  - no fc.weight\n"
    )
    said = list(outcome.failures([log.parent], 0, "snakemake --cores 4"))
    assert said[:3] == ["1 job failed:", "  Weights file w.pth does not fit resnet18:", "    - no fc.bias"]
    assert said[-1] == "  snakemake --cores 4"


def test_a_sentence_that_names_another_command_is_whole(tmp_path: Path) -> None:
    said = "'x.h5' exists and framefeat did not write it: give another name."
    (tmp_path / "a.log").write_text(f"framefeat export-h5: {said}\n")
    assert f"  {said}" in list(outcome.failures([tmp_path], 0, "snakemake"))


def test_what_two_jobs_say_is_said_once_and_not_at_any_length(tmp_path: Path) -> None:
    """Two backbones are refused for the same damaged videos."""
    listed = "".join(f"  - 'v{number}': damaged\n" for number in range(30))
    for name in ("a", "b"):
        (tmp_path / f"{name}.log").write_text(
            f"framefeat assemble: 30 videos have bad rows:\n{listed}Mend them.\n"
        )
    said = list(outcome.failures([tmp_path, tmp_path / "no such"], 0, "snakemake"))
    assert said[0] == "2 jobs failed:"
    assert sum("'v3'" in line for line in said) == 1
    assert not any("'v25'" in line for line in said)
    assert said[22:24] == ["    ... and 10 more; the log lists them all", "  Mend them."]
    assert f"    log: {tmp_path / 'a.log'}, {tmp_path / 'b.log'}" in said


def test_what_slows_every_run_is_said_once(tmp_path: Path) -> None:
    slow = {"device": "cpu", "warnings": ["m is not folded: no such operator."]}
    manifest = {
        "alignment_verified": True, "dataset": "d", "total_frames": 1, "feature_dim": 2, "videos": [],
        "computed_by": [slow, {**slow, "device": "NVIDIA Test"}],
    }  # fmt: skip
    (tmp_path / "m").mkdir()
    write_json(tmp_path / "m" / "feature_manifest.json", manifest)
    assert list(outcome.lines(tmp_path, ["m"]))[1:] == slow["warnings"]
