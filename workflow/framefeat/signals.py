"""What ends a process from outside, taken politely."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_interrupted = threading.Event()


def watch_for_interruption() -> None:
    """Remember from now on that Ctrl-C was pressed; what it did before, it does still."""
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: FrameType | None) -> None:
        _interrupted.set()
        if callable(before):
            before(number, frame)

    with suppress(ValueError):  # not in the main thread
        if callable(before):
            signal.signal(signal.SIGINT, note)


def interrupted() -> bool:
    """Whether Ctrl-C was pressed since ``watch_for_interruption``."""
    return _interrupted.is_set()


@contextmanager
def polite_end() -> Iterator[None]:
    """SIGTERM and SIGHUP unwind the block, as Ctrl-C does: children are ended and no temporary file stays."""

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = {}
    with suppress(ValueError):  # not in the main thread
        for number in (signal.SIGTERM, signal.SIGHUP):
            before[number] = signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
