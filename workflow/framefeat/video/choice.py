"""Which reader serves a file, and which other one looks at its frames again.

Three ways lead to the same frames: decord, PyAV that skips what no one needs, and PyAV that decodes all in order.
"""

from collections.abc import Sequence

import numpy as np

from framefeat.errors import UserError
from framefeat.video.container import Container
from framefeat.video.decord import DecordReader, lost_seek
from framefeat.video.packets import Tick, nothing
from framefeat.video.pyav import CountingReader, PyavReader, in_order_reader, is_read_whole
from framefeat.video.reader import Contradiction, Decoded, Reader, ReaderMistake


def choose_reader(
    container: Container, decoder: str = "auto", wanted: Sequence[int] = (0,), tick: Tick = nothing
) -> tuple[Reader, str]:
    """The reader that serves ``container`` and the reason; never a matter of timing.

    ``auto`` takes decord where its count, times, shape and the pixels of a decoded frame agree with PyAV's, and where
    every seek that it makes for ``wanted`` is known to land. With ``decord`` a file that it misreads is a
    ``UserError``. Raises ``Contradiction`` where PyAV finds that the packets do not tell the frames.
    """
    if decoder == "pyav":
        return pyav_reader(container, tick), "asked for"
    reader = None
    try:
        reader = DecordReader(container, tick)
        if lost := lost_seek(container, wanted, tick):
            raise ReaderMistake(f"{lost}, and decord counts on from where it asked to be")
        # Where PyAV decodes everything anyway, it looks at every frame afterwards.
        tried = [] if is_read_whole(container) else _tried_frames(container, wanted)
        frames, problems = take(PyavReader(container, tick), tried)
        for number in tried:
            if number not in frames:
                raise ReaderMistake(f"PyAV cannot decode frame {number} cleanly ({problems.get(number)})")
            reader.compare_pixels(Decoded(number, int(container.pts[number]), frames[number]))
    except ReaderMistake as mistake:
        if reader is not None:
            reader.close()
        if isinstance(mistake, Contradiction):
            raise
        if decoder == "decord":
            raise UserError(misread(container, mistake)) from None
        return pyav_reader(container, tick), str(mistake)
    agrees = "count, times, shape and pixels agree with PyAV's"
    return reader, f"asked for; {agrees}" if decoder == "decord" else agrees


def _tried_frames(container: Container, wanted: Sequence[int]) -> list[int]:
    """The first wanted frame, and the one cheapest to reach from a later key frame, so that decord must seek."""
    if not len(wanted):
        return [0]
    first = int(min(wanted))
    keys = np.flatnonzero(container.key)
    later = np.asarray([number for number in wanted if len(keys) > 1 and number >= keys[1]], dtype=np.int64)
    if not len(later):
        return [first]
    distance = later - keys[np.searchsorted(keys, later, side="right") - 1]
    return sorted({first, int(later[np.argmin(distance)])})


def misread(container: Container, mistake: ReaderMistake) -> str:
    """The sentence for a forced decord that cannot serve."""
    return f"{container.path!r}: decord misreads this file: {mistake}; set decoder: auto (or pyav)."


def pyav_reader(container: Container, tick: Tick = nothing) -> Reader:
    """The PyAV reader that can serve ``container``."""
    if container.index_source == "packets":
        return PyavReader(container, tick)
    return CountingReader(container, tick)


def other_reader(container: Container, used: str, tick: Tick = nothing, decord_serves: bool = True) -> Reader:
    """A reader that decodes independently of ``used`` (a reader's name): decord where it can serve, else in order."""
    if used == "decord":
        return PyavReader(container, tick)
    if used == "pyav" and decord_serves:
        try:
            return DecordReader(container, tick)
        except ReaderMistake:
            pass
    return in_order_reader(container, tick)


def own_reader(container: Container, used: str, tick: Tick = nothing) -> Reader:
    """The reader of that name; ``UserError`` where it no longer serves the file."""
    try:
        if used == "decord":
            return DecordReader(container, tick)
        if used == "pyav":
            return PyavReader(container, tick)
    except ReaderMistake as mistake:
        raise UserError(f"{container.path!r}: {used} no longer reads this file: {mistake}.") from None
    return in_order_reader(container, tick)


def take(reader: Reader, wanted: Sequence[int]) -> tuple[dict[int, np.ndarray], dict[int, str]]:
    """Frames by number (uint8 [H, W, 3]) that came cleanly, and the reasons of the others. For a few frames."""
    frames = {frame.native: frame.rgb for frame in reader.frames(sorted(set(wanted)))}
    problems = dict(reader.problems)
    for number in problems:
        frames.pop(number, None)
    return frames, problems
