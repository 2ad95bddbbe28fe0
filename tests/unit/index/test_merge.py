"""The merge on real files: no file and no name ends it, and what it writes says what became of each."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from framefeat.errors import UserError
from framefeat.identity import sample_key
from framefeat.index import fingerprints, merge, stamp
from framefeat.layout import LEFT_OUT, ResultsFolder
from framefeat.settings import resolve
from framefeat.shard_files import read_records
from framefeat.video import container

from tests.clips import audio_only, cut_short, noisy


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One second at 30 fps."""
    return noisy(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=30)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are examined without worker processes: faster, and what a test replaces holds there as well."""

    def examine_here(pending, unsure, results, workers, say):
        results.update({path: fingerprints.examine(path, path in unsure) for path in pending})
        return []

    monkeypatch.setattr(fingerprints, "_examine_in_pool", examine_here)


def merged(tmp_path: Path, videos: Path | str, **config: Any) -> dict[str, dict[str, Any]]:
    """Merge a folder; the records by id, and ``left_out.json`` under the empty id."""
    out = tmp_path / "out"
    merge.merge(resolve({"dataset": "t", "videos": str(videos)} | config), out)
    results = ResultsFolder(out)
    records = [record for shard in results.shard_names() for record in read_records(results, shard).values()]
    return {record["video_id"]: record for record in records} | {"": json.loads((out / LEFT_OUT).read_text())}


def rows(tmp_path: Path) -> pd.DataFrame:
    return pd.read_parquet(tmp_path / "out" / "index.parquet")


def test_strange_names_are_read_and_recorded(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = tmp_path / "set {1} [a]:b"
    videos.mkdir()
    strange = [
        b"a:b.mp4",
        b"-x.mp4",
        b"t [id].mp4",
        b"{w}.mp4",
        b"caf\xe9.mp4",
        b"%d ' \" $HOME.mp4",
        b"n\nl.mp4",
    ]
    for name in strange:
        shutil.copy(clip, os.path.join(os.fsencode(videos), name))
    monkeypatch.chdir(tmp_path)
    found = merged(tmp_path, videos.name)
    assert found.pop("")["files"] == []
    assert set(found) == {"a:b", "-x", "t [id]", "{w}", r"caf\xe9", "%d ' \" $HOME", "n\nl"}
    for record in found.values():
        assert record["error"] is None
        assert record["rows"] == 2
        assert record["facts"]["frames"] == 30
        assert os.path.isabs(record["path"])
        assert os.path.isfile(record["path"])
    monkeypatch.chdir(videos)
    assert list(merged(tmp_path, "a:b.mp4")) == ["a:b", ""]
    assert sorted(rows(tmp_path)["video_id"]) == ["a:b", "a:b"]


def test_one_file_s_trouble_is_its_own(tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    for name in ("closed", "disk", "good", "odd"):
        shutil.copy(clip, videos / f"{name}.mp4")
    (videos / "gone.mp4").symlink_to("nowhere.mp4")
    hash_file, probe = fingerprints.file_sha256, container.probe

    def fail_to_hash(path: str) -> str:
        if "closed" in path:
            raise PermissionError(13, "Permission denied", path)
        if "disk" in path:
            raise OSError(5, "Input/output error")
        return hash_file(path)

    def fail_to_probe(path: str) -> dict[str, Any]:
        if "odd" in path:
            raise ValueError("77 is not a valid side data type")
        return probe(path)

    monkeypatch.setattr(fingerprints, "file_sha256", fail_to_hash)
    monkeypatch.setattr(container, "probe", fail_to_probe)
    found = merged(tmp_path, videos)
    unread = {Path(entry["path"]).stem for entry in found.pop("")["unread"]}
    assert unread == {"closed", "disk", "gone"}
    assert found["good"]["error"] is None
    assert "Permission denied" in found["closed"]["error"]
    assert "Input/output error" in found["disk"]["error"]
    assert "No such file" in found["gone"]["error"]
    assert "ValueError: 77 is not a valid side data type" in found["odd"]["error"]
    assert found["odd"]["fingerprint"] == found["good"]["fingerprint"]
    assert found["closed"]["fingerprint"] == "unread:closed"
    assert [found[name]["timestamps"] for name in ("closed", "disk", "gone", "odd")] == [[0.0]] * 4
    monkeypatch.undo()  # and once what stood in the way is gone
    found = merged(tmp_path, videos)
    assert [name for name in found if name and found[name]["error"]] == ["gone"]
    assert found["closed"]["fingerprint"] == found["good"]["fingerprint"]


def test_the_next_run_looks_again_at_what_could_not_be_read(tmp_path: Path, clip: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    shutil.copy(clip, videos / "a.mp4")
    settings = resolve({"dataset": "t", "videos": str(videos)})
    out = tmp_path / "out"
    before = stamp.stat_digest(settings, out)
    merged(tmp_path, videos)
    assert stamp.stat_digest(settings, out) == before
    (videos / "b.mp4").symlink_to("nowhere")
    seen = stamp.stat_digest(settings, out)
    merged(tmp_path, videos)
    assert len({before, seen, stamp.stat_digest(settings, out)}) == 3


def test_what_tells_that_tables_or_videos_were_replaced_whatever_their_times(
    tmp_path: Path, clip: Path
) -> None:
    paths = [tmp_path / name for name in ("a.mp4", "b.mp4", "rows.csv", "videos.csv")]
    for path in paths[:2]:
        shutil.copy(clip, path)
    paths[2].write_text("video_id,timestamp_sec\na,0.1\nb,0.2\n")
    paths[3].write_text(f"video_id,video_path,fps\na,{paths[0]},30\nb,{paths[1]},30\n")

    def told() -> str:
        for path in filter(Path.exists, paths):
            os.utime(path, (1, 1))
        settings = resolve(
            {"dataset": "t", "frame_index": str(paths[2]), "video_index": str(paths[3]), "videos": None}
        )
        return stamp.stat_digest(settings, tmp_path / "out")

    seen = [told()]
    assert told() == seen[0]
    for path, old, new in ((paths[2], "0.1", "0.3"), (paths[3], ",30\n", ",15\n")):
        path.write_text(path.read_text().replace(old, new))
        seen.append(told())
    paths[0].rename(tmp_path / "x")
    paths[1].rename(paths[0])
    (tmp_path / "x").rename(paths[1])
    seen.append(told())
    paths[2].unlink()
    seen.append(told())
    assert len(set(seen)) == len(seen)


def test_text_of_a_video_is_repeated_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A take of more than 2 GiB of text at once ends in an error of Arrow."""
    monkeypatch.setattr(merge, "_BLOCK_ROWS", 3)
    column = pa.chunked_array([["one"], ["two", None]])
    taken = merge._of_rows(column, np.array([2, 1, 0, 0, 1, 1, 1]))
    assert taken.to_pylist() == [None, "two", "one", "one", "two", "two", "two"]
    assert taken.type == column.type
    assert merge._of_rows(column, np.array([], dtype=np.int64)).type == column.type


