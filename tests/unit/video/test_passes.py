import numpy as np
from framefeat.video.packets import Packets
from framefeat.video.passes import leading_pictures, least_pass, start_of
from hypothesis import given, settings
from hypothesis import strategies as st


@st.composite
def packets_and_wanted(draw):
    """Groups of pictures in file order: a key frame, then others, some of them shown before it (open groups)."""
    pts: list[int] = []
    key: list[bool] = []
    shown_until = 0
    for group in range(draw(st.integers(1, 6))):
        size = draw(st.integers(1, 12))
        lead = 0 if group == 0 else draw(st.integers(0, min(3, size - 1)))
        order = list(range(shown_until, shown_until + size))
        first = order.pop(lead)
        rest = order[:lead] + draw(st.permutations(order[lead:]))
        pts += [first, *rest]
        key += [True, *([False] * (size - 1))]
        shown_until += size
    count = len(pts)
    flags = np.ones(count, dtype=bool)
    packets = Packets(np.array(pts), np.array(pts), np.array(key), np.array(key), flags, ~flags)
    wanted = draw(st.lists(st.integers(0, count - 1), unique=True, max_size=count))
    return packets, sorted(wanted)


@given(packets_and_wanted())
@settings(max_examples=300, deadline=None)
def test_a_pass_feeds_all_that_is_needed_and_starts_at_keys(case):
    packets, wanted = case
    found = least_pass(packets, wanted)
    keys = np.flatnonzero(packets.key)
    assert found.wanted.sum() == len(wanted)
    needed = np.zeros(len(packets), dtype=bool)
    for position in wanted:
        start = start_of(packets, keys, position)
        assert packets.key[start]
        assert packets.pts[start] <= packets.pts[position]
        assert found.start[position] == start
        assert not any(k for k in keys if start < k <= position and packets.pts[k] <= packets.pts[position])
        needed[start : position + 1] = True
    np.testing.assert_array_equal(found.feed, needed)  # all that is needed and nothing else
    restarts = np.flatnonzero(found.restart)
    assert packets.key[restarts].all()
    # A break in what is fed is a restart, and nothing else is.
    before = np.r_[False, found.feed[:-1]]
    np.testing.assert_array_equal(found.restart, found.feed & ~before)
    assert not (found.leading & found.wanted).any()
    assert found.end == (int(np.flatnonzero(found.feed)[-1]) + 1 if wanted else 0)


def test_an_open_groups_first_pictures_come_from_the_group_before():
    #            I0 P3 B1 B2 | I6 B4 B5 P8 B7
    pts = np.array([0, 3, 1, 2, 6, 4, 5, 8, 7])
    key = np.array([1, 0, 0, 0, 1, 0, 0, 0, 0], dtype=bool)
    packets = Packets(pts, pts, key, key, np.ones(9, dtype=bool), np.zeros(9, dtype=bool))
    assert leading_pictures(packets) == 2
    found = least_pass(packets, [5])
    assert found.start[5] == 0
    assert found.feed.tolist() == [True] * 6 + [False] * 3
    found = least_pass(packets, [8])
    assert found.start[8] == 4
    assert found.feed.tolist() == [False] * 4 + [True] * 5
    assert found.leading.tolist() == [False] * 5 + [True] * 2 + [False] * 2
