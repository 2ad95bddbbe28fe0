"""The file of one video: what is read is what was written, whole or not at all."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from framefeat import stored
from framefeat.errors import MachineError
from safetensors.numpy import load_file

RECORD: dict[str, Any] = {
    "z": [1, 0.1, None, True],
    "a": {"problems": ["caf\u00e9 \U0001f3a5", "a name that is not UTF-8: \udcff", '"\\\n\0']},
}
ARRAYS = {
    "features": np.arange(6, dtype=np.float32).reshape(2, 3),
    "thumbnails": stored.as_bytes(b"\xff\xd8"),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    stored.write(tmp_path / "a.b.safetensors", RECORD, ARRAYS)
    return tmp_path / "a.b.safetensors"


def test_what_is_read_is_what_was_written(path: Path) -> None:
    found = stored.read_record(path)
    assert found == RECORD
    assert list(found) == ["z", "a"]
    for name, array in ARRAYS.items():
        read = stored.read_array(path, name)
        assert read.dtype == array.dtype
        assert np.array_equal(read, array)
    assert stored.read_array(path, "thumbnails").tobytes() == b"\xff\xd8"
    assert set(load_file(path)) == set(ARRAYS)
    assert stored.record_or_none(path) == RECORD


@pytest.mark.parametrize("shape", [(0, 4), (0,)])
def test_an_array_may_be_empty(tmp_path: Path, shape: tuple[int, ...]) -> None:
    stored.write(tmp_path / "a", {}, {"features": np.zeros(shape, np.float32)})
    assert stored.read_array(tmp_path / "a", "features").shape == shape
    assert stored.read_record(tmp_path / "a") == {}


def test_the_same_is_the_same_bytes(path: Path, tmp_path: Path) -> None:
    stored.write(tmp_path / "again", dict(RECORD), dict(reversed(ARRAYS.items())))
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_a_copy_with_another_member_is_what_would_have_been_written(path: Path, tmp_path: Path) -> None:
    for value in ("b", "\u00e9\udcff" * 5, ["longer", None, '"']):
        changed = {"z": value}
        assert stored.copy(path, tmp_path / "copy", changed) == RECORD | changed
        stored.write(tmp_path / "written", RECORD | changed, ARRAYS)
        assert (tmp_path / "copy").read_bytes() == (tmp_path / "written").read_bytes()
    assert stored.read_record(path) == RECORD
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="it is not whole"):
        stored.copy(path, tmp_path / "other", {})
    assert not (tmp_path / "other").exists()


def test_the_digest_of_the_arrays(tmp_path: Path) -> None:
    values = ARRAYS["features"]
    stored.write(tmp_path / "a", RECORD, {"features": values})
    assert stored.arrays_sha256(tmp_path / "a") == hashlib.sha256(values.tobytes()).hexdigest()


def test_a_file_cut_short_is_not_there(path: Path, tmp_path: Path) -> None:
    whole = path.read_bytes()
    for length in range(len(whole)):
        (tmp_path / "cut").write_bytes(whole[:length])
        assert stored.record_or_none(tmp_path / "cut") is None, length
    with pytest.raises(ValueError, match="it is not whole"):
        stored.read_array(tmp_path / "cut", "features")


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"\0" * 100, b"\xff" * 100, b'{"key": {}}\n' * 9, os.urandom(1000)], ids=range(6)
)
def test_garbage_is_not_there(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(content)
    assert stored.record_or_none(path) is None
    with pytest.raises(ValueError, match="it is not whole"):
        stored.read_record(path)


def test_a_file_of_another_make_is_not_there(tmp_path: Path) -> None:
    """A safetensors file without a record, as other programs write it, and one whose record is no JSON."""
    from safetensors.numpy import save_file

    for metadata in (None, {"format": "pt"}, {"record": "{"}):
        save_file(dict(ARRAYS), tmp_path / "a", metadata)
        assert stored.record_or_none(tmp_path / "a") is None


def test_what_is_no_file_is_not_there(tmp_path: Path) -> None:
    assert stored.record_or_none(tmp_path) is None
    assert stored.record_or_none(tmp_path / "gone") is None
    assert stored.record_or_none(tmp_path / "gone" / "deeper") is None
    with pytest.raises(FileNotFoundError):
        stored.read_record(tmp_path / "gone")


def test_an_array_that_is_not_in_it(path: Path) -> None:
    with pytest.raises(ValueError, match="it is not whole"):
        stored.read_array(path, "frames")


def test_nan_is_refused_and_the_old_file_stays(path: Path) -> None:
    with pytest.raises(ValueError):
        stored.write(path, {"a": float("nan")}, ARRAYS)
    assert stored.read_record(path) == RECORD
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_what_cannot_be_written_is_the_machine_s_trouble(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.numpy.save_file", full)
    with pytest.raises(MachineError, match="No space left on device"):
        stored.write(path, {}, ARRAYS)
    assert stored.read_record(path) == RECORD
    assert [file.name for file in path.parent.iterdir()] == [path.name]
