"""What the times of frames that were counted are worth: evidence decides, or nothing does."""

from collections.abc import Sequence

import numpy as np
import pytest
from framefeat.video import reference
from framefeat.video.packets import NO_PTS, Packets


def packets_of(pts: Sequence[int], key: Sequence[int], dts: Sequence[int] | None = None) -> Packets:
    times = np.array(pts, dtype=np.int64)
    keys = np.isin(np.arange(len(pts)), key)
    flags = np.ones(len(pts), dtype=bool)
    return Packets(times, np.sort(times) if dts is None else np.array(dts), keys, keys, flags, ~flags)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch):
    """Set what the decoder gives out as it is, and what it gives when it is told to wait."""

    def give(times: Sequence[int], patient: Sequence[int] | None = None) -> None:
        def decode(name: str, tick: object, full_delay: bool) -> tuple[np.ndarray, np.ndarray]:
            taken = np.array(patient if full_delay and patient is not None else times, dtype=np.int64)
            return taken, np.zeros(len(taken), dtype=bool)

        monkeypatch.setattr(reference, "_decode", decode)

    return give


def order(packets: Packets, jump: int | None = None, guessed: bool = False) -> reference.Order:
    return reference.decoded_order("clip", packets, jump, lambda: None, guessed)


def test_times_in_order_are_the_frames_own(decoded) -> None:
    decoded([0, 40, 80, 120])
    found = order(packets_of([0, 120, 40, 80], [0]))
    assert found.times is not None
    assert found.times.tolist() == [0, 40, 80, 120]
    assert not found.doubts


def test_decoding_times_are_a_clock_and_no_order(decoded) -> None:
    decoded([0, 80, 120, 40])
    found = order(packets_of([0, 40, 80, 120], [0]))
    assert found.times is not None
    assert found.times.tolist() == [0, 40, 80, 120]
    assert not found.doubts


def test_times_may_lie_in_one_group_of_pictures_alone(decoded) -> None:
    decoded([0, 40, 80, 120, 160, 240, 200, 280])
    lying = packets_of([0, 120, 40, 80, 160, 200, 240, 280], [0, 4])
    assert not order(lying).doubts
    decoded([0, 80, 40, 120, 160, 200, 240, 280])
    assert order(lying).doubts


def test_a_decoder_that_lacks_its_delay_is_told_to_wait(decoded) -> None:
    decoded([0, 120, 40, 80], patient=[0, 40, 80, 120])
    found = order(packets_of([0, 120, 40, 80], [0]))
    assert found.full_delay
    assert found.times is not None
    assert found.times.tolist() == [0, 40, 80, 120]


def test_what_nothing_decides_is_a_doubt(decoded) -> None:
    decoded([0, 120, 40, 80], patient=[0, 120, 40, 80])
    found = order(packets_of([0, 120, 40, 80], [0]))
    assert found.times is None
    assert found.doubts


def test_a_format_without_times_raises_no_doubt(decoded) -> None:
    decoded([0, 120, 40, 80])
    found = order(packets_of([0, 120, 40, 80], [0]), guessed=True)
    assert found.times is None
    assert not found.doubts
    decoded([0, 40, NO_PTS, 120])
    assert order(packets_of([0, 120, 40, 80], [0])).times is None


def test_joined_recordings_go_on_by_one_frame(decoded) -> None:
    decoded([0, 40, 80, 20, 60, 100])
    packets = packets_of([0, 80, 40, 20, 100, 60], [0, 3], dts=[0, 40, 80, 20, 60, 100])
    found = order(packets)
    assert found.times is not None
    assert found.times.tolist() == [0, 40, 80, 120, 160, 200]
    assert "frame 3" in found.warnings[0]
    decoded([0, 80, 40, 20, 100, 60])
    assert order(packets).doubts


def test_a_clock_that_jumps_goes_on_by_one_frame_where_clocks_jump(decoded) -> None:
    decoded([0, 40, 80, 900_000, 900_040])
    packets = packets_of([0, 80, 40, 900_000, 900_040], [0])
    jumped, trusted = order(packets, jump=10_000), order(packets)
    assert jumped.times is not None
    assert jumped.times.tolist() == [0, 40, 80, 120, 160]
    assert trusted.times is not None
    assert trusted.times[-1] == 900_040
