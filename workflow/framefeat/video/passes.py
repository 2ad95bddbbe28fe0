"""What a pass through a file feeds to the decoder to get some frames: pure functions of its packets."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from framefeat.video.packets import Packets

#: Codecs of which a pass may leave packets out: what travels with their packets is read (see ``bitstream``), and FFmpeg
#: leaves out non-reference frames packet by packet, with the same bytes for all other frames. All others are decoded
#: whole.
SKIPPABLE_CODECS = frozenset({"h264", "hevc"})
#: Of the groups of pictures that a pass enters, every so many-th is decoded whole, and its frames are compared with the
#: index.
_WHOLE_GROUPS = 16


@dataclass(frozen=True)
class Pass:
    """What a forward pass feeds to the decoder, by packet position (all arrays [m], file order).

    ``feed`` bool; ``restart`` bool: drain and reset the decoder before this packet; ``wanted`` bool: its frame is
    asked for; ``leading`` bool: follows a restart's key frame but is shown before it, so that it may fail harmlessly;
    ``whole`` bool: nothing around it is left out, so that its frame must come. ``start`` int64: for a wanted packet the
    key packet that it is decoded from, else -1. ``end``: nothing at or after this position is needed.
    """

    feed: np.ndarray
    restart: np.ndarray
    wanted: np.ndarray
    leading: np.ndarray
    whole: np.ndarray
    start: np.ndarray
    end: int


def least_pass(packets: Packets, wanted: Sequence[int] | np.ndarray) -> Pass:
    """The least that gives the frames of the packets at positions ``wanted``, from key frames on, without a seek.

    A frame is decoded from the last key packet before it that is not shown after it: the pictures that an open group
    leads with are decoded from the key frame of the group before.
    """
    count = len(packets)
    is_wanted = np.zeros(count, dtype=bool)
    is_wanted[np.asarray(wanted, dtype=np.int64)] = True
    start = np.full(count, -1, dtype=np.int64)
    edges = np.zeros(count + 1, dtype=np.int64)
    keys = np.flatnonzero(packets.key)
    for position in np.flatnonzero(is_wanted):
        first = start_of(packets, keys, int(position))
        start[position] = first
        edges[first] += 1
        edges[position + 1] -= 1
    feed = np.cumsum(edges[:-1]) > 0
    begins = feed & ~np.r_[False, feed[:-1]]
    leading = np.zeros(count, dtype=bool)
    for first in np.flatnonzero(begins).tolist():
        if packets.key[first]:
            place = first + 1
            while place < count and feed[place] and packets.pts[place] < packets.pts[first]:
                leading[place] = True
                place += 1
    end = int(np.flatnonzero(feed)[-1]) + 1 if feed.any() else 0
    group = np.maximum(np.searchsorted(keys, np.arange(count), side="right"), 1)
    whole = feed & (group % _WHOLE_GROUPS == 1)
    return Pass(feed, begins, is_wanted, leading & ~is_wanted, whole, start, end)


def whole_pass(packets: Packets, wanted: Sequence[int] | np.ndarray) -> Pass:
    """Everything in order, from the first packet to the last that is wanted."""
    count = len(packets)
    is_wanted = np.zeros(count, dtype=bool)
    is_wanted[np.asarray(wanted, dtype=np.int64)] = True
    end = int(np.flatnonzero(is_wanted)[-1]) + 1 if is_wanted.any() else 0
    feed = np.arange(count) < end
    none = np.zeros(count, dtype=bool)
    start = np.where(is_wanted, 0, -1)
    return Pass(feed, none, is_wanted, none, feed, start, end)


def leading_pictures(packets: Packets) -> int:
    """How many packets follow a key packet and are shown before it: open groups of pictures, where a reader that seeks
    must know what it drops."""
    keys = np.flatnonzero(packets.key)
    if not len(keys):
        return 0
    group = np.searchsorted(keys, np.arange(len(packets)), side="right") - 1
    begun = group >= 0
    return int((packets.pts[begun] < packets.pts[keys[group[begun]]]).sum())


def decode_cost(packets: Packets, positions: Sequence[int] | np.ndarray) -> np.ndarray:
    """How many packets must be decoded for the frame of each packet alone: int64, one for each of ``positions``."""
    keys = np.flatnonzero(packets.key)
    return np.array(
        [position - start_of(packets, keys, position) + 1 for position in map(int, positions)], dtype=np.int64
    )


def start_of(packets: Packets, keys: np.ndarray, position: int) -> int:
    """Position of the key packet that the packet at ``position`` is decoded from (0 if there is none)."""
    place = int(np.searchsorted(keys, position, side="right")) - 1
    while place >= 0 and packets.pts[keys[place]] > packets.pts[position]:
        place -= 1
    return int(keys[place]) if place >= 0 else 0
