"""What contradicts the packets. An index made of them is a prediction, believed while nothing here is found."""

from typing import Any

import numpy as np

from framefeat.video.packets import (
    NO_PTS,
    TRIED_PACKETS,
    Packets,
    Reading,
    Tick,
    Trial,
    best_stream,
    open_source,
    packets_of,
)
from framefeat.video.reference import clock_goes_back, prepare, restarts

#: Formats that store a presentation time for every packet; the times of others are FFmpeg's guesses.
_TIMED_FORMATS = {"mov", "mp4", "matroska", "webm", "flv", "ivf", "ogg", "nut", "gif", "apng"}
#: A group of pictures of so many packets, none of them reordered, is a contradiction where the decoder reorders.
_GROUP = 8


def contradicted(
    name: str, source: Any, context: Any, packets: Packets, reading: Reading, jump: int | None, tick: Tick
) -> str | None:
    """Why the packets do not tell the presented frames, or None where nothing contradicts them.

    ``jump``: ticks beyond which a step of the clock is a restart (None: never).
    """
    shown = packets.pts[packets.shown]
    if not len(shown):
        return "no packet is marked as shown"
    if (shown == NO_PTS).any():
        return f"{int((shown == NO_PTS).sum())} of {len(shown)} have no presentation time"
    if twice := int((np.diff(np.sort(shown)) == 0).sum()):
        return f"{twice} presentation times occur twice"
    if clock_goes_back(packets):
        return "the file's clock goes back"
    if jump is not None and len(restarts(np.sort(shown), jump)):
        return "the file's clock jumps"
    if reading.unordered:
        return f"{reading.unordered} B pictures are shown after all that was decoded before them"
    if reading.unbegun:
        return f"in {reading.unbegun} packets no picture begins"
    if reading.second_fields:
        return f"{reading.second_fields} packets hold the second field of the frame before them"
    if reading.begins_anew:
        return f"{reading.begins_anew} sequences begin amid it, where decoders drop pictures"
    if unmoved := _unmoved_group(packets, context):
        return unmoved
    timed = bool(_TIMED_FORMATS & set(source.format.name.split(",")))
    if reading.trial.complete and (reason := _of_trial(reading.trial, timed)):
        return reason
    first_key = int(np.argmax(packets.key)) if packets.key.any() else len(packets) - 1
    early = packets.shown & (packets.pts < packets.pts[first_key])
    early[:first_key] |= packets.shown[:first_key]
    if early.any():  # they may or may not be decodable
        most = int(np.flatnonzero(early)[-1]) + 1 + TRIED_PACKETS
        return _of_trial(_try_first(name, most, tick), timed=False)
    return None


def _unmoved_group(packets: Packets, context: Any) -> str | None:
    """HEVC, whose slices tell less: a decoder that reorders, and a group of pictures whose times do not."""
    if context.codec.canonical_name != "hevc" or not context.has_b_frames:
        return None
    edges = np.r_[np.flatnonzero(packets.key), len(packets)]
    for first, end in zip(edges[:-1], edges[1:], strict=True):
        if end - first >= _GROUP and (np.diff(packets.pts[first:end]) > 0).all():
            return f"pictures are reordered, and the times of {end - first} packets from packet {first} on are not"
    return None


def _of_trial(trial: Trial, timed: bool) -> str | None:
    """What the first frames say against the packets: each that is shown must come out, in order, at its packet's time.

    Where a packet cannot be decoded and the format is ``timed``, its frame alone is missing.
    """
    given, taken = trial.given, trial.taken
    if any(pts is None for pts in taken) or not set(taken) <= set(given):
        return "frames of the first packets have other times than their packets"
    if any(b <= a for a, b in zip(taken, taken[1:], strict=False)):  # type: ignore[operator]
        return "the first frames leave the decoder in another order than that of their times"
    if len(taken) < len(given) and not (timed and trial.failed):
        return f"the first {len(given)} packets give {len(taken)} frames"
    return None


def _try_first(name: str, most: int, tick: Tick) -> Trial:
    """Decode the first ``most`` packets."""
    import av

    trial = Trial()
    with open_source(name) as source:
        stream = best_stream(source, name)
        prepare(stream, full_delay=False)
        try:
            for position, packet in enumerate(packets_of(av, source, stream)):
                if position == most:
                    break
                tick()
                if packet.size and not packet.is_discard:
                    trial.given.append(packet.pts)
                trial.taken += [frame.pts for frame in stream.codec_context.decode(packet)]
            trial.taken += [frame.pts for frame in stream.codec_context.decode(None)]
        except av.FFmpegError:
            trial.failed = True
    return trial
