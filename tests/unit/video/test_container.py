import json
from fractions import Fraction

import av
import numpy as np
import pytest
from framefeat.errors import UserError
from framefeat.video import packets, presented
from framefeat.video.container import facts, probe, read_container
from framefeat.video.timing import by_times

from tests import clips

FILES = [
    "cfr_23_976.mp4",
    "cfr_29_917.mp4",
    "h264_pyramid.mp4",
    "h264_b.mkv",
    "h264_b.ts",
    "h264_b.avi",
    "h264_fragmented.mp4",
    "h264_vfr.mp4",
    "h264_vfr.mkv",
    "h264_start_5s.mp4",
    "h264_negative_start.ts",
    "h264_cut.mp4",
    "h264_cut_one_key.mov",
    "vp8_hidden.webm",
    "mpeg4_b.avi",
    "h264_one_frame.mp4",
]


@pytest.mark.parametrize("file", FILES)
def test_presented_frames_and_their_times_are_the_truth(file):
    clip = clips.made(file)
    container = read_container(clip.path)
    assert container.n_presented == len(clip.numbers)
    np.testing.assert_allclose(container.times(), [float(t) for t in clip.times], rtol=0, atol=1e-9)
    assert container.expected_frames == container.n_presented
    assert container.damage is None
    assert container.is_vfr == bool(clip.recipe.intervals or clip.recipe.hide_every)
    if not container.is_vfr:
        assert container.average_rate == clip.recipe.rate


def test_ordinary_files_are_not_decoded(monkeypatch):
    monkeypatch.setattr(presented, "decoded_order", lambda *_: pytest.fail("decoded"))
    for file in ("h264_pyramid.mp4", "h264_b.mkv", "h264_b.ts", "h264_cut.mp4"):
        assert read_container(clips.made(file).path).index_source == "packets"


def test_where_packets_have_no_times_frames_are_counted():
    container = read_container(clips.made("h264_b.avi").path)
    assert container.index_source == "rate"
    assert container.time_base == Fraction(1, 25)
    assert container.doubts == []
    assert (container.packet == -1).all()
    assert any("decoded in order" in text for text in container.warnings)


@pytest.mark.parametrize(
    ("file", "empty", "source", "guessed"),
    [
        ("h264_b.avi", 30, "rate", True),
        ("h264_b.avi", 1, "rate", False),  # no row is farther than a frame from its time
        ("mpeg4_b.avi", 30, "packets", True),
        ("mjpeg.avi", 30, "packets", False),  # a frame's time is its slot
    ],
)
def test_empty_slots_of_an_avi_are_a_doubt_where_times_are_guesses_and_no_cut(
    tmp_path, file, empty, source, guessed
) -> None:
    """Frames stand longer somewhere, and the format does not tell where; none is missing."""
    clip, gappy = clips.made(file), tmp_path / "gappy.avi"
    with av.open(str(clip.path)) as whole, av.open(str(gappy), "w") as output:
        stream = output.add_stream_from_template(whole.streams.video[0])
        for place, packet in enumerate(packet for packet in whole.demux() if packet.size):
            late = empty if place >= 40 else 0
            packet.dts, packet.pts = packet.dts + late, packet.pts + late
            packet.stream = stream
            output.mux(packet)
    container = read_container(gappy)
    assert container.index_source == source
    assert container.n_presented == container.expected_frames == len(clip.numbers)
    assert container.damage is None
    assert container.is_vfr == (source == "packets")
    assert [text.partition(" slots of its index hold no frame")[0] for text in container.doubts] == (
        [str(empty)] if guessed else []
    )


@pytest.mark.parametrize("name", ["list.mp4", "list.ffconcat", "list.m3u8"])
def test_a_list_of_other_files_is_no_video(tmp_path, name) -> None:
    """Its fingerprint would not change with the pictures."""
    part = clips.made("h264_b.ts").path
    (tmp_path / "part.ts").write_bytes(part.read_bytes())
    hls = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:4,\npart.ts\n#EXT-X-ENDLIST\n"
    (tmp_path / name).write_text(hls if name.endswith("m3u8") else "ffconcat version 1.0\nfile part.ts\n")
    with pytest.raises(UserError, match="found a list of others"):
        read_container(tmp_path / name)


def test_a_cut_keeps_its_hidden_packets_and_does_not_present_them():
    container = read_container(clips.made("h264_cut.mp4").path)
    assert (~container.packets.shown).sum() == 17
    assert container.times()[0] == 0


