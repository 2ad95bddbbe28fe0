"""Run a function in a forked process that may crash or hang: its signs of life and its answer come through a pipe."""

import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from framefeat.errors import MachineError, UserError, machine_trouble

_SIGN_OF_LIFE_SECONDS = 0.5
_SIGNAL_SECONDS = 0.5
#: Sent by the system (out of memory, limits) or by somebody; no decoder sends them to itself.
_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU)


class ChildLost(Exception):
    """The child ended without an answer: ``how``, and the last ``state`` that it told.

    ``silent``: it hung and was killed. ``from_outside``: a signal that no code sends itself, so the system's
    out-of-memory killer or a person. ``trace``: of an exception that nobody foresaw.
    """

    def __init__(
        self,
        how: str,
        state: dict[str, Any],
        *,
        silent: bool = False,
        from_outside: bool = False,
        trace: str = "",
    ) -> None:
        super().__init__(how)
        self.how, self.state = how, state
        self.silent, self.from_outside, self.trace = silent, from_outside, trace


class Line:
    """The child's end of the pipe. A write fails when the parent is gone, and that ends the child."""

    def __init__(self, writing: int) -> None:
        self._writing = writing
        self._last = 0.0

    def say(self, **state: Any) -> None:
        """A sign of life, and what the parent should know if it was the last one."""
        self.send({"state": state})

    def tick(self) -> None:
        """A sign of life, if the last one is some time ago."""
        if time.monotonic() - self._last > _SIGN_OF_LIFE_SECONDS:
            self.say()

    def send(self, message: dict[str, Any]) -> None:
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[os.write(self._writing, data) :]
        self._last = time.monotonic()


def run_in_child(
    work: Callable[[Line], Any], timeout: float, progress: Callable[[dict[str, Any]], None] | None = None
) -> Any:
    """``work(line)``'s answer (JSON-able), computed in a fork of this process.

    ``UserError`` passes through, and trouble of the machine comes as ``MachineError``. Raises ``ChildLost`` where the
    child crashes, raises anything else, or is silent for ``timeout`` seconds and is then killed. ``progress`` is called
    with everything the child has told so far.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _be_child(work, writing, parent)  # never returns
    os.close(writing)
    state: dict[str, Any] = {}
    answer: dict[str, Any] = {}
    silent = False
    try:
        for message in _messages(reading, timeout):
            if message is None:
                silent = True
                break
            state |= message.get("state", {})
            if progress is not None:
                progress(state)
            answer |= {name: value for name, value in message.items() if name != "state"}
    finally:
        with suppress(ProcessLookupError):
            if not answer:
                os.kill(child, signal.SIGKILL)
        os.close(reading)
        _, status = os.waitpid(child, 0)
    if "machine" in answer:
        raise MachineError(answer["machine"])
    if "user_error" in answer:
        raise UserError(answer["user_error"])
    if "error" in answer:
        raise ChildLost(f"failed ({answer['error']})", state, trace=answer["trace"])
    if "answer" in answer:
        return answer["answer"]
    if silent:
        raise ChildLost(f"made no progress for {timeout:g} s", state, silent=True)
    code = os.waitstatus_to_exitcode(status)
    raise ChildLost(
        f"was killed by signal {-code} ({signal.Signals(-code).name})"
        if code < 0
        else f"ended with status {code}",
        state,
        from_outside=-code in _FROM_OUTSIDE,
    )


def _messages(reading: int, timeout: float) -> Iterator[dict[str, Any] | None]:
    """Each message of the child until it closes its end; None where it is silent for too long."""
    waiting = b""
    silent_at = time.monotonic() + timeout
    while True:
        # In short waits: Python runs no handler of a signal that comes just before a wait until that wait is over.
        pause = min(_SIGNAL_SECONDS, max(0.0, silent_at - time.monotonic()))
        ready, _, _ = select.select([reading], [], [], pause)
        if not ready:
            if time.monotonic() < silent_at:
                continue
            yield None
            return
        silent_at = time.monotonic() + timeout
        part = os.read(reading, 1 << 16)
        if not part:
            return
        *lines, waiting = (waiting + part).split(b"\n")
        for line in lines:
            yield json.loads(line)


def _be_child(work: Callable[[Line], Any], writing: int, parent: int) -> None:
    status = 1
    try:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        _end_with(parent)
        line = Line(writing)
        try:
            line.send({"answer": work(line)})
            status = 0
        except Exception as error:
            line.send(_told(error))
    finally:
        with suppress(Exception):
            sys.stderr.flush()
        os._exit(status)


def _told(error: Exception) -> dict[str, str]:
    if machine := machine_trouble(error):
        return {"machine": str(machine)}
    if isinstance(error, UserError):
        return {"user_error": str(error)}
    text = (str(error).splitlines() or [""])[0][:300]
    return {"error": f"{type(error).__name__}: {text}".removesuffix(": "), "trace": traceback.format_exc()}


def _end_with(parent: int) -> None:
    """On Linux: a parent that is killed outright takes its child with it, even one that hangs."""
    if sys.platform != "linux":
        return
    import ctypes

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)
