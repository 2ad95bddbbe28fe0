"""Which frames of a file are presented, and when: as its packets tell, or counted where these are contradicted."""

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

from framefeat.video.contradictions import contradicted
from framefeat.video.packets import NO_PTS, Packets, Reading, Tick
from framefeat.video.reference import JUMP_SECONDS, decoded_order

_NO_TIMESTAMPS, _TS_DISCONT = 0x0080, 0x0200  # AVFMT_NOTIMESTAMPS, AVFMT_TS_DISCONT
_EMPTY = (
    "{} slots of its index hold no frame, and its format does not tell which frames stand longer for it: when its frames are "
    "shown is a guess"
)


@dataclass(frozen=True)
class Presented:
    """The presented frames, fields as in ``Container`` (``source``: its ``index_source``)."""

    pts: np.ndarray
    key: np.ndarray
    packet: np.ndarray
    source: str
    full_delay: bool = False
    warnings: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


def presented(
    name: str,
    source: Any,
    stream: Any,
    reading: Reading,
    packets: Packets,
    tick: Tick,
    contradiction: str | None,
) -> Presented:
    """The frames that the packets tell; where something contradicts them, those that a decode in order gives.

    ``contradiction``: see ``container.read_container``.
    """
    jump = _jump(source, Fraction(stream.time_base))
    doubt = contradiction or contradicted(name, source, stream.codec_context, packets, reading, jump, tick)
    in_slots = "avi" in source.format.name
    if doubt is None:
        found = _by_packets(packets)
    else:
        guessed = bool(int(source.format.flags) & _NO_TIMESTAMPS or in_slots)
        found = _by_decoding(name, packets, jump, doubt, tick, guessed)
    empty = empty_slots(packets.dts) if in_slots and _are_guesses(found, packets) else 0
    return replace(found, doubts=(*found.doubts, _EMPTY.format(empty))) if empty > 1 else found


def _are_guesses(found: Presented, packets: Packets) -> bool:
    """Whether an AVI's times are not its slots, all moved alike: there are none, or FFmpeg made them up from slots of
    which some are empty."""
    moved = packets.pts - packets.dts
    return found.source == "rate" or bool((moved != moved[0]).any())


def empty_slots(dts: np.ndarray) -> int:
    """How many slots of an AVI, one tick each, hold no packet between the first and the last of ``dts`` (int64)."""
    if not len(dts) or (dts == NO_PTS).any():
        return 0
    return max(0, int(dts.max() - dts.min()) + 1 - len(dts))


def _by_packets(packets: Packets) -> Presented:
    shown = np.flatnonzero(packets.shown)
    order = shown[np.argsort(packets.pts[shown], kind="stable")]
    return Presented(packets.pts[order], packets.key[order], order, "packets")


def _by_decoding(
    name: str, packets: Packets, jump: int | None, doubt: str, tick: Tick, guessed: bool
) -> Presented:
    order = decoded_order(name, packets, jump, tick, guessed)
    count = len(order.key)
    return Presented(
        np.arange(count, dtype=np.int64) if order.times is None else order.times,
        order.key,
        np.full(count, -1, dtype=np.int64),
        "rate" if order.times is None else "decode",
        order.full_delay,
        (
            f"the packets do not tell the frames ({doubt}); the file was decoded in order to count them",
            *order.warnings,
        ),
        order.doubts,
    )


def _jump(source: Any, time_base: Fraction) -> int | None:
    """Ticks beyond which a step of the clock is a restart, in formats whose clocks restart; None elsewhere."""
    restarting = int(source.format.flags) & _TS_DISCONT or "flv" in source.format.name
    return int(JUMP_SECONDS / time_base) if restarting else None


def clock_doubts(pts: np.ndarray, time_base: Fraction, source: Any) -> list[str]:
    """A gap longer than all other intervals together, in a format without durations: a pause, or another clock?"""
    if len(pts) < 3 or not {"matroska", "webm", "flv"} & set(source.format.name.split(",")):
        return []
    steps = np.diff(pts)
    widest = int(steps.argmax())
    gap, rest = int(steps[widest]), int(steps.sum() - steps[widest])
    if gap * time_base <= JUMP_SECONDS or gap < 20 * rest:
        return []
    return [
        f"its clock jumps by {float(gap * time_base):.0f} s at frame {widest + 1}, and nothing tells whether that is a pause "
        "or the beginning of another clock"
    ]
