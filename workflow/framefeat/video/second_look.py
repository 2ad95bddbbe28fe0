"""Frames decoded a second time by another reader, and whether they prove that the first ones are what they claim to be.

A frame is proved by a second decode that gives the same bytes, or where two decoders convert colours a little
differently, by one that it fits better than it fits the frames before and after. A tolerance alone proves nothing: in a
quiet scene neighbours differ by less than two decoders do.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from framefeat import tolerances
from framefeat.video.geometry import Geometry
from framefeat.video.reader import Reader, mean_difference

#: Of the frames that do not come again as the same bytes, so many are held against their neighbours.
_HELD_AGAINST_NEIGHBOURS = 16
_NONE: Mapping[int, np.ndarray] = MappingProxyType({})


@dataclass(frozen=True)
class SecondLook:
    """What a second decode of frames ``numbers`` gave.

    ``kept``: those of them whose resized frames (uint8 [h, w, 3]) are in ``pixels``, if they came. ``differences``:
    mean absolute difference (of 255) by number, 255 where the frame did not come. ``unproved``: why each frame that is
    not proved is not.
    """

    reader: str
    numbers: tuple[int, ...]
    kept: tuple[int, ...] = ()
    differences: dict[int, float] = field(default_factory=dict)
    pixels: dict[int, np.ndarray] = field(default_factory=dict)
    unproved: dict[int, str] = field(default_factory=dict)

    @property
    def agrees(self) -> bool:
        return bool(self.numbers) and not self.unproved


def look_again(
    make_reader: Callable[[], Reader],
    numbers: Sequence[int],
    *,
    own: Callable[[int], np.ndarray],
    sizes: Mapping[int, tuple[int, int]],
    geometry: Geometry,
    kept: Sequence[int],
    count: int,
    whole: Mapping[int, np.ndarray] = _NONE,
) -> SecondLook:
    """Decode ``numbers`` (ascending, of ``count`` frames) through a second reader and compare.

    ``own``: the first decode's resized frame of a number. ``sizes``: height and width of its frames before that.
    ``whole``: those of its frames (uint8 [H, W, 3]) that are still at hand: the same ones need not be resized again.
    """
    reader = make_reader()
    differences: dict[int, float] = dict.fromkeys(numbers, 255.0)
    pixels: dict[int, np.ndarray] = {}
    unequal: list[int] = []
    for frame in reader.frames(numbers):
        first = whole.get(frame.native)
        if first is not None and np.array_equal(first, frame.rgb):
            differences[frame.native] = 0.0
            if frame.native in kept:
                pixels[frame.native] = own(frame.native)
            continue
        resized = geometry.apply(frame.rgb)
        same_size = frame.rgb.shape[:2] == sizes[frame.native]
        difference = mean_difference(own(frame.native), resized) if same_size else 255.0
        differences[frame.native] = round(min(difference, 255.0), 4)
        if frame.native in kept:
            pixels[frame.native] = resized
        if difference > 0:
            unequal.append(frame.native)
    unproved = {
        number: f"differs by {difference:.1f} of 255" if difference < 255 else "did not come again"
        for number, difference in differences.items()
        if difference > tolerances.PIXELS
    }
    unproved |= {number: why for number, why in reader.problems.items() if number in differences}
    for number in reader.problems:
        pixels.pop(number, None)
    near = [number for number in unequal if number not in unproved]
    if near:
        held = spread(near, _HELD_AGAINST_NEIGHBOURS)
        unproved |= _like_a_neighbour(make_reader(), held, own, geometry, count)
    return SecondLook(reader.name, tuple(numbers), tuple(kept), differences, pixels, unproved)


def _like_a_neighbour(
    reader: Reader, numbers: Sequence[int], own: Callable[[int], np.ndarray], geometry: Geometry, count: int
) -> dict[int, str]:
    """Those of ``numbers`` whose own picture fits the frame before or after as well as the one that it claims to be."""
    wanted = sorted({near for n in numbers for near in (n - 1, n, n + 1) if 0 <= near < count})
    held: dict[int, np.ndarray] = {}
    unproved: dict[int, str] = {}
    asked = set(numbers)
    for frame in reader.frames(wanted):
        held[frame.native] = geometry.apply(frame.rgb)
        for number in (frame.native - 1, *([frame.native] if frame.native == count - 1 else [])):
            if number in asked and number in held and not fits_best(own(number), number, held):
                unproved[number] = "fits the frame before or after it as well"
        for old in [n for n in held if n < frame.native - 1]:
            del held[old]
    return unproved


def fits_best(picture: np.ndarray, number: int, frames: dict[int, np.ndarray]) -> bool:
    """Whether ``picture`` is closer to ``frames[number]`` than to its neighbours there; one that is the same picture
    does not count."""
    claimed = frames[number]
    distance = mean_difference(picture, claimed)
    return all(
        distance < mean_difference(picture, frames[near]) or np.array_equal(claimed, frames[near])
        for near in (number - 1, number + 1)
        if near in frames
    )


def spread(items: Sequence[int], most: int) -> list[int]:
    """At most ``most`` of ``items``, evenly spaced, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(k * (len(items) - 1) / (most - 1))] for k in range(most)]
