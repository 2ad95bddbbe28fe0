"""The last lines of a run, and of one that failed."""

from pathlib import Path

from framefeat import outcome

from tests.unit.report_fixture import drawn, leave_out, write_run


def test_a_good_run_is_one_line(tmp_path: Path) -> None:
    results = write_run(tmp_path, [drawn("good", [4])])
    (line,) = outcome.lines(results, ["colour_grid"])
    assert line.endswith("float32 (4, 192), 1 videos, alignment verified")


def test_doubtful_videos_are_told_as_bad_ones_are(tmp_path: Path) -> None:
    doubt = "the index says 30 fps, the file has 25: rows are up to 0.700 s from their frame"
    videos = [drawn("good", [4], seed=1), drawn("off", [4], seed=2, doubts=[doubt], late=0.7)]
    results = write_run(tmp_path, videos)
    first, *others = outcome.lines(results, ["colour_grid"])
    assert first.endswith("alignment doubtful")
    assert others == ["1 video(s) doubtful (rows up to 0.720 s from their frames):", f"  off: {doubt}"]
    videos += [drawn("hurt", [4], seed=3, bad=[1], problems=["row 1: broken"])]
    videos += [drawn("unlike", [4], seed=4, verified=False, warnings=["two decodes differ"])]
    results = write_run(tmp_path / "worse", videos)
    leave_out(results, "notes.bin", "no video stream")
    first, *others = outcome.lines(results, ["colour_grid"])
    assert first.endswith("alignment not verified")
    assert [line for line in others if line.startswith("  ")] == [
        "  hurt: 1 of 4 rows; row 1: broken",
        "  unlike: two decodes differ",
        f"  off: {doubt}",
        "  notes.bin: no video stream",
    ]
    assert others[-1] == "left out as no videos: 2 text (.md)"


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
    said = list(outcome.failures(log.parent, 0, "snakemake --cores 4"))
    assert said[1] == "  Weights file w.pth does not fit resnet18: - no fc.bias"
    assert said[-1] == "  snakemake --cores 4"
