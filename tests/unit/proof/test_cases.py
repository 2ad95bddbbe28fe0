"""Files that broke readers elsewhere, each through folder input and sampling: the frame asked for, or a word that
it is not."""

import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from framefeat.errors import UserError
from framefeat.proof.truth import Truth, decoded_truth, wrong_rows
from framefeat.video.container import read_container

from tests import clips, folder

DECODERS = ["auto", "pyav"]
#: A given case, and a clip of its kind that is made here.
KINDS = {
    "A1_pts_is_dts.mp4": "pts_is_dts.mp4",
    "A2_joined_back_2s.ts": "joined_back.ts",
    "B1_pal8.avi": "palette.avi",
    "B3_two_sample_descriptions.mp4": "two_descriptions.mp4",
    "C1_mjpeg_exif.avi": "exif.avi",
    "C2_bt2020c.mp4": "matrix_10.mp4",
    "D1_field_pictures.mp4": "fields.mp4",
    "E1_rotate_180_inexact.mp4": "half_turn_but_a_bit.mp4",
    "E2_clean_aperture.mp4": "clean_aperture.mp4",
    "F3_last_frame_3s.gif": "long_last_frame.gif",
    "H1_key_flag_not_in_sync_table.mp4": "keys_left_out_late.mp4",
}
UNUSABLE = {"C2_bt2020c.mp4", "matrix_10.mp4"}
CROPPED = {"E2_clean_aperture.mp4", "clean_aperture.mp4"}
#: Frames and frames per second that are right.
COUNTS = {
    "A2_joined_back_2s.ts": (200, 25),
    "B3_two_sample_descriptions.mp4": (200, 25),
    "D1_field_pictures.mp4": (40, 25),
    "F0_plain.mp4": (50, 25),
    "joined_back.ts": (150, 25),
    "joined_far_lower.ts": (120, 25),
    "joined_far_higher.ts": (120, 25),
    "fields.mp4": (40, 25),
    "fields.ts": (40, 25),
}
ROWS = {"F0_plain.mp4": 4, "F3_last_frame_3s.gif": 14, "long_last_frame.gif": 14, "joined_far_lower.ts": 10}
MADE = [
    *KINDS.values(),
    "asp_vfw.mkv",
    "joined_far_lower.ts",
    "joined_far_higher.ts",
    "joined_back.flv",
    "fields.ts",
    "late_parameter_set.mp4",
    "new_sets_in_band.mkv",
    "palette_changes.avi",
    "keys_falsely_flagged_b.mkv",
    "edit_within_group.mp4",
    "unannounced_delay.mkv",
]


GIVEN = [*KINDS, "F0_plain.mp4"]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[str, folder.Record]:
    """What folder input makes of all of them together."""
    videos = tmp_path_factory.mktemp("videos")
    paths = [clips.odd(file)[0] for file in MADE] + [clips.CASES / file for file in GIVEN]
    for path in paths:
        if path.is_file():
            (videos / f"{path.stem}_{path.suffix[1:]}{path.suffix}").symlink_to(path)
    found = folder.records_of(videos, tmp_path_factory.mktemp("merged"))
    return {"".join(video_id.rpartition("_")[0::2]): record for video_id, record in found.items()}


def _name(file: str) -> str:
    return file.replace(".", "")


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("file", GIVEN)
def test_a_given_case(tmp_path: Path, records: dict[str, folder.Record], file: str, decoder: str) -> None:
    path = clips.CASES / file
    if not path.is_file():
        pytest.skip("no such file is given")
    truth = replace(decoded_truth(path, tmp_path), crop_may_stay=file in CROPPED)
    check(file, records[_name(file)], truth, tmp_path, decoder)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("file", MADE)
def test_a_case_of_its_kind(
    tmp_path: Path, records: dict[str, folder.Record], file: str, decoder: str
) -> None:
    _, truth = clips.odd(file)
    check(file, records[_name(file)], truth, tmp_path, decoder)


def check(file: str, record: folder.Record, truth: Truth, scratch: Path, decoder: str) -> None:
    """No row shows another frame than the one asked for; and count, rate, length and verdict are those of the file."""
    evidence, frames = folder.sample(record, scratch / "sampled", decoder)
    status = set(evidence["rows"]["status"])
    if file in UNUSABLE and "bad" in status:
        assert status == {"bad"}
        assert any(re.search("colou?r|matrix|convert", problem) for problem in evidence["problems"])
        return
    alignment = record.get("alignment", "index")
    truth = replace(truth, fps=record["fps"], trusted=False)
    expected = truth.expected(record["timestamps"], "index")
    assert wrong_rows(truth, alignment, expected, evidence, frames) == {}
    assert status <= {"ok", "clamped"}, evidence["problems"]
    assert not evidence.get("doubts")
    assert len(frames) == ROWS.get(file, len(frames))
    if file in COUNTS:
        assert (record["facts"]["frames"], record["fps"]) == COUNTS[file]


def test_a_frame_that_stays_is_there_as_long_as_it_stays(
    tmp_path: Path, records: dict[str, folder.Record]
) -> None:
    _, truth = clips.odd("long_last_frame.gif")
    record = records[_name("long_last_frame.gif")]
    assert record["facts"]["duration_sec"] == pytest.approx(6.7)
    evidence, frames = folder.sample(record, tmp_path / "sampled")
    row = record["timestamps"].index(5.0)
    assert evidence["rows"]["status"][row] == "ok"
    assert not truth.differs(frames[row], 37)


@pytest.mark.skipif(not clips.CASES.is_dir(), reason="no given cases")
def test_a_song_with_a_cover_is_called_so() -> None:
    with pytest.raises(UserError, match="cover"):
        read_container(clips.CASES / "F1_song_with_cover.m4a")


def test_the_proof_tells_a_neighbour_from_the_frame() -> None:
    """Two pictures that differ by less than two conversions do are still two pictures."""
    quiet = np.full((3, 96, 96, 3), 100, dtype=np.uint8)
    quiet[1], quiet[2] = 101, 102
    truth = Truth(25.0, [Fraction(k, 25) for k in range(3)], None, quiet)
    assert not truth.differs(quiet[1], 1)
    assert truth.differs(quiet[2], 1)
