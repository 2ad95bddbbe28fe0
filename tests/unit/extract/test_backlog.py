"""Decoders wait while many shards' frames lie on the disk, and only for a device that uses them up."""

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from framefeat.environment import OWNER
from framefeat.extract import backlog, client, devices


@pytest.fixture
def slots(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder in which jobs hold devices, of a run whose Snakemake is this process."""
    owner = devices.process_identity(os.getpid())
    monkeypatch.setenv(OWNER, owner)
    folder = client.runtime_folder(owner)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    folder = tmp_path / "sampled"
    folder.mkdir()
    for name in ("a.frames", "b.b.frames", "c.json", "d.json", ".tmp-x-c.frames"):
        (folder / name).touch()
    return folder


def waits(frames: Path, most: int) -> bool:
    """Whether a decoder is held up."""
    decoder = threading.Thread(target=backlog.wait_for_room, args=(frames, most), daemon=True)
    decoder.start()
    decoder.join(0.5)
    return decoder.is_alive()


def test_it_waits_until_frames_are_used_up(slots: Path, frames: Path) -> None:
    with devices.hold(lambda: slots, ["0"]):
        decoder = threading.Thread(target=backlog.wait_for_room, args=(frames, 2), daemon=True)
        decoder.start()
        time.sleep(0.5)
        assert decoder.is_alive()
        (frames / "a.frames").unlink()
        decoder.join(10)
        assert not decoder.is_alive()


def test_shards_without_frames_and_half_written_files_do_not_count(slots: Path, frames: Path) -> None:
    with devices.hold(lambda: slots, ["0"]):
        assert not waits(frames, 3)


def test_an_idle_device_is_not_waited_for(slots: Path, frames: Path) -> None:
    with devices.hold(lambda: slots, ["0"]):
        pass
    assert not waits(frames, 1)


def test_by_hand_nothing_is_waited_for(frames: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(OWNER, raising=False)
    assert not waits(frames, 1)


def test_no_frames_yet(slots: Path, tmp_path: Path) -> None:
    with devices.hold(lambda: slots, ["0"]):
        assert not waits(tmp_path / "none", 1)
