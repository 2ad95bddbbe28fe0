"""What of a folder is taken, and that everything else is left out in words and never opened."""

import os
import socket
from pathlib import Path

import pytest
from framefeat.errors import UserError
from framefeat.index import folder

from tests.clips import audio_only, noisy


def names(paths: list[str]) -> list[str]:
    return sorted(os.path.basename(path) for path in paths)


def test_names_tell_videos_from_the_rest(tmp_path: Path) -> None:
    for name in (
        "a.mp4",
        "b.GIF",
        "c.h264",
        "d.ts",
        "e",
        "f.xyz",
        "g.txt",
        "h.TXT",
        "i.jpg",
        "j.m4a",
        ".k.mp4",
    ):
        (tmp_path / name).touch()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "l.mp4").touch()
    found = folder.listing(str(tmp_path))
    assert names(found.videos) == ["a.mp4", "b.GIF", "c.h264"]
    assert names(found.unsure) == ["d.ts", "e", "f.xyz"]
    assert found.left_out == []
    assert found.counts == {
        "text and data (.txt)": 2,
        "still images (.jpg)": 1,
        "sound (.m4a)": 1,
        "hidden": 2,
    }
    assert all(os.path.isabs(path) for path in found.videos)


def test_what_is_no_file_is_named_and_a_link_to_nothing_is_a_video_that_is_missed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "gone.mp4").symlink_to("nowhere.mp4")
    (tmp_path / "gone.xyz").symlink_to("nowhere.xyz")
    (tmp_path / "null.mkv").symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as open_socket:
        open_socket.bind(str(tmp_path / "s.avi"))
        found = folder.listing(str(tmp_path))
    assert names(found.videos) == ["gone.mp4"]
    assert {os.path.basename(left.path): left.reason for left in found.left_out} == {
        "pipe.mp4": "it is a named pipe",
        "gone.xyz": "it is a link to nothing",
        "null.mkv": "it is a device",
        "s.avi": "it is a socket",
    }
    with pytest.raises(UserError, match="is a named pipe"):
        folder.listing(str(tmp_path / "pipe.mp4"))


@pytest.mark.parametrize("pattern", ["", "**/*.mp4", "**", "*/*.mp4"])
def test_each_real_folder_is_visited_once(tmp_path: Path, pattern: str) -> None:
    for place in ("in", "in/deep"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "up").symlink_to(tmp_path)
    (tmp_path / "a").symlink_to("in")
    (tmp_path / "in" / "x.mp4").touch()
    found = folder.listing(os.path.join(tmp_path, pattern))
    assert found.videos == [str(tmp_path / "in" / "x.mp4")]


def test_a_linked_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.mp4").touch()
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "link").symlink_to("../elsewhere")
    assert folder.listing(str(tmp_path / "videos")).videos == [str(tmp_path / "videos" / "link" / "x.mp4")]


def test_a_folder_that_cannot_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "x.mp4").touch()
    scandir = os.scandir

    def refuse(path: str):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = folder.listing(str(tmp_path))
    assert names(found.videos) == ["x.mp4"]
    assert [left.reason for left in found.left_out] == ["this folder cannot be read (Permission denied)"]


def test_what_exists_is_a_path_whatever_its_characters(tmp_path: Path) -> None:
    for name in ("talk [id].mp4", "talk i.mp4", "set [1]/x.mp4", "set 1/y.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert names(folder.listing(str(tmp_path / "talk [id].mp4")).videos) == ["talk [id].mp4"]
    assert names(folder.listing(str(tmp_path / "set [1]")).videos) == ["x.mp4"]
    assert names(folder.listing(str(tmp_path / "set [1]" / "*")).videos) == ["y.mp4"]
    assert names(folder.listing(str(tmp_path / "set [[]1]" / "*.mp4")).videos) == ["x.mp4"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("**/*.mp4", ["a.mp4", "b.mp4", "c.mp4"]),
        ("one/**/*.mp4", ["b.mp4", "c.mp4"]),
        ("**/two/*", ["c.mp4"]),
        ("o*/**/t*/*.mp4", ["c.mp4"]),
        ("*.mp4", ["a.mp4"]),
    ],
)
def test_globs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, expected: list[str]) -> None:
    (tmp_path / "one" / "two").mkdir(parents=True)
    for name in ("a.mp4", "one/b.mp4", "one/two/c.mp4", "one/.d.mp4"):
        (tmp_path / name).touch()
    assert names(folder.listing(str(tmp_path / pattern)).videos) == expected
    monkeypatch.chdir(tmp_path)
    assert names(folder.listing(pattern).videos) == expected


def test_content_tells_where_the_name_does_not(tmp_path: Path) -> None:
    import av
    import numpy as np

    image = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
    with av.open(str(tmp_path / "image"), "w", format="image2", options={"update": "1"}) as output:
        stream = output.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "rgb24"
        output.mux([*stream.encode(image), *stream.encode(None)])
    audio_only(tmp_path / "song.mp4").rename(tmp_path / "song")
    noisy(tmp_path / "video.mp4", frames=3).rename(tmp_path / "video")
    (tmp_path / "code.ts").write_text("export const a = 'é';\n", encoding="latin-1")
    (tmp_path / "notes").write_text("#EXTM3U\nhttp://localhost/x.mp4\n")
    (tmp_path / "noise").write_bytes(np.random.default_rng(0).bytes(20_000))
    (tmp_path / "empty").touch()
    reasons = {path.name: folder.why_no_video(str(path)) for path in tmp_path.iterdir()}
    assert reasons.pop("video") is None
    assert reasons.pop("noise").startswith("FFmpeg finds no video in it")
    assert reasons == {
        "image": "it is a still image",
        "song": "there is no video in it (audio only)",
        "code.ts": folder.TEXT,
        "notes": folder.TEXT,
        "empty": "it is empty",
    }


def test_a_name_that_is_no_utf8_has_a_readable_id() -> None:
    assert folder.video_id(os.fsdecode(b"/v/caf\xe9 1.mp4")) == r"caf\xe9 1"
    assert folder.video_id("/v/café.mp4") == "café"


def test_sound_and_still_images_are_named_for_example(tmp_path: Path) -> None:
    for name in ("a.m4a", "b.m4a", "c.m4a", "d.m4a", "x.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"something")
    told = list(folder.sentences(folder.report(folder.listing(str(tmp_path)), {}, [])))
    assert told == [
        "ignored, being no videos: 4 sound (.m4a: a.m4a, b.m4a, c.m4a), 1 still images (.png: x.png), 1 text and data (.txt)"
    ]
