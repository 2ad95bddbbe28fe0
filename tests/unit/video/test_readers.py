import dataclasses
import os

import numpy as np
import pytest
from framefeat.errors import MachineError, UserError
from framefeat.proof.numbered import draw_number, read_number
from framefeat.video import choice, decord
from framefeat.video.container import read_container
from framefeat.video.decord import DecordReader
from framefeat.video.passes import SKIPPABLE_CODECS
from framefeat.video.pyav import PyavReader, displayed, in_order_reader, quarter_turn
from framefeat.video.reader import Contradiction, ReaderMistake, is_harmless, mean_difference

from tests import clips

SPARSE = [
    "cfr_29_97.mp4",
    "h264_pyramid.mp4",
    "h264_open_gop.mkv",
    "h264_intra_refresh.mp4",
    "h264_interlaced.ts",
    "h264_cut_open_gop.mp4",
    "hevc_open_gop.mkv",
    "hevc_cut.mp4",
    "vp9.webm",
    "vp8_hidden.webm",
    "av1.mkv",
    "mpeg4_b.mp4",
    "mpeg2_b.ts",
]


@pytest.mark.parametrize("number", [0, 1, 12345, 65535])
def test_numbers_survive_drawing(number):
    assert read_number(np.repeat(draw_number(number, 96, 128)[..., None], 3, axis=2)) == number


@pytest.mark.parametrize("file", SPARSE)
@pytest.mark.parametrize("wanted", ["some", "late", "all"])
def test_skipping_gives_the_bytes_of_decoding_everything(file, wanted):
    clip = clips.made(file)
    container = read_container(clip.path)
    last = container.n_presented - 1
    numbers = {"some": list(range(3, last, 13)), "late": [last - 8, last], "all": list(range(last + 1))}[
        wanted
    ]
    skips = container.codec in SKIPPABLE_CODECS
    reader = PyavReader(container, whole=False if skips else None)
    strict = in_order_reader(container)
    fast, slow = list(reader.frames(numbers)), list(strict.frames(numbers))
    assert [frame.native for frame in slow] == numbers
    assert strict.problems == {}
    assert reader.problems == {}
    assert [frame.native for frame in fast] == numbers
    truth = {frame.native: frame for frame in slow}
    for frame in fast:
        if frame.native not in reader.problems:
            assert frame.pts == truth[frame.native].pts == container.pts[frame.native]
            assert read_number(frame.rgb) == clip.numbers[frame.native]
            np.testing.assert_array_equal(frame.rgb, truth[frame.native].rgb)


def test_key_frames_that_are_none_are_no_places_to_begin():
    container = read_container(clips.made("h264_intra_refresh.mp4").path)
    assert container.packets.marked.sum() > container.packets.key.sum() == 1


@pytest.mark.parametrize("file", ["cfr_25.mp4", "h264_vfr.mkv", "h264_start_5s.mp4", "vp9.webm", "av1.mp4"])
def test_decord_serves_where_it_is_right(file):
    clip = clips.made(file)
    container = read_container(clip.path)
    reader, reason = choice.choose_reader(container, "auto", [0, 50])
    assert isinstance(reader, DecordReader), reason
    for frame in reader.frames(range(0, 100, 12)):
        assert read_number(frame.rgb) == clip.numbers[frame.native]
        assert frame.pts == container.pts[frame.native]


@pytest.mark.parametrize(
    ("file", "why"),
    [
        ("h264_cut.mp4", "17 packets that are not presented"),
        ("vp8_hidden.webm", "14 packets that are not presented"),
        ("h264_b.avi", "packets do not tell"),
        ("h264_open_gop.mp4", "open groups"),
        ("hevc_open_gop.mkv", "open groups"),
        ("h264_b.ts", "decord"),
    ],
)
def test_decord_is_refused_where_it_is_wrong(file, why):
    container = read_container(clips.made(file).path)
    reader, reason = choice.choose_reader(container, "auto")
    assert reader.name.startswith("pyav")
    assert why in reason
    with pytest.raises(UserError, match="decord misreads this file"):
        choice.choose_reader(container, "decord")


