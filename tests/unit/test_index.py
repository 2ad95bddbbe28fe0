"""The two tables: what is accepted, what is refused, and that every refusal lists all that is wrong."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from framefeat import index
from framefeat.errors import UserError
from framefeat.settings import Settings, resolve

SHARED = Path(__file__).parents[2].parent / "shared" / "tvsum"
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
    videos, _ = index.find_videos(
        settings(tmp_path, video_index=str(tmp_path / f"v.{suffix}"), video_root=str(tmp_path))
    )
    assert [video.video_id for video in videos] == HARD_IDS
    frames = tmp_path / f"f.{suffix}"
    rows = pd.DataFrame({"video_id": HARD_IDS[::-1], "timestamp_sec": 0.5})
    rows.to_csv(frames, index=False) if suffix == "csv" else rows.to_parquet(frames)
    _, ids, times = index.read_frame_index(str(frames))
    assert ids == HARD_IDS[::-1]
    assert times.dtype == np.float64
    positions = index.join(ids, videos, "f", "v")
    assert positions.tolist() == list(range(len(HARD_IDS)))[::-1]


def test_all_missing_files_are_listed(tmp_path: Path) -> None:
    pd.DataFrame({"video_id": ["a", "b", "c"], "video_path": ["a.mp4", "b.mp4", "c.mp4"], "fps": 25}).to_csv(
        tmp_path / "v.csv", index=False
    )
    (tmp_path / "b.mp4").touch()
    with pytest.raises(UserError) as caught:
        index.find_videos(settings(tmp_path, video_root=str(tmp_path)))
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
            index.find_videos(resolve(wanted | more))


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
    videos, _ = index.find_videos(settings(tmp_path, video_root=str(tmp_path)))
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
    with pytest.raises(UserError, match="several files of one name"):
        index.find_videos(settings(tmp_path, video_root=str(tmp_path)))


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
        index.find_videos(settings(tmp_path, video_root=str(tmp_path)))


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
        ({"video_id": ["a"], "timestamp_sec": [pd.Timedelta(1, "s")]}, r"timestamp_sec holds duration"),
        ({"video_id": [], "timestamp_sec": []}, "no rows"),
    ],
)
def test_bad_frame_tables(tmp_path: Path, table: dict, words: str) -> None:
    path = tmp_path / "f.parquet"
    pd.DataFrame(table).to_parquet(path)
    with pytest.raises(UserError, match=words):
        index.read_frame_index(str(path))


def test_rows_without_a_video_are_all_listed() -> None:
    videos = [index.Video("a", "a", 25.0)]
    with pytest.raises(UserError, match=r"(?s)'b': 2 row\(s\), the first is row 1.*'c': 1 row"):
        index.join(["a", "b", "b", "c"], videos, "f", "v")


def test_folder_ids_are_stems_in_byte_order(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("b.mp4", "sub/a.mkv", "Z.webm", "é.avi", "notes.txt", "-x.mov"):
        (tmp_path / name).touch()
    videos, _ = index.find_videos(resolve({"dataset": "t", "videos": str(tmp_path)}))
    assert [video.video_id for video in videos] == ["-x", "Z", "a", "b", "é"]
    (tmp_path / "sub" / "b.mp4").touch()
    with pytest.raises(UserError, match="same name"):
        index.find_videos(resolve({"dataset": "t", "videos": str(tmp_path)}))


@pytest.mark.parametrize(
    ("duration", "rate", "expected"),
    [(1.2, 2.0, [0, 0.5, 1.0]), (1.0, 2.0, [0, 0.5]), (0.1, 2.0, [0]), (1.0, 3.0, [0, 0.333, 0.667])],
)
def test_sample_times(duration: float, rate: float, expected: list[float]) -> None:
    assert index.sample_times(duration, rate).tolist() == expected


@pytest.mark.skipif(not SHARED.is_dir(), reason="the TVSum tables are not here")
def test_sample_times_are_those_of_tvsum() -> None:
    videos = pd.read_csv(SHARED / "tvsum_index.csv", dtype={"video_id": str}, keep_default_na=False)
    rows = pd.read_parquet(SHARED / "tvsum_frame_index.parquet")
    for video in videos.itertuples():
        wanted = rows.loc[rows["video_id"] == video.video_id, "timestamp_sec"].to_numpy()
        assert np.array_equal(index.sample_times(video.frame_count / video.fps, 2.0), wanted), video.video_id
