"""What a second decode proves, and what it does not."""

import numpy as np
import pytest
from framefeat.video.geometry import Geometry
from framefeat.video.reader import Decoded
from framefeat.video.second_look import fits_best, look_again

GEOMETRY = Geometry("squash", (16, 16))
COUNT = 30
SIZES = dict.fromkeys(range(COUNT), (16, 16))


def scene(step: float, colour: float = 0.0) -> np.ndarray:
    """uint8 [COUNT, 16, 16, 3]: noise in which ``step`` of 255 changes from frame to frame, in colours shifted by
    ``colour``."""
    random = np.random.default_rng(7)
    base = random.uniform(40, 200, (16, 16, 3))
    moving = np.cumsum(random.choice([-1, 1], (COUNT, 16, 16, 3)) * step, axis=0)
    return np.clip(np.rint(base + moving + colour), 0, 255).astype(np.uint8)


class Replay:
    """A reader of ready pictures; ``late`` frames come from that many places further on."""

    name = "replay"

    def __init__(self, pictures: np.ndarray, late: int = 0) -> None:
        self.pictures, self.late = pictures, late
        self.problems: dict[int, str] = {}

    def frames(self, wanted):
        for number in wanted:
            yield Decoded(number, number, self.pictures[number + self.late])


def look(own: np.ndarray, again: np.ndarray, numbers=(3, 10, 20), late: int = 0):
    return look_again(
        lambda: Replay(again, late),
        list(numbers),
        own=lambda number: own[number],
        sizes=SIZES,
        geometry=GEOMETRY,
        kept=[numbers[0]],
        count=COUNT - late,
    )


def test_the_same_bytes_are_a_proof():
    found = look(scene(2.0), scene(2.0))
    assert found.agrees
    assert found.differences == {3: 0.0, 10: 0.0, 20: 0.0}
    assert list(found.pixels) == [3]


def test_the_same_frames_are_not_resized_again():
    frames = scene(2.0)
    other = frames.copy()
    other[10] = frames[11]

    applied = []

    class Counting(Geometry):
        def apply(self, rgb: np.ndarray) -> np.ndarray:
            applied.append(rgb)
            return super().apply(rgb)

    found = look_again(
        lambda: Replay(other),
        [3, 10, 20],
        own=lambda number: frames[number],
        sizes=SIZES,
        geometry=Counting("squash", (16, 16)),
        kept=[3, 10],
        count=COUNT,
        whole={3: frames[3], 10: frames[10]},
    )
    assert found.differences[3] == found.differences[20] == 0.0 < found.differences[10]
    np.testing.assert_array_equal(found.pixels[3], frames[3])
    np.testing.assert_array_equal(found.pixels[10], other[10])
    assert len(applied) == 2 + 3  # 10 and 20, and 10 beside its neighbours
    assert list(found.unproved) == [10]


def test_other_colours_are_a_proof_where_neighbours_fit_worse():
    assert look(scene(3.0), scene(3.0, colour=1.0)).agrees


@pytest.mark.parametrize("step", [0.6, 1.2, 1.9])
def test_a_neighbour_of_a_quiet_scene_is_none(step):
    """Two decodes that differ by less than any tolerance, one frame apart."""
    found = look(scene(step), scene(step), late=1)
    assert max(found.differences.values()) < 2.0
    assert not found.agrees
    assert "as well" in found.unproved[10]


def test_a_still_scene_is_what_it_is():
    still = np.repeat(scene(0.0)[:1], COUNT, axis=0)
    assert look(still, still).agrees
    assert look(still, still + 1).agrees


def test_frames_that_do_not_come_or_are_damaged_prove_nothing():
    reader = Replay(scene(1.0))
    reader.problems = {10: "damage"}
    found = look_again(
        lambda: reader,
        [3, 10],
        own=lambda number: scene(1.0)[number],
        sizes=SIZES,
        geometry=GEOMETRY,
        kept=[3, 10],
        count=COUNT,
    )
    assert found.unproved == {10: "damage"}
    assert list(found.pixels) == [3]


def test_nothing_to_look_at_proves_nothing():
    assert not look_again(
        lambda: Replay(scene(1.0)),
        [],
        own=lambda number: scene(1.0)[number],
        sizes=SIZES,
        geometry=GEOMETRY,
        kept=[],
        count=COUNT,
    ).agrees


@pytest.mark.parametrize("colour", [0.0, 1.0])
def test_each_frame_has_a_size_of_its_own(colour):
    """Streams change their resolution on the way."""
    own = scene(3.0)
    large = [picture.repeat(2, axis=0).repeat(2, axis=1) for picture in scene(3.0, colour)]
    again = [*scene(3.0, colour)[:15], *large[15:]]
    found = look_again(
        lambda: Replay(again),
        [3, 10, 20],
        own=lambda number: GEOMETRY.apply(
            own[number] if number < 15 else own[number].repeat(2, 0).repeat(2, 1)
        ),
        sizes={3: (16, 16), 10: (16, 16), 20: (32, 32)},
        geometry=GEOMETRY,
        kept=[],
        count=COUNT,
    )
    assert found.agrees, found


def test_another_frame_size_is_another_frame():
    found = look_again(
        lambda: Replay(scene(1.0)),
        [3],
        own=lambda number: scene(1.0)[number],
        sizes=dict.fromkeys(range(COUNT), (32, 32)),
        geometry=GEOMETRY,
        kept=[3],
        count=COUNT,
    )
    assert not found.agrees


def test_the_best_fit_may_not_be_shared_with_another_picture():
    a, b = scene(2.0)[:2]
    assert fits_best(a, 0, {0: a, 1: b})
    assert not fits_best(a, 1, {0: a, 1: b})
    assert fits_best(a + 1, 0, {0: a, 1: a})
