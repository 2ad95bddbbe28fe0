"""The definition of frame k: the k-th that leaves the decoder when everything is decoded in order.

Where packets do not tell the frames, the file is decoded once to count them. What their times are worth is decided by
evidence; where it cannot be decided, that is a doubt, and the video is never verified.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from framefeat.video.packets import NO_PTS, Packets, Tick, best_stream, open_source

#: A step of the clock beyond this many seconds is a restart where the format's clocks restart (FFmpeg's
#: dts_delta_threshold).
JUMP_SECONDS = 10.0
#: A step of the clock that is so many times the usual one begins another recording.
_UNUSUAL = 250
#: A decoder that waits for as many pictures as the standard allows gives them out in the order of display.
FULL_DELAY = {"strict": "1"}


@dataclass(frozen=True)
class Order:
    """The frames that come out: ``times`` int64 [n] (ticks, ascending; None: unusable) and ``key`` bool [n].

    ``full_delay``: the decoder has to be told to wait (its stream's own word is lost). ``doubts``: what stays
    undecided.
    """

    key: np.ndarray
    times: np.ndarray | None
    full_delay: bool = False
    warnings: tuple[str, ...] = ()
    doubts: tuple[str, ...] = field(default=())


def decoded_order(name: str, packets: Packets, jump: int | None, tick: Tick, guessed: bool = False) -> Order:
    """Decode everything in order. ``jump``: ticks beyond which a step of the clock is a restart (None: never).
    ``guessed``: the format stores no presentation times, so that those that FFmpeg gives are no evidence."""
    times, key = _decode(name, tick, full_delay=False)
    if guessed or not len(times) or (times == NO_PTS).any() or (packets.pts[packets.shown] == NO_PTS).any():
        usable = len(times) and (times != NO_PTS).all() and _ascends(times)
        return Order(key, times if usable else None)
    if clock_goes_back(packets):
        return _joined(times, key, packets, jump)
    if _ascends(times):
        return _continued(times, key, jump)
    if _lie_where_they_differ(times, packets):
        # Nothing but the decoder tells the order; the times are a clock that frames were given in the order of
        # decoding.
        sorted_times = np.sort(times)
        return Order(
            key,
            sorted_times if _ascends(sorted_times) else None,
            warnings=(
                "its presentation times are decoding times; frames are taken as they leave the decoder",
            ),
        )
    patient, patient_key = _decode(name, tick, full_delay=True)
    if len(patient) == len(times) and _ascends(patient):
        return Order(
            patient_key,
            patient,
            full_delay=True,
            warnings=("its decoder does not know how long to wait for pictures in order; it was told",),
        )
    return Order(
        key,
        None,
        doubts=(
            "frames leave the decoder in another order than that of their times, and nothing tells which is right",
        ),
    )


def clock_goes_back(packets: Packets) -> int:
    """How often the file's clock steps back: recordings joined end to end.

    Decoding times tell, unless presentation times rise from packet to packet: where a format stores none (Matroska),
    FFmpeg's guesses at decoding times stumble over such files.
    """
    if _ascends(packets.pts[packets.shown]):
        return 0
    known = packets.dts[packets.dts != NO_PTS]
    return int((np.diff(known) < 0).sum())


def joints(packets: Packets) -> np.ndarray:
    """Positions (int64) of packets at which another recording begins, by their decoding times."""
    steps = np.diff(packets.dts)
    usual = np.median(steps) if len(steps) else 0
    return np.flatnonzero((steps < 0) | (steps > max(1, _UNUSUAL * usual))) + 1


def _lie_where_they_differ(times: np.ndarray, packets: Packets) -> bool:
    """Whether frames leave the decoder out of the order of their times only in groups of pictures whose packets' times
    rise in the file: there they are decoding times. Elsewhere times that are reordered speak against the decoder."""
    shown = np.flatnonzero(packets.shown)
    group = np.searchsorted(np.flatnonzero(packets.key), shown, side="right")
    falls = np.flatnonzero((np.diff(packets.pts[shown]) <= 0) & (np.diff(group) == 0))
    reordered = packets.pts[shown[np.isin(group, group[falls])]]
    back = np.flatnonzero(np.diff(times) <= 0)
    return not np.isin(np.concatenate([times[back], times[back + 1]]), reordered).any()


def restarts(times: np.ndarray, jump: int | None) -> np.ndarray:
    """Frames (int64) at which the clock begins anew: it steps back, or forward by more than ``jump`` ticks."""
    steps = np.diff(times)
    return np.flatnonzero((steps <= 0) | (steps > jump if jump is not None else False)) + 1


def _ascends(times: np.ndarray) -> bool:
    return bool((np.diff(times) > 0).all())


def _joined(times: np.ndarray, key: np.ndarray, packets: Packets, jump: int | None) -> Order:
    back = int((np.diff(times) <= 0).sum())
    if back > clock_goes_back(packets):
        return Order(
            key,
            None,
            doubts=("its clock goes back, and within its parts frames are out of the order of their times",),
        )
    return _continued(times, key, jump)


def _continued(times: np.ndarray, key: np.ndarray, jump: int | None) -> Order:
    """Where the clock begins anew, it goes on by one median interval instead."""
    places = restarts(times, jump)
    if not len(places):
        return Order(key, times)
    steps = np.diff(times)
    usual = np.delete(steps, places - 1)
    steps[places - 1] = max(1, int(np.median(usual))) if len(usual) else 1
    where = ", ".join(map(str, places[:5].tolist()))
    return Order(
        key,
        np.concatenate([times[:1], times[0] + np.cumsum(steps)]),
        warnings=(f"its clock begins anew at frame {where}; times go on by one frame there",),
    )


def _decode(name: str, tick: Tick, full_delay: bool) -> tuple[np.ndarray, np.ndarray]:
    times: list[int] = []
    key: list[bool] = []
    for frame in decode_in_order(name, tick, full_delay):
        times.append(NO_PTS if frame.pts is None else frame.pts)
        key.append(bool(frame.key_frame))
    return np.array(times, dtype=np.int64), np.array(key, dtype=bool)


def decode_in_order(name: str, tick: Tick, full_delay: bool = False) -> Iterator[Any]:
    """Every frame of the best video stream from the file's start, on one thread; packets that fail give none."""
    import av

    with open_source(name) as source:
        stream = best_stream(source, name)
        prepare(stream, full_delay)
        packets = source.demux(stream)
        count = 0
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError:
                packet = None
            ending = packet is None or (packet.size == 0 and packet.pts is None and packet.dts is None)
            with suppress(av.FFmpegError, EOFError):
                yield from stream.codec_context.decode(None if ending else packet)
            if ending:
                return
            count += 1
            if count % 20 == 0:
                tick()


def prepare(stream: Any, full_delay: bool) -> None:
    """One thread, so that what comes out never depends on timing; and the wait for pictures in order, where asked
    for."""
    context = stream.codec_context
    context.thread_count = 1
    stream.thread_type = "NONE"
    if full_delay:
        context.options = dict(FULL_DELAY)
