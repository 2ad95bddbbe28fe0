"""What ends a process from outside, taken politely."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress


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
