"""What ends a process from outside, taken politely."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType

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
            _deliver_a_lost_one_again()
            _print_no_traceback()


def _deliver_a_lost_one_again() -> None:
    """Where Ctrl-C meets Python in a finalizer or a weak reference's callback, Python prints its
    ``KeyboardInterrupt`` as 'ignored' and the program goes on: send it again, and do not print it."""
    before = sys.unraisablehook

    def look(lost: "sys.UnraisableHookArgs") -> None:
        if issubclass(lost.exc_type, KeyboardInterrupt):
            main = threading.main_thread().ident
            if main is not None:
                threading.Timer(0.05, signal.pthread_kill, (main, signal.SIGINT)).start()
        else:
            before(lost)

    sys.unraisablehook = look


def _print_no_traceback() -> None:
    """Where nothing takes the ``KeyboardInterrupt`` (Snakemake does while it waits for jobs, and not while it works out
    which come next), no traceback is printed: neither at the end, nor of the task of asyncio that it ended."""
    import logging  # by Snakemake's process alone, which has it

    before = sys.excepthook

    def look(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            print(_last_words(), file=sys.stderr)
        else:
            before(kind, error, trace)

    sys.excepthook = look
    logging.getLogger("asyncio").addFilter(
        lambda record: not (record.exc_info and isinstance(record.exc_info[1], KeyboardInterrupt))
    )


def _last_words() -> str:
    return "interrupted; the same command goes on"


def say_at_the_end(words: Callable[[], str]) -> None:
    """What a run says that Ctrl-C ends where nothing else takes it."""
    global _last_words
    _last_words = words


def interrupted(within: float = 0) -> bool:
    """Whether Ctrl-C was pressed since ``watch_for_interruption``; ``within`` so many seconds from now counts, too."""
    return _interrupted.wait(within)


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