def test_files_without_a_video_are_dropped_and_named(
    tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    shutil.copy(clip, videos / "good.mp4")
    cut_short(clip, videos / "cut.mp4")
    audio_only(videos / "song.mp4")
    (videos / "empty.mp4").touch()
    (videos / "gone.mp4").symlink_to("nowhere.mp4")
    (videos / "page.mp4").write_text("<html>404</html>")
    everything = {"good", "cut", "song", "empty", "gone", "page", ""}
    assert set(merged(tmp_path, videos, on_bad_frames="mask")) == everything
    found = merged(tmp_path, videos, on_bad_frames="drop")
    assert set(found) == {"good", "cut", ""}
    dropped = {entry["video_id"]: entry["reason"] for entry in found[""]["dropped"]}
    assert set(dropped) == {"song", "empty", "gone", "page"}
    assert "audio" in dropped["song"]
    assert set(rows(tmp_path)["video_id"]) == {"good", "cut"}
    said = capsys.readouterr().err
    assert "4 files without a video, left out (on_bad_frames: drop)" in said
    assert "'empty'" in said
    (videos / "good.mp4").unlink()
    (videos / "cut.mp4").unlink()
    with pytest.raises(UserError, match=r"(?s)no video file was found.*'song'"):
        merged(tmp_path, videos, on_bad_frames="drop")


def test_content_tells_where_the_name_does_not(tmp_path: Path, clip: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    shutil.copy(clip, videos / "clip 1")
    shutil.copy(clip, videos / "movie.mp4")
    (videos / "movie.bin").write_bytes(b"\0\1" * 5000)
    (videos / "README").write_text("all of it")
    (videos / "notes.txt").write_text("all of it")
    for _ in range(2):  # the second time out of memory
        found = merged(tmp_path, videos)
        assert set(found) == {"clip 1", "movie", ""}
        assert found[""]["counts"] == {"text and data": 1, "text and data (.txt)": 1}
        assert [Path(entry["path"]).name for entry in found[""]["files"]] == ["movie.bin"]
        assert "FFmpeg finds no video in it" in found[""]["files"][0]["reason"]


def write_rates(path: Path, pts: list[int]) -> Path:
    with av.open(str(path), "w") as output:
        stream = output.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number, time in enumerate(pts):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 8 * number, np.uint8), format="rgb24")
            frame.pts = time
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def test_a_variable_rate_is_sampled_by_time_in_a_folder_alone(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    write_rates(videos / "even.mkv", [*range(10)])
    write_rates(videos / "vary.mkv", [0, 1, 2, 3, 4, 15, 16, 17, 18, 29])
    found = merged(tmp_path, videos)
    assert found["vary"]["facts"]["vfr"]
    assert {name: found[name]["alignment"] for name in ("even", "vary")} == {"even": "index", "vary": "pts"}
    key = sample_key(found["vary"], alignment="index", geometry="squash224", decoder="auto")
    assert key["alignment"] == "pts"
    pd.DataFrame({"video_id": ["vary"], "video_path": ["videos/vary.mkv"], "fps": [10]}).to_csv(
        tmp_path / "v.csv", index=False
    )
    pd.DataFrame({"video_id": ["vary"], "timestamp_sec": [0.5]}).to_csv(tmp_path / "f.csv", index=False)
    tables = {"frame_index": str(tmp_path / "f.csv"), "video_index": str(tmp_path / "v.csv")}
    assert merged(tmp_path, "x", **tables)["vary"]["alignment"] == "index"


def test_a_clock_that_cannot_be_is_doubted(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = container.probe

    def days(path: str) -> dict[str, Any]:
        found = probe(path)
        return found | {"facts": found["facts"] | {"duration_sec": 1e12}}

    monkeypatch.setattr(container, "probe", days)
    record = merged(tmp_path, clip)["clip"]
    assert record["rows"] == 7200
    assert "which cannot be" in record["doubts"][0]


def test_a_video_that_no_row_needs_may_be_absent(tmp_path: Path, clip: Path) -> None:
    videos = pd.DataFrame({"video_id": ["a", "b"], "video_path": [str(clip), "gone.mp4"], "fps": 30})
    videos.to_csv(tmp_path / "v.csv", index=False)
    tables = {"frame_index": str(tmp_path / "f.csv"), "video_index": str(tmp_path / "v.csv")}
    frames = pd.DataFrame({"video_id": ["a", "b"], "timestamp_sec": 0.0})
    frames[:1].to_csv(tmp_path / "f.csv", index=False)
    assert set(merged(tmp_path, "x", **tables)) == {"a", ""}
    frames.to_csv(tmp_path / "f.csv", index=False)
    with pytest.raises(UserError, match=r"'b' \(row 1\): 'gone.mp4'"):
        merged(tmp_path, "x", **tables)


def tables_of(
    tmp_path: Path, clip: Path, ids: list[str], times: list[float], seed: int = 0
) -> dict[str, str]:
    """Both indexes, in some order, of videos that are all the same file."""
    videos = pd.DataFrame({"video_id": ids, "video_path": str(clip), "fps": 30})
    videos.sample(frac=1, random_state=seed).to_csv(tmp_path / "v.csv", index=False)
    rows = pd.DataFrame(
        [(name, time) for name in ids for time in times], columns=["video_id", "timestamp_sec"]
    )
    rows.sample(frac=1, random_state=seed).assign(label=seed).to_csv(tmp_path / "f.csv", index=False)
    return {"frame_index": str(tmp_path / "f.csv"), "video_index": str(tmp_path / "v.csv")}


def shards_of(tmp_path: Path) -> dict[str, bytes]:
    results = ResultsFolder(tmp_path / "out")
    assert {path.stem for path in results.videos.glob("*.json")} == set(results.shard_names())
    return {shard: results.shard(shard).read_bytes() for shard in results.shard_names()}


def test_many_videos_are_dealt_into_shards(
    tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A shard is the same bytes whatever the order and the labels of the rows; another video changes its own alone."""
    ids = [f"v {number:03}" for number in range(70)]
    merged(tmp_path, "x", **tables_of(tmp_path, clip, ids, [0.0, 0.5]))
    first = shards_of(tmp_path)
    assert 30 < len(first) <= 64
    assert all(re.fullmatch(r"shard\+\d\dof64", shard) for shard in first)
    assert capsys.readouterr().err.endswith(f"140 rows of 70 videos in {len(first)} shards\n")
    for shard, content in first.items():
        slices = json.loads(content)["videos"]
        assert list(slices) == sorted(slices)
        for entry in slices.values():
            assert list(entry) == ["video_id", "fingerprint", "fps", "alignment", "rows", "times_sha256"], (
                shard
            )
    found = merged(tmp_path, "x", **tables_of(tmp_path, clip, ids, [0.5, 0.0], seed=1))
    assert shards_of(tmp_path) == first
    assert {record["rows"] for name, record in found.items() if name} == {2}
    merged(tmp_path, "x", **tables_of(tmp_path, clip, [*ids, "w"], [0.0, 0.5], seed=2))
    changed = {shard for shard, content in shards_of(tmp_path).items() if first.get(shard) != content}
    assert len(changed) == 1
    assert "w" in json.loads(shards_of(tmp_path)[changed.pop()])["videos"]


def test_a_change_of_size_leaves_no_shard_of_before(tmp_path: Path, clip: Path) -> None:
    """From 65 videos to 64, each of them a shard: no file of the last merge stays."""
    ids = [f"v{number:03}" for number in range(65)]
    before = merged(tmp_path, "x", **tables_of(tmp_path, clip, ids, [0.0]))
    assert not set(shards_of(tmp_path)) & set(ids)
    after = merged(tmp_path, "x", **tables_of(tmp_path, clip, ids[:64], [0.0]))
    assert set(shards_of(tmp_path)) == set(ids[:64])
    assert {name: after[name] for name in ids[:64]} == {name: before[name] for name in ids[:64]}


def test_the_size_of_a_shard_is_asked_for(tmp_path: Path, clip: Path) -> None:
    """``shard_rows`` deals the same videos otherwise, and changes nothing that is known of them."""
    ids = [f"v{number:03}" for number in range(140)]
    tables = tables_of(tmp_path, clip, ids, [0.0, 0.1, 0.2, 0.3])
    usual = merged(tmp_path, "x", **tables)
    index = (tmp_path / "out" / "index.parquet").read_bytes()
    assert all(shard.endswith("of64") for shard in shards_of(tmp_path))
    assert merged(tmp_path, "x", shard_rows=4, **tables) == usual
    assert all(shard.endswith("of128") for shard in shards_of(tmp_path))
    assert (tmp_path / "out" / "index.parquet").read_bytes() == index
