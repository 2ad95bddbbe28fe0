"""The decoders of ``framefeat verify`` may die or hang: a sentence, not a hanging command."""

import hashlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from framefeat import tolerances
from framefeat.backbone import network as networks
from framefeat.errors import UserError
from framefeat.files import remembered_sha256
from framefeat.results import decode_again, verify
from framefeat.video.decord import DecordReader

from tests.clips import made, quiet


@pytest.fixture
def clip() -> str:
    return str(made("h264_no_b.mp4").path)


@pytest.fixture
def decoding() -> Iterator[decode_again.Decoding]:
    process = decode_again.Decoding()
    yield process
    process.end()


def test_frames_come_again_through_another_reader(decoding: decode_again.Decoding, clip: str) -> None:
    differences, frames, unproved = decoding(clip, [0, 3], "decord", "squash224", "packets")
    assert sorted(differences) == sorted(frames) == [0, 3]
    assert set(differences.values()) == {0.0}
    assert unproved == {}
    assert not (frames[0] == frames[3]).all()


def test_a_file_that_cannot_be_read_is_a_sentence(decoding: decode_again.Decoding, tmp_path: Path) -> None:
    (tmp_path / "no.mp4").write_bytes(b"no video")
    with pytest.raises(UserError, match=r"no\.mp4"):
        decoding(str(tmp_path / "no.mp4"), [0], "decord", "squash224", "packets")


def test_frames_that_the_reference_does_not_give_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that is one frame off, in a scene so quiet that a tolerance would let it pass."""
    real = DecordReader._take
    monkeypatch.setattr(DecordReader, "_take", lambda self, number: real(self, number + 1))
    path = str(quiet(tmp_path / "quiet.mp4"))
    differences, _, unproved = decode_again.decode_again(path, [10, 40], "decord", "squash224", "packets")
    assert 0 < max(differences.values()) < 2
    assert sorted(unproved) == [10, 40]


def test_a_decoder_that_hangs(
    decoding: decode_again.Decoding, clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_again, "DECODING_SECONDS", 0.2)
    os.kill(decoding._process.pid or 0, signal.SIGSTOP)
    with pytest.raises(UserError, match="gave nothing"):
        decoding(clip, [0], "decord", "squash224", "packets")


def test_a_decoder_that_dies(decoding: decode_again.Decoding, clip: str) -> None:
    os.kill(decoding._process.pid or 0, signal.SIGKILL)
    decoding._process.join()
    with pytest.raises(UserError, match="killed the decoder"):
        decoding(clip, [0], "decord", "squash224", "packets")


@pytest.mark.parametrize(("precision", "accepted"), [("float32", False), ("bf16", True), ("fp16", True)])
def test_a_devices_rounding_in_half_precision_is_no_fault(precision: str, accepted: bool) -> None:
    """The network runs on the CPU here, and another device may have made the matrix."""
    again: Any = object.__new__(verify.Again)
    again._manifest = {"precision": precision}
    again._network = SimpleNamespace(embed=lambda frames: np.array([[1.0, 0.2]], np.float32))
    stored: Any = SimpleNamespace(native=[0], features=np.array([[1.0, 0.0]], np.float32), rows=[0])
    video: Any = SimpleNamespace(cosine=None, failures=[])
    again._compare(
        stored, np.array([0]), SimpleNamespace(frames={0: np.zeros(1)}, differences={0: 0.0}), video
    )
    assert (video.failures == []) is accepted


@pytest.mark.parametrize("dtype", networks.MOST_DIFFERENT)
def test_what_loading_a_model_accepts_verification_accepts(dtype: Any) -> None:
    least = (
        tolerances.COSINE_OF_SAME_PIXELS_LATER
        if dtype == torch.float32
        else tolerances.COSINE_OF_SAME_PIXELS_LATER_HALF
    )
    assert (1 - networks.MOST_DIFFERENT[dtype] ** 2) ** 0.5 >= least


def test_weights_are_found_where_the_run_had_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere, project = tmp_path / "elsewhere" / "w.pth", tmp_path / "project"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(b"weights")
    remembered_sha256(elsewhere, project / ".cache" / "framefeat" / "files.json")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    manifest = {"weights_sha256": hashlib.sha256(b"weights").hexdigest()}
    results = project / "results" / "mine"
    network = verify.StoredNetwork(manifest, [], results)  # type: ignore[arg-type]
    assert network.is_there()
    elsewhere.write_bytes(b"others")
    network = verify.StoredNetwork(manifest, [], results)  # type: ignore[arg-type]
    assert not network.is_there()
    assert not network.is_there()
    assert network.missing.startswith("features not checked: the weights with sha256")
    assert network.missing.endswith("name their file with --weights")
    network = verify.StoredNetwork(manifest, [elsewhere, tmp_path / "none"], results)  # type: ignore[arg-type]
    assert not network.is_there()
    assert network.missing.endswith(
        f"'{elsewhere}' has sha256 {hashlib.sha256(b'others').hexdigest()[:16]}..."
    )
