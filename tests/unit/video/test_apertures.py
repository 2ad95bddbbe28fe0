"""Crops that only the container knows, read from headers that the tests write byte by byte."""

import struct
from pathlib import Path

import pytest
from framefeat.video.apertures import asked_crop

from tests import clips


def box(kind: bytes, *contents: bytes) -> bytes:
    body = b"".join(contents)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def movie(width: int, height: int, clap: tuple[int, int], track: int = 1, version: int = 0) -> bytes:
    aperture = box(b"clap", struct.pack(">8i", clap[0], 1, clap[1], 1, 0, 1, 0, 1))
    entry = bytes(24) + struct.pack(">HH", width, height) + bytes(50) + aperture
    described = box(b"stsd", struct.pack(">II", 0, 1), box(b"avc1", entry))
    head = bytes([version, 0, 0, 0]) + bytes(16 if version else 8) + struct.pack(">I", track) + bytes(60)
    media = box(b"mdia", box(b"minf", box(b"stbl", described)))
    return (
        box(b"ftyp", b"isom")
        + box(b"free", bytes(100))
        + box(b"moov", box(b"trak", box(b"tkhd", head), media))
    )


def element(number: int, content: bytes) -> bytes:
    name = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return name + (len(content) | 1 << 28).to_bytes(4, "big") + content


def matroska(crops: dict[int, int], track: int = 1) -> bytes:
    video = b"".join(element(number, size.to_bytes(2, "big")) for number, size in crops.items())
    entry = element(0xAE, element(0xD7, bytes([track])) + element(0xE0, video))
    rest = element(0x114D9B74, bytes(10)) + element(0x1654AE6B, entry) + element(0x1F43B675, bytes(50))
    return element(0x1A45DFA3, b"\x42\x82\x84webm") + element(0x18538067, rest)


@pytest.mark.parametrize("version", [0, 1])
def test_a_clean_aperture_is_told(tmp_path: Path, version: int) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(movie(160, 128, (96, 64), track=2, version=version))
    assert asked_crop(str(path), "mov,mp4", 2) == "a clean aperture of 96 x 64 of its 160 x 128 pixels"
    assert asked_crop(str(path), "mov,mp4", 1) is None


def test_an_aperture_of_all_pixels_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(movie(160, 128, (160, 128)))
    assert asked_crop(str(path), "mov,mp4", 1) is None


def test_a_crop_of_matroska_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    path.write_bytes(matroska({0x54BB: 20, 0x54CC: 300}))
    assert asked_crop(str(path), "matroska,webm", 1) == "a crop of 20 pixels (top), 300 pixels (left)"
    assert asked_crop(str(path), "matroska,webm", 2) is None
    path.write_bytes(matroska({}))
    assert asked_crop(str(path), "matroska,webm", 1) is None


@pytest.mark.parametrize(
    "file", ["cfr_25.mp4", "h264_b.mkv", "h264_b.mov", "vp9.webm", "h264_fragmented.mp4"]
)
def test_ordinary_files_ask_for_none(file: str) -> None:
    path = clips.made(file).path
    names = "matroska,webm" if path.suffix in (".mkv", ".webm") else "mov,mp4"
    assert asked_crop(str(path), names, 1) is None


@pytest.mark.parametrize("whole", [movie(160, 128, (96, 64)), matroska({0x54BB: 20})])
@pytest.mark.parametrize("name", ["mov,mp4", "matroska,webm"])
def test_cut_headers_raise_nothing(tmp_path: Path, whole: bytes, name: str) -> None:
    path = tmp_path / "cut"
    for length in range(0, len(whole), 3):
        path.write_bytes(whole[:length])
        asked_crop(str(path), name, 1)
