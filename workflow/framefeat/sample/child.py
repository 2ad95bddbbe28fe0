"""Run a function in a forked process that may crash or hang: its signs of life and its answers come through a pipe."""

import json
import os
import pickle
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Generic, TypeVar

from framefeat.errors import MachineError, UserError, machine_trouble

_SIGN_OF_LIFE_SECONDS = 0.5
_SIGNAL_SECONDS = 0.5
#: A process that has worked so long is replaced: beside this a fork (0.06 s) is nothing, and decord's memory grows with
#: every file that it opens.
_RENEWED_AFTER_SECONDS = 2.0
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
        _write(self._writing, json.dumps(message).encode() + b"\n")
        self._last = time.monotonic()


Asked = TypeVar("Asked")


class Child(Generic[Asked]):
    """A fork of this process that does ``work(asked, line)`` for one thing asked after the other.

    It is forked when it is needed, and again where it was lost or has worked for some time. What one piece of work
    breaks may show in the next: what fails in a process that had other work before is done again in a new one, and
    only that counts.
    """

    def __init__(self, work: Callable[[Asked, Line], Any]) -> None:
        self._work = work
        self._process: _Process | None = None

    def __enter__(self) -> "Child[Asked]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """End the process; the next work is done by a new one."""
        if self._process is not None:
            self._process.end()
            self._process = None

    def run(
        self, asked: Asked, timeout: float, progress: Callable[[dict[str, Any]], None] | None = None
    ) -> Any:
        """The work's answer (JSON-able) to ``asked`` (which can be pickled).

        ``UserError`` passes through, and trouble of the machine comes as ``MachineError``. Raises ``ChildLost`` where
        the process crashes, raises anything else, or is silent for ``timeout`` seconds and is then killed. ``progress``
        is called with everything that the process has told of this work so far.
        """
        if self._process is not None:
            try:
                return self._run(self._process, asked, timeout, progress)
            except (ChildLost, MachineError) as trouble:
                print(
                    f"{trouble}, in a process that had other work before; once more",
                    file=sys.stderr,
                    flush=True,
                )
        return self._run(_Process(self._work), asked, timeout, progress)

    def _run(
        self,
        process: "_Process",
        asked: Asked,
        timeout: float,
        progress: Callable[[dict[str, Any]], None] | None,
    ) -> Any:
        self._process = None
        began = time.monotonic()
        try:
            answer = process.answer(asked, timeout, progress)
        except BaseException:
            process.end()
            raise
        process.seconds += time.monotonic() - began
        if process.seconds < _RENEWED_AFTER_SECONDS:
            self._process = process
        else:
            process.end()
        return answer


def run_in_child(
    work: Callable[[Line], Any], timeout: float, progress: Callable[[dict[str, Any]], None] | None = None
) -> Any:
    """``work(line)``'s answer, computed in a fork of its own; see ``Child.run``."""
    with Child[None](lambda _, line: work(line)) as child:
        return child.run(None, timeout, progress)


class _Process:
    """The fork, seen by its parent. ``seconds``: how long it has worked."""

    def __init__(self, work: Callable[[Any, Line], Any]) -> None:
        self.seconds = 0.0
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        to_hear, self._asking = os.pipe()
        self._reading, to_tell = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._asking)
            os.close(self._reading)
            _be_child(work, to_hear, to_tell, parent)  # never returns
        os.close(to_hear)
        os.close(to_tell)

    def answer(
        self, asked: Any, timeout: float, progress: Callable[[dict[str, Any]], None] | None = None
    ) -> Any:
        """See ``Child.run``. After an error the process is of no more use."""
        state: dict[str, Any] = {}
        with suppress(BrokenPipeError):  # it is gone, and the other pipe tells how
            _write(self._asking, pickle.dumps(asked))
        for message in _messages(self._reading, timeout):
            if message is None:
                raise ChildLost(f"made no progress for {timeout:g} s", state, silent=True)
            if "answer" in message:
                return message["answer"]
            if "machine" in message:
                raise MachineError(message["machine"])
            if "user_error" in message:
                raise UserError(message["user_error"])
            if "error" in message:
                raise ChildLost(f"failed ({message['error']})", state, trace=message["trace"])
            state |= message["state"]
            if progress is not None:
                progress(state)
        code = self.end()
        raise ChildLost(
            f"was killed by signal {-code} ({signal.Signals(-code).name})"
            if code < 0
            else f"ended with status {code}",
            state,
            from_outside=-code in _FROM_OUTSIDE,
        )

    def end(self) -> int:
        """Kill the process, if it is not at its end already: its exit code."""
        if self._pid:
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            os.close(self._asking)
            os.close(self._reading)
            _, self._status = os.waitpid(self._pid, 0)
            self._pid = 0
        return os.waitstatus_to_exitcode(self._status)


def _write(pipe: int, data: bytes) -> None:
    while data:
        data = data[os.write(pipe, data) :]


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


def _be_child(work: Callable[[Any, Line], Any], to_hear: int, to_tell: int, parent: int) -> None:
    status = 1
    try:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        _end_with(parent)
        line = Line(to_tell)
        with os.fdopen(to_hear, "rb") as requests:
            while True:
                try:
                    asked = pickle.load(requests)  # noqa: S301 - written by our own parent
                except EOFError:
                    break
                answer = _answer(work, asked, line)
                with suppress(Exception):
                    sys.stderr.flush()
                line.send(answer)
        status = 0
    finally:
        os._exit(status)


def _answer(work: Callable[[Any, Line], Any], asked: Any, line: Line) -> dict[str, Any]:
    try:
        return {"answer": work(asked, line)}
    except Exception as error:
        return _told(error)


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