def test_decord_that_repeats_a_frame_is_caught(monkeypatch):
    container = read_container(clips.made("cfr_25.mp4").path)
    reader = DecordReader(container)
    real = reader._take
    monkeypatch.setattr(reader, "_take", lambda number: real(min(number, 90)))
    with pytest.raises(ReaderMistake, match="repeats another frame"):
        list(reader.frames([50, 90, 99]))


@pytest.mark.parametrize("decoder", ["auto", "decord"])
def test_lack_of_memory_is_not_decord_s_mistake(monkeypatch, decoder):
    """Which reader serves must not depend on what else runs on the machine."""

    def exhausted(self, number):
        raise MemoryError

    from framefeat.video.decord import import_decord

    monkeypatch.setattr(import_decord().VideoReader, "__getitem__", exhausted)
    reader, _ = choice.choose_reader(read_container(clips.made("cfr_25.mp4").path), decoder)
    with pytest.raises(MachineError, match="not enough memory"):
        list(reader.frames([50]))


class GivesUp:
    """decord on a busy machine, the first ``times``: it complains, and gives the frame at which it stopped."""

    def __init__(self, real, times):
        self.real, self.left = real, times

    def __getitem__(self, number):
        if not self.left:
            return self.real[number]
        self.left -= 1
        text = f"[12:00:00] video_reader.cc:700: Failed to skip frames effectively at frame {number}. Decoder did not "
        os.write(2, f"{text}respond after 10000 attempts. Video might be corrupted.\n".encode())
        return self.real[0]


def test_a_decord_that_gave_up_waiting_is_asked_again(monkeypatch):
    """Which reader serves must not depend on what else runs on the machine."""
    monkeypatch.setattr(decord, "_PAUSE_SEC", 0)
    container = read_container(clips.made("cfr_25.mp4").path)
    wanted = [10, 50, 99]
    undisturbed = {frame.native: frame.rgb for frame in DecordReader(container).frames(wanted)}
    reader = DecordReader(container)
    new = reader._new_video
    videos = iter([GivesUp(new(), 3), GivesUp(new(), 1)])
    reader._video = GivesUp(reader._video, 1)
    monkeypatch.setattr(reader, "_new_video", lambda: next(videos, None) or new())
    for frame in reader.frames(wanted):
        assert np.array_equal(frame.rgb, undisturbed[frame.native])
    reader = DecordReader(container)
    monkeypatch.setattr(reader, "_new_video", lambda: GivesUp(new(), 1))
    reader._video = GivesUp(reader._video, 1)
    with pytest.raises(ReaderMistake, match="did not respond"):
        list(reader.frames(wanted))


def test_decord_whose_decoder_complains_is_refused(tmp_path):
    whole = clips.noisy(tmp_path / "whole.mp4")
    container = read_container(clips.damaged(whole, tmp_path / "damaged.mp4"))
    with pytest.raises(ReaderMistake, match="complains"):
        list(DecordReader(container).frames(range(0, 90, 5)))


def test_no_decord_without_cuda_libraries_being_loaded():
    import sys

    from framefeat.video.decord import import_decord

    import_decord()
    assert sys.modules.get("nvidia", True) is not None


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_damage_spoils_its_group_of_pictures_and_no_other(tmp_path, suffix):
    whole = clips.noisy(tmp_path / f"whole{suffix}", faststart=False)
    container = read_container(clips.damaged(whole, tmp_path / f"damaged{suffix}", at=0.25))
    good = read_container(whole)
    numbers = list(range(0, 90, 3))
    truth = {frame.native: frame.rgb for frame in in_order_reader(good).frames(numbers)}
    for reader in (PyavReader(container), in_order_reader(container)):
        frames = {frame.native: frame.rgb for frame in reader.frames(numbers)}
        assert reader.problems
        assert all(15 < number < 30 for number in reader.problems)
        for number in numbers:
            if number not in reader.problems:
                np.testing.assert_array_equal(frames[number], truth[number])


def test_an_own_clean_view_of_damage_counted_in_order(tmp_path):
    whole = clips.noisy(tmp_path / "whole.avi", encoder="mpeg4")
    container = read_container(clips.damaged(whole, tmp_path / "damaged.avi"))
    reader = in_order_reader(container)
    list(reader.frames(range(90)))
    assert reader.problems
    assert not any(number < 25 for number in reader.problems)


