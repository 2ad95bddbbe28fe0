"""What the first bytes of packets tell, in long files of which most packets are never decoded."""

import numpy as np
import pytest
from framefeat.proof.raw_h264 import Stream, fields_of
from framefeat.video.bitstream import Parser
from framefeat.video.container import read_container

from tests import clips

_RECOVERY = b"\0\0\0\1\x06\x06\x01\xc4\x80"


def test_a_recovery_is_believed_at_an_intra_picture_only():
    # Slice headers of an I and a P picture: first_mb_in_slice 0, slice_type 7 or 5.
    parser = Parser("h264", None)
    intra, predicted = (b"\0\0\0\1\x41" + bytes([bits]) + b"\xff" * 8 for bits in (0b1_0001000, 0b1_00110_11))
    assert parser.head(memoryview(_RECOVERY + intra)).entry
    assert not parser.head(memoryview(_RECOVERY + predicted)).entry
    assert not parser.head(memoryview(intra)).entry


def test_fields_are_told_from_frames():
    stream = Stream(64, 64, fields=True)
    grey = np.zeros((64, 64), dtype=np.uint8)
    parser = Parser("h264", stream.sps() + stream.pps())
    first, second = fields_of(stream, grey, display=3, decoding=3, key=False)
    assert parser.head(memoryview(first)).field == (3, False)
    assert parser.head(memoryview(second)).field == (3, True)
    assert parser.head(memoryview(stream.picture(grey, display=3, decoding=3))).field is None


def test_a_lost_reference_picture_is_noticed():
    stream = Stream(64, 64)
    grey = np.zeros((64, 64), dtype=np.uint8)
    parser = Parser("h264", stream.sps() + stream.pps())

    def lost(decoding: int, **more: bool) -> bool:
        return parser.head(memoryview(stream.picture(grey, display=1, decoding=decoding, **more))).lost

    assert [lost(0, key=True), lost(1, needed=False), lost(1), lost(3), lost(4)] == [0, 0, 0, 1, 0]


@pytest.mark.parametrize(
    ("data", "begins"),
    [
        (b"\0\0\1\x02\x01\xc0\xff", True),
        (b"\0\0\1\x02\x01\x40\xff", False),  # a later slice of a picture
        (b"\0\0\1\x46\x01\x50", False),  # a delimiter alone
        (b"\0\0\1\x02\x01", False),
        (b"damaged", True),  # it cannot be told
    ],
)
def test_a_packet_without_the_beginning_of_a_picture_is_noticed(data, begins):
    assert Parser("hevc", None).head(memoryview(data)).begins == begins


def test_sets_that_no_encoder_writes_are_no_trouble():
    random = np.random.default_rng(0)
    for _ in range(300):
        noise = random.bytes(40)
        parser = Parser("h264", b"\0\0\1\x67" + noise)
        parser.head(memoryview(b"\0\0\1\x67" + noise[::-1] + b"\0\0\1\x41" + noise))


@pytest.mark.parametrize("file", ["fields_amid.mp4", "broken_link.mp4"])
def test_packets_without_a_frame_of_their_own_amid_a_long_file_are_a_contradiction(file):
    path, truth = clips.odd(file)
    container = read_container(path)
    assert container.index_source == "decode"
    assert container.n_presented == len(truth.times)


def test_a_false_promise_of_recovery_is_no_place_to_begin():
    path, _ = clips.odd("promised_recovery.mp4")
    assert read_container(path).key.sum() == 1
