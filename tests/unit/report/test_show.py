"""The table in the terminal."""

import io
from pathlib import Path

import numpy as np
import pytest
from framefeat import terminal
from framefeat.errors import UserError
from framefeat.layout import ResultsFolder
from framefeat.report import show

from tests.unit import shard_fixture
from tests.unit.report.report_fixture import colour_features, drawn, leave_out, write_run


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    videos = [
        drawn("good one", [4, 4], seed=1),
        drawn(
            "名前の長い動画",
            [3, 3],
            seed=2,
            bad=[2],
            problems=["frame 2 at 2.000 s: the decoder gave no frame"],
        ),
        drawn("evil\x1b[31m\nid", [3], seed=3),
    ]
    return write_run(tmp_path_factory.mktemp("show"), videos, {"a": colour_features, "b": colour_features})


def shown(*arguments: object) -> str:
    stream = io.StringIO()
    show.run(*arguments, stream=stream)  # type: ignore[arg-type]
    return stream.getvalue()


def test_every_backbone_and_video(results: Path) -> None:
    text = shown(results)
    assert text.count("alignment not verified") == 2
    assert text.count("1 bad row (NaN in the matrix)") == 2
    assert "\x1b" not in text
    lines = text.splitlines()
    assert lines[4].startswith("not verified")  # what is wrong comes first
    assert "1 of 6 rows has no frame; frame 2 at 2.000 s: the decoder gave no frame" in text


def test_doubtful_videos_and_files_left_out(tmp_path: Path) -> None:
    doubt = "the index says 30 fps, the file has 25: rows are up to 0.700 s from their frame"
    results = write_run(tmp_path, [drawn("good", [4], seed=1), drawn("off", [4], seed=2, doubts=[doubt])])
    leave_out(results, "notes.bin\x1b[2J", "no video stream")
    text = shown(results)
    assert "alignment doubtful" in text
    assert "1 video doubtful" in text
    states = [line.split()[0] for line in text.splitlines()[4:6]]
    assert states == ["doubtful", "verified"]
    assert doubt in text
    assert "notes.bin\\x1b[2J: no video stream" in text
    one = shown(results, "off")
    assert "doubtful; read by decord" in one
    assert f"doubtful: {doubt}" in one


def test_columns_stand_under_each_other(results: Path) -> None:
    lines = shown(results / "a").splitlines()[3:]
    place = terminal.width(lines[0][: lines[0].index(" rows") + 5])
    for line, count in zip(lines[1:4], ("6", "8", "3"), strict=True):
        end = next(number for number in range(len(line) + 1) if terminal.width(line[:number]) == place)
        assert line[:end].split()[-1] == count


def test_what_a_terminal_would_obey_is_escaped(results: Path) -> None:
    text = shown(results)
    assert "evil\\x1b[31m\\nid" in text


def test_rows_of_one_video(results: Path) -> None:
    text = shown(results / "a", "good one")
    assert "verified; read by decord" in text
    assert sum("cut?" in line for line in text.splitlines()) == 1
    rows = [line.split() for line in text.splitlines() if line.split()[0].isdigit()]
    assert [row[1] for row in rows] == [f"{number / 2:.3f}" for number in range(8)]


def test_unknown_video(results: Path) -> None:
    with pytest.raises(UserError, match="no video 'good on'; near to it: 'good one'"):
        shown(results, "good on")


def test_terminal(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "90")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()
    show.run(results / "a", stream=stream)
    assert "\x1b[31mnot verified\x1b[0m" in stream.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    for columns in (100, 80, 60):
        monkeypatch.setenv("COLUMNS", str(columns))
        stream, one = Terminal(), Terminal()
        show.run(results / "a", stream=stream)
        show.run(results / "a", "good one", stream=one)
        text = stream.getvalue()
        assert "\x1b" not in text
        path = str(results)  # where tests keep their files is not ours to keep short
        lines = [line for line in (text + one.getvalue()).splitlines() if path[:20] not in line]
        assert max(terminal.width(line) for line in lines) <= columns
        assert "1 of 6 rows has no frame; frame 2 at 2.000 s: the decoder gave no frame" in " ".join(
            text.split()
        )
        assert " bad" in text


def test_of_many_problems_the_first_and_the_command_that_lists_all(tmp_path: Path) -> None:
    problems = [f"frame {number} at {number}.000 s: broken" for number in range(2, 12)]
    results = write_run(
        tmp_path, [drawn("-cut off", [12], seed=1, bad=list(range(2, 12)), problems=problems)]
    )
    text = shown(results)
    assert text.count(": broken") == 5, "beside the number of bad rows"
    assert f"... and 5 more: framefeat show {results / 'colour_grid'} -- '-cut off'" in text
    assert shown(results, "-cut off").count(": broken") == 10
    results = write_run(
        tmp_path / "six", [drawn("a", [12], seed=1, bad=list(range(2, 8)), problems=problems[:6])]
    )
    text = shown(results)
    assert text.count(": broken") == 6
    assert "more:" not in text


def test_a_folder_without_a_matrix_says_why(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Give results/DATASET"):
        shown(tmp_path)
    (tmp_path / "shards").mkdir()
    with pytest.raises(UserError, match=r"made no matrix\.\n'framefeat plan' with"):
        shown(tmp_path)


def test_of_a_run_that_made_no_matrix_the_bad_videos_are_named(tmp_path: Path) -> None:
    results, asked = ResultsFolder(tmp_path), shard_fixture.wanted()
    good, bad, repaired, new = (shard_fixture.record(name) for name in ("good", "bad", "repaired", "new"))
    shard_fixture.write_merge(results, {"shard": [good, bad, repaired, new]})
    shard_fixture.store_evidence(results, asked, good)
    shard_fixture.store_evidence(results, asked, bad, problems=["frame 2: no frame", "frame 3: no frame"])
    former = {**repaired, "fingerprint": "before"}
    shard_fixture.store_evidence(results, asked, former, problems=["frame 7: no frame"])  # type: ignore[arg-type]
    with pytest.raises(UserError) as refused:
        shown(tmp_path)
    heading, named, advice = str(refused.value).splitlines()
    assert heading == f"{tmp_path}: the last run of this data set made no matrix. 1 video has bad rows:"
    assert named == "  - 'bad': frame 2: no frame"
    assert "on_bad_frames=mask" in advice
    with pytest.raises(UserError, match=r"'bad' has bad rows:\n.*frame 2: no frame\n.*frame 3: no frame\n"):
        shown(tmp_path, "bad")
    with pytest.raises(UserError, match="So far nothing speaks against 'repaired'"):
        shown(tmp_path, "repaired")
    with pytest.raises(UserError, match="knows no video 'other'"):
        shown(tmp_path, "other")


def test_matrix_is_not_read_for_the_list(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> np.ndarray:
        raise AssertionError

    monkeypatch.setattr("framefeat.report.gather.read_rows", refuse)
    assert "good one" in shown(results)