def test_facts_are_json_and_say_what_was_found():
    found = facts(read_container(clips.made("h264_vfr.mp4").path))
    assert json.loads(json.dumps(found)) == found
    assert found["vfr"] is True
    assert found["frames"] == found["frames_found"] == 100
    clip = clips.made("h264_vfr.mp4")
    assert found["last_sec"] == pytest.approx(float(clip.times[-1]))
    assert found["duration_sec"] == pytest.approx(found["last_sec"] + found["interval_sec"])
    assert found["key_frames"] == 4


def test_duration_of_a_constant_rate_is_frames_over_rate():
    found = facts(read_container(clips.made("cfr_29_97.mp4").path))
    assert found["duration_sec"] == pytest.approx(100 * 1001 / 30000)
    assert found["fps"] == pytest.approx(30000 / 1001)


@pytest.mark.parametrize("name", ["missing.mp4", "empty.mp4", "text.mp4", "audio.mp4", "header.mp4"])
def test_a_file_without_frames_is_one_sentence(tmp_path, name):
    path = tmp_path / name
    if name == "empty.mp4":
        path.touch()
    elif name == "text.mp4":
        path.write_text("not a video\n" * 50)
    elif name == "audio.mp4":
        clips.audio_only(path)
    elif name == "header.mp4":
        whole = clips.noisy(tmp_path / "whole.mp4", frames=30)
        path.write_bytes(whole.read_bytes()[: whole.read_bytes().index(b"mdat") + 4])
    with pytest.raises(UserError) as caught:
        read_container(path)
    text = str(caught.value)
    assert name in text
    assert "\n" not in text
    assert probe(path) == {"facts": None, "error": text}
    expected = {
        "audio.mp4": "found audio only",
        "empty.mp4": "0 bytes",
        "header.mp4": "30 frames expected, found none",
    }
    assert expected.get(name, "") in text


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_a_file_that_is_cut_short_says_how_much_is_missing(tmp_path, suffix):
    encoder = "mpeg4" if suffix == ".avi" else "libx264"
    whole = clips.noisy(tmp_path / f"whole{suffix}", encoder=encoder)
    path = clips.cut_short(whole, tmp_path / f"part{suffix}")
    container = read_container(path)
    assert container.expected_frames == 90
    assert 30 < container.n_presented < 70
    assert "90 frames expected" in container.damage
    assert f"found {container.n_presented}" in container.damage
    result = probe(path)
    assert result["error"] == container.damage
    assert result["facts"]["frames"] == 90
    assert result["facts"]["duration_sec"] == pytest.approx(3.0, abs=0.05)
    assert read_container(whole).damage is None


def test_the_first_bits_of_vp9_frames_tell_whether_they_are_shown():
    def shown(*data):
        return packets._vp9_shown(bytes(data))

    assert shown(0b10_0_0_0_0_1_0, 0)  # profile 0, not show_existing, key, shown
    assert not shown(0b10_0_0_0_1_0_0, 0)
    assert shown(0b10_0_0_1_000, 0)  # show_existing_frame
    assert shown(0b10_1_1_0_0_0_1, 0)  # profile 3 has one more bit
    assert not shown(0b10_1_1_0_0_1_0, 0)
    hidden, visible = bytes([0b10_0_0_0_1_0_0]) + b"aa", bytes([0b10_0_0_0_1_1_0]) + b"b"
    marker = bytes([0b110_00_001])
    superframe = hidden + visible + marker + bytes([len(hidden), len(visible)]) + marker
    assert packets._vp9_shown(superframe)
    marker = bytes([0b110_00_000])
    assert not packets._vp9_shown(hidden + marker + bytes([len(hidden)]) + marker)


@pytest.mark.parametrize(
    "rate", [Fraction(24000, 1001), Fraction(25), Fraction(30000, 1001), Fraction(29917, 1000)]
)
@pytest.mark.parametrize("clock", [1000, 90000, 600])
def test_a_constant_rate_survives_coarse_clocks(rate, clock):
    pts = np.array([round(k / rate * clock) for k in range(3000)])
    timing = by_times(pts, Fraction(1, clock), rate, 0)
    assert timing.average_rate == rate
    assert not timing.is_vfr
    timing = by_times(pts, Fraction(1, clock), Fraction(90000), 0)  # a container that is off
    assert float(timing.average_rate) == pytest.approx(float(rate), rel=1e-3)
    assert not timing.is_vfr


def test_a_dropped_slot_makes_the_rate_variable():
    pts = np.r_[np.arange(100), np.arange(101, 200)]
    assert by_times(pts, Fraction(1, 25), Fraction(25), 0).is_vfr