@pytest.mark.parametrize(
    ("file", "used", "other"),
    [
        ("cfr_25.mp4", "decord", "pyav"),
        ("cfr_25.mp4", "pyav", "decord"),
        ("h264_cut.mp4", "pyav", "pyav-sequential"),
        ("h264_b.avi", "pyav-sequential", "pyav-sequential"),
    ],
)
def test_another_reader_gives_the_same_frames(file, used, other):
    clip = clips.made(file)
    container = read_container(clip.path)
    reader = choice.other_reader(container, used)
    assert reader.name == other
    frames, _ = choice.take(reader, [3, 60])
    assert [read_number(frames[number]) for number in (3, 60)] == [clip.numbers[3], clip.numbers[60]]


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_a_frame_that_is_held_stays_what_it_was(decoder):
    """The second look compares with frames of the first: a buffer that is used again would prove itself."""
    container = read_container(clips.made("cfr_25.mp4").path)
    reader, _ = choice.choose_reader(container, decoder)
    held, copies = [], []
    for frame in reader.frames(range(0, 60, 5)):
        held.append(frame.rgb)
        copies.append(frame.rgb.copy())
    for frame, copy in zip(held, copies, strict=True):
        np.testing.assert_array_equal(frame, copy)
    assert not any(np.shares_memory(a, b) for a, b in zip(held, held[1:], strict=False))


def test_a_frame_at_a_time_that_no_packet_has_is_a_contradiction():
    container = read_container(clips.made("h264_pyramid.mp4").path)
    less = dataclasses.replace(
        container, pts=np.delete(container.pts, 5), packet=np.delete(container.packet, 5)
    )
    with pytest.raises(Contradiction, match="no packet has"):
        list(PyavReader(less).frames([20]))


def test_a_frame_out_of_order_is_a_contradiction(monkeypatch):
    container = read_container(clips.made("h264_pyramid.mp4").path)
    reader = PyavReader(container)
    right = reader._decode

    def backwards(*arguments):
        taken = [frame for _, frames, _ in right(*arguments) for frame in frames]
        yield 0, taken[::-1], None

    monkeypatch.setattr(reader, "_decode", backwards)
    with pytest.raises(Contradiction, match="shown later"):
        list(reader.frames([3, 20]))


def test_packets_without_a_frame_of_their_own_are_a_contradiction():
    container = read_container(clips.made("cfr_25.mp4").path)
    moved = container.packets.pts + (np.arange(len(container.packets)) == 10)
    packets = dataclasses.replace(container.packets, pts=moved)
    with pytest.raises(Contradiction, match=r"1 of .* packets give no frame"):
        list(PyavReader(dataclasses.replace(container, packets=packets)).frames([27]))


def test_display_matrices_turn_and_mirror():
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    cases = {
        (1, 0, 0, 1): image,
        (0, 1, -1, 0): np.rot90(image, -1),
        (0, -1, 1, 0): np.rot90(image, 1),
        (-1, 0, 0, -1): np.rot90(image, 2),
        (-0.99998, 1e-5, -1e-5, -1): np.rot90(image, 2),
        (-1, 0, 0, 1): image[:, ::-1],
        (1, 0, 0, -1): image[::-1],
        (0, 1, 1, 0): image.transpose(1, 0, 2),
        (0.707, 0.707, -0.707, 0.707): image,
        (0, 0, 0, 0): image,
    }
    for matrix, expected in cases.items():
        np.testing.assert_array_equal(displayed(image, quarter_turn(matrix)), expected)
    np.testing.assert_array_equal(displayed(image, quarter_turn(None)), image)


@pytest.mark.skipif(not clips.SHARED.is_dir(), reason="no shared clips")
def test_rotation_is_what_decord_applies():
    container = read_container(clips.SHARED / "h264_rot90.mov")
    assert container.rotation == -90
    frames = {
        name: next(iter(kind(container).frames([1]))).rgb
        for name, kind in (("p", PyavReader), ("d", DecordReader))
    }
    assert frames["p"].shape == (568, 320, 3)
    assert mean_difference(frames["p"], frames["d"]) < 0.5


def test_harmless_messages_are_not_damage():
    assert is_harmless("mmco: unref short failure")
    assert not is_harmless("error while decoding MB 19 2, bytestream -50")
    assert not is_harmless("concealing 920 DC, 920 AC, 920 MV errors in P frame")
