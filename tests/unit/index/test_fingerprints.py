"""What is known of files: remembered where it lasts, and a file that kills its reader costs the others nothing."""

import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest
from framefeat.index import fingerprints
from framefeat.video import container


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers begin with what the test replaced."""
    monkeypatch.setattr(fingerprints, "get_context", lambda _: multiprocessing.get_context("fork"))


@pytest.mark.usefixtures("forked")
def test_a_file_that_kills_its_reader_harms_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def probe(path: str) -> dict[str, Any]:
        if "killer" in path:
            os._exit(9)
        return {"facts": {"frames": 1}, "error": None}

    monkeypatch.setattr(container, "probe", probe)
    alone: list[str] = []
    examine_alone = fingerprints._examine_alone

    def count(path: str, unsure: bool) -> dict[str, Any]:
        alone.append(path)
        return examine_alone(path, unsure)

    monkeypatch.setattr(fingerprints, "_examine_alone", count)
    names = [f"{number}.mp4" for number in range(40)]
    names[20] = "killer.mp4"
    for name in names:
        (tmp_path / name).write_text(name)
    paths = [str(tmp_path / name) for name in names]
    memory = tmp_path / "memory.json"
    found = fingerprints.examine_all(paths, memory, 1, lambda text: None)
    assert [Path(path).name for path in paths if found[path]["error"]] == ["killer.mp4"]
    assert "killed the reader" in found[paths[20]]["error"]
    assert found[paths[20]]["sha256"] == fingerprints.file_sha256(paths[20])
    assert len(alone) <= 3, "the others are read one by one, each in a process of its own"
    remembered = json.loads(memory.read_text())["files"]
    assert set(remembered) == set(paths) - {paths[20]}


def test_facts_that_cannot_be_written_are_the_file_s_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.mp4").write_text("x")
    monkeypatch.setattr(container, "probe", lambda path: {"facts": {"fps": float("nan")}, "error": None})
    found = fingerprints.examine(str(tmp_path / "x.mp4"))
    assert found["facts"] is None
    assert "ValueError" in found["error"]
    assert "Traceback" in capsys.readouterr().err


def test_files_of_one_size_and_time_that_change_places_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of an archive with fixed times, raw formats: size and time tell nothing then."""
    monkeypatch.setattr(container, "probe", lambda path: {"facts": None, "error": None})
    read: list[str] = []

    def here(pending: list[str], unsure: Any, results: dict[str, Any], *_: Any) -> list[str]:
        read.extend(Path(path).name for path in pending)
        results.update({path: fingerprints.examine(path) for path in pending})
        return []

    monkeypatch.setattr(fingerprints, "_examine_in_pool", here)
    paths = [str(tmp_path / name) for name in ("a.y4m", "b.y4m", "c.y4m")]
    for path, text in zip(paths, ("one", "two", "three"), strict=True):
        Path(path).write_text(text)
        os.utime(path, (1, 1))

    def examined() -> list[str]:
        read.clear()
        found = fingerprints.examine_all(paths, tmp_path / "memory.json", 1, lambda text: None)
        assert [found[path]["sha256"] for path in paths] == [fingerprints.file_sha256(path) for path in paths]
        return list(read)

    assert examined() == ["a.y4m", "b.y4m", "c.y4m"]
    assert examined() == []
    os.rename(paths[0], tmp_path / "x")
    os.rename(paths[1], paths[0])
    os.rename(tmp_path / "x", paths[1])
    assert examined() == ["a.y4m", "b.y4m"]
    assert examined() == []
