"""Text for a terminal."""

import io

import pytest
from framefeat import terminal


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_width() -> None:
    assert terminal.width("名前") == 4
    assert terminal.width("e\u0301") == 1
    assert terminal.width("") == 0
    assert terminal.width("\x1b[31mred\x1b[0m") == 3


def test_wrapped_text_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "12")
    out = Terminal()
    terminal.print_wrapped("  a note on /a/very/long/path of 名前名前名前", out, indent="    ")
    lines = out.getvalue().splitlines()
    assert lines == ["  a note on", "    /a/very/", "    long/pat", "    h of", "    名前名前", "    名前"]
    plain = io.StringIO()
    terminal.print_wrapped("a note that goes on and on", plain)
    assert plain.getvalue() == "a note that goes on and on\n"


def test_a_narrow_table_drops_and_then_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    out = Terminal()
    terminal.print_table(
        ["video", "rows", "size"], [["a long name here", "12", "640x360"]], out, droppable=[2], cut=0
    )
    assert out.getvalue().splitlines() == ["video           rows", "a long name h…  12"]
