"""Text for a terminal."""

from framefeat import terminal


def test_width() -> None:
    assert terminal.width("名前") == 4
    assert terminal.width("e\u0301") == 1
    assert terminal.width("") == 0
