"""The two tables: what is accepted, what is refused, and that every refusal lists all that is wrong."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from framefeat.errors import UserError
from framefeat.index import collection
from framefeat.settings import Settings, resolve

SHARED = Path(__file__).parents[3].parent / "shared" / "tvsum"
HARD_IDS = [
    "007",
    "1e5",
    "NA",
    "-esJrBWj2d8",
    "with space",
    "ünï",
    "null",
    "True",
    "a/b",
    "'; rm -rf ~",
    "nan",
]


def settings(tmp_path: Path, **change: object) -> Settings:
    return resolve(
        {"dataset": "t", "frame_index": str(tmp_path / "f.csv"), "video_index": str(tmp_path / "v.csv")}
        | change
    )


def write(tmp_path: Path, videos: pd.DataFrame, suffix: str = "csv") -> None:
    for name in videos["video_path"]:
        (tmp_path / Path(name).name).touch()
    if suffix == "csv":
        videos.to_csv(tmp_path / "v.csv", index=False)
    else:
        videos.to_parquet(tmp_path / "v.parquet")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_ids_are_text_whatever_they_look_like(tmp_path: Path, suffix: str) -> None:
    paths = [f"{number}.mp4" for number in range(len(HARD_IDS))]
    write(tmp_path, pd.DataFrame({"video_id": HARD_IDS, "video_path": paths, "fps": 25.0}), suffix)
    videos = collection.find_videos(
        settings(tmp_path, video_index=str(tmp_path / f"v.{suffix}"), video_root=str(tmp_path))
    ).videos
    assert [video.video_id for video in videos] == HARD_IDS
    frames = tmp_path / f"f.{suffix}"
    rows = pd.DataFrame({"video_id": HARD_IDS[::-1], "timestamp_sec": 0.5})
    rows.to_csv(frames, index=False) if suffix == "csv" else rows.to_parquet(frames)
    _, ids, times = collection.read_frame_index(str(frames))
    assert ids == HARD_IDS[::-1]
    assert times.dtype == np.float64
    positions = collection.join(ids, videos, "f", "v")
    assert positions.tolist() == list(range(len(HARD_IDS)))[::-1]


def checked(wanted: Settings) -> list[collection.Video]:
    """All videos of the index, every one of them needed by a row."""
    found = collection.find_videos(wanted)
    collection.check_files(found, range(len(found.videos)), wanted)
    return found.videos


def test_all_missing_files_are_listed(tmp_path: Path) -> None:
    pd.DataFrame({"video_id": ["a", "b", "c"], "video_path": ["a.mp4", "b.mp4", "c.mp4"], "fps": 25}).to_csv(
        tmp_path / "v.csv", index=False
    )
    (tmp_path / "b.mp4").touch()
    with pytest.raises(UserError) as caught:
        checked(settings(tmp_path, video_root=str(tmp_path)))
    assert "'a'" in str(caught.value)
    assert "'c'" in str(caught.value)
    assert "'b'" not in str(caught.value)


def test_paths_that_cannot_be_looked_up_are_missing(tmp_path: Path) -> None:
    paths = ["x" * 5000 + ".mp4", "a\0b.mp4", ".", ".."]
    pd.DataFrame({"video_id": list("abcd"), "video_path": paths, "fps": 25}).to_parquet(
        tmp_path / "v.parquet"
    )
    wanted = {"dataset": "t", "frame_index": "f", "video_index": str(tmp_path / "v.parquet")}
    for more in ({}, {"video_root": str(tmp_path)}):
        with pytest.raises(UserError, match=r"(?s)'a' .*'b' .*'c' .*'d' "):
            checked(resolve(wanted | more))


def test_paths_of_another_machine_are_found_by_name_below_video_root(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "x.mp4").touch()
    (tmp_path / "y.mp4").touch()
    pd.DataFrame(
        {
            "video_id": ["x", "y"],
            "video_path": ["/kaggle/input/t/video/x.mp4", "C:\\videos\\y.mp4"],
            "fps": 25,
        }
    ).to_csv(tmp_path / "v.csv", index=False)
    videos = checked(settings(tmp_path, video_root=str(tmp_path)))
    assert [Path(video.path).relative_to(tmp_path).as_posix() for video in videos] == [
        "deep/er/x.mp4",
        "y.mp4",
    ]


def test_one_name_twice_below_video_root_is_refused(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.mp4").touch()
    pd.DataFrame({"video_id": ["x"], "video_path": ["/gone/x.mp4"], "fps": 25}).to_csv(
        tmp_path / "v.csv", index=False
    )
    wanted = settings(tmp_path, video_root=str(tmp_path))
    with pytest.raises(UserError, match="several files of one name"):
        checked(wanted)
    collection.check_files(collection.find_videos(wanted), [], wanted)  # no row needs it


def test_what_lies_there_instead_of_a_file_is_said(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "link.mp4").symlink_to("nowhere")
    pd.DataFrame({"video_id": ["p", "l"], "video_path": ["pipe.mp4", "link.mp4"], "fps": 25}).to_csv(
        tmp_path / "v.csv", index=False
    )
    with pytest.raises(UserError, match=r"(?s)'pipe.mp4' \(a named pipe\).*'link.mp4' \(a link to nothing\)"):
        checked(settings(tmp_path))


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"video_id": ["a", "a"], "video_path": ["a.mp4", "a.mp4"], "fps": [25, 25]}, "duplicate video ids"),
        ({"video_id": ["a"], "video_path": ["a.mp4"]}, "no column fps"),
        ({"video_id": ["a", "b"], "video_path": ["a.mp4", "b.mp4"], "fps": [0, -1]}, r"(?s)'a'.*'b'"),
        ({"video_id": ["a"], "video_path": ["a.mp4"], "fps": [None]}, "absent"),
        ({"video_id": ["a", ""], "video_path": ["a.mp4", "b.mp4"], "fps": [1, 1]}, "empty in .*\n.*row 1"),
        (
            {"video_id": ["a", "b", "c"], "video_path": ["a.mp4"] * 3, "fps": ["fast", "25", "30000/1001"]},
            r"(?s)fps.*row 0: 'fast'\n.*row 2: '30000/1001'",
        ),
    ],
)
def test_bad_video_tables(tmp_path: Path, table: dict, words: str) -> None:
    write(tmp_path, pd.DataFrame(table))
    with pytest.raises(UserError, match=words):
        collection.find_videos(settings(tmp_path, video_root=str(tmp_path)))


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (
            {"video_id": ["a"] * 4, "timestamp_sec": [0, -1, float("nan"), float("inf")]},
            r"(?s)row 1 .*row 2 .*row 3 ",
        ),
        ({"video_id": ["a"], "t": [0]}, "no column timestamp_sec"),
        ({"video_id": ["a"], "timestamp_sec": [0], "status": ["x"]}, "(?s)the results use.*status"),
        ({"video_id": ["a"], "timestamp_sec": [0], "__slice_row": [3]}, "(?s)the results use.*__slice_row"),
        (
            {"video_id": ["a", "b"], "timestamp_sec": ["0.5", "0,5"]},
            r"timestamp_sec holds .*string.*\n.*row 1: '0,5'",
        ),
        ({"video_id": ["a", "b"], "timestamp_sec": [True, False]}, r"timestamp_sec holds bool, not numbers"),
        (
            {"video_id": ["a", "b"], "timestamp_sec": np.array([1, 2**64 - 1], np.uint64)},
            r"timestamp_sec holds uint64.*\n.*row 1: 18446744073709551615",
        ),
        ({"video_id": ["a"], "timestamp_sec": [pd.Timedelta(1, "s")]}, r"timestamp_sec holds duration"),
        ({"video_id": [], "timestamp_sec": []}, "no rows"),
    ],
)
def test_bad_frame_tables(tmp_path: Path, table: dict, words: str) -> None:
    path = tmp_path / "f.parquet"
    pd.DataFrame(table).to_parquet(path)
    with pytest.raises(UserError, match=words):
        collection.read_frame_index(str(path))


@pytest.mark.parametrize("column", ["video_id", "caption"])
def test_text_that_is_no_utf8_is_named(tmp_path: Path, column: str) -> None:
    """Parquet holds it without a word, and every later reader stumbles."""
    raw = pa.array([b"a", b"M\xfcnchen"])
    text = pa.StringArray.from_buffers(2, raw.buffers()[1], raw.buffers()[2])
    columns = {"video_id": pa.array(["a", "b"]), "timestamp_sec": pa.array([0.0, 1.0])} | {column: text}
    pq.write_table(pa.table(columns), tmp_path / "f.parquet")
    with pytest.raises(UserError, match=rf"column {column} holds text that is not UTF-8.*\n.*row 1: b'M"):
        collection.read_frame_index(str(tmp_path / "f.parquet"))


def test_rows_without_a_video_are_all_listed() -> None:
    videos = [collection.Video("a", "a", 25.0)]
    with pytest.raises(UserError, match=r"(?s)'b': 2 rows, the first is row 1.*'c': 1 row"):
        collection.join(["a", "b", "b", "c"], videos, "f", "v")


def test_ids_that_differ_in_case_or_suffix_get_a_hint() -> None:
    videos = [collection.Video("bike", "a", 25.0), collection.Video("cafe\u0301", "b", 25.0)]
    with pytest.raises(UserError, match=r"(?s)did you mean 'bike'.*did you mean 'bike'.*did you mean 'caf"):
        collection.join(["Bike", "bike.mp4", "caf\u00e9"], videos, "f", "v")


def test_folder_ids_are_stems_in_byte_order() -> None:
    paths = ["/v/b.mp4", "/v/sub/a.mkv", "/v/Z.webm", "/v/é.avi", "/v/-x.mov"]
    assert [video.video_id for video in collection.folder_videos(paths, "v")] == ["-x", "Z", "a", "b", "é"]
    with pytest.raises(UserError, match="same name"):
        collection.folder_videos([*paths, "/v/sub/b.mp4"], "v")


def test_a_clock_that_cannot_be_does_not_plan_days_of_rows() -> None:
    wrapped = {"duration_sec": 92448.0, "frames_found": 200}
    assert collection.believable_duration(wrapped) == 12000
    slides = {"duration_sec": 3000.0, "frames_found": 3}
    assert collection.believable_duration(slides) == 3000


@pytest.mark.parametrize(("separator", "word"), [(";", "semicolons"), ("\t", "tabs"), ("|", "bars")])
@pytest.mark.parametrize("time", ["0,5", "0.5"])
def test_other_separators_get_a_hint(tmp_path: Path, separator: str, word: str, time: str) -> None:
    (tmp_path / "f.csv").write_text(
        f"video_id{separator}timestamp_sec\na{separator}{time}\n", encoding="utf-8"
    )
    with pytest.raises(UserError, match=f"separated by {word}"):
        collection.read_frame_index(str(tmp_path / "f.csv"))


@pytest.mark.parametrize(
    ("duration", "rate", "expected"),
    [(1.2, 2.0, [0, 0.5, 1.0]), (1.0, 2.0, [0, 0.5]), (0.1, 2.0, [0]), (1.0, 3.0, [0, 0.333, 0.667])],
)
def test_sample_times(duration: float, rate: float, expected: list[float]) -> None:
    assert collection.sample_times(duration, rate).tolist() == expected


@pytest.mark.skipif(not SHARED.is_dir(), reason="the TVSum tables are not here")
def test_sample_times_are_those_of_tvsum() -> None:
    videos = pd.read_csv(SHARED / "tvsum_index.csv", dtype={"video_id": str}, keep_default_na=False)
    rows = pd.read_parquet(SHARED / "tvsum_frame_index.parquet")
    for video in videos.itertuples():
        wanted = rows.loc[rows["video_id"] == video.video_id, "timestamp_sec"].to_numpy()
        assert np.array_equal(collection.sample_times(video.frame_count / video.fps, 2.0), wanted), (
            video.video_id
        )


def test_the_last_frame_s_own_duration_counts() -> None:
    facts = {"frames": 39, "last_sec": 3.7, "interval_sec": 0.1}
    times = np.array([3.8, 5.0, 6.7, 6.8])
    assert collection.past_the_end(times, 10.0, facts, "pts").tolist() == [False, True, True, True]
    long = facts | {"last_duration_sec": 3.0}
    assert collection.past_the_end(times, 10.0, long, "pts").tolist() == [False, False, False, True]
