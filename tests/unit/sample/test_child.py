"""One process for one piece of work after the other, and what it means that the last one may have broken something."""

import os
import signal
import time
from collections.abc import Iterator

import pytest
from framefeat.errors import MachineError, UserError
from framefeat.sample import child
from framefeat.sample.child import Child, ChildLost, Line

_DONE: list[str] = []  # in the process, so far


def _work(asked: str, line: Line) -> list[int]:
    """The process, and how many pieces of work it had before."""
    before = len(_DONE)
    _DONE.append(asked)
    line.say(phase=asked)
    if asked == "refuse":
        raise UserError("no such frame")
    if asked == "memory" or (asked == "memory late" and before):
        raise MachineError("not enough memory")
    if asked == "die" or (asked == "die late" and before):
        os.kill(os.getpid(), signal.SIGUSR1)
    if asked == "hang late" and before:
        time.sleep(60)
    if asked == "fail late" and before:
        raise RuntimeError("never seen")
    if asked == "work":
        time.sleep(0.6)
    return [os.getpid(), before]


@pytest.fixture
def worker() -> Iterator[Child[str]]:
    with Child(_work) as made:
        yield made


def _is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_one_process_does_one_piece_of_work_after_the_other(worker: Child[str]) -> None:
    first, *others = [worker.run("a", 5.0) for _ in range(3)]
    assert [process for process, _ in others] == [first[0]] * 2
    assert [before for _, before in (first, *others)] == [0, 1, 2]
    assert first[0] != os.getpid()
    worker.end()
    assert not _is_there(first[0])
    assert worker.run("a", 5.0)[1] == 0


@pytest.mark.parametrize("asked", ["memory late", "die late", "hang late", "fail late"])
def test_what_fails_after_other_work_is_done_again_in_a_new_process(
    worker: Child[str], asked: str, capfd: pytest.CaptureFixture[str]
) -> None:
    first = worker.run("a", 1.0)
    then = worker.run(asked, 1.0)
    assert then[1] == 0
    assert then[0] != first[0]
    assert not _is_there(first[0])
    assert "in a process that had other work before; once more" in capfd.readouterr().err


def test_what_fails_in_a_new_process_has_failed(worker: Child[str]) -> None:
    with pytest.raises(ChildLost, match=r"was killed by signal 10 \(SIGUSR1\)") as lost:
        worker.run("die", 5.0)
    assert lost.value.state == {"phase": "die"}
    with pytest.raises(MachineError, match="not enough memory"):
        worker.run("memory", 5.0)
    assert worker.run("a", 5.0)[1] == 0
    with pytest.raises(ChildLost, match="SIGUSR1"):
        worker.run("die", 5.0)


def test_a_refusal_is_said_once_and_ends_the_process(worker: Child[str]) -> None:
    worker.run("a", 5.0)
    with pytest.raises(UserError, match="no such frame"):
        worker.run("refuse", 5.0)
    assert worker.run("a", 5.0)[1] == 0


def test_a_process_that_died_between_two_pieces_of_work(worker: Child[str]) -> None:
    process, _ = worker.run("a", 5.0)
    os.kill(process, signal.SIGKILL)
    assert worker.run("a" * 1_000_000, 5.0)[1] == 0


def test_a_process_that_has_worked_for_some_time_is_replaced(
    worker: Child[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "_RENEWED_AFTER_SECONDS", 60.0)
    assert [worker.run("work", 5.0)[1] for _ in range(2)] == [0, 1]
    monkeypatch.setattr(child, "_RENEWED_AFTER_SECONDS", 1.0)
    assert 0 in [worker.run("work", 5.0)[1] for _ in range(3)]


def test_nothing_of_one_piece_of_work_is_told_of_the_next(worker: Child[str]) -> None:
    told: list[dict[str, str]] = []
    worker.run("a", 5.0, lambda state: told.append(dict(state)))
    worker.run("b", 5.0, lambda state: told.append(dict(state)))
    assert told == [{"phase": "a"}, {"phase": "b"}]
