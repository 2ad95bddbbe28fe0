"""Ctrl-C as a process feels it."""

import signal
import subprocess
import sys

_LOST = """
import signal, time, weakref
from framefeat import signals

class Thing:
    pass

def press(_):
    signal.raise_signal(signal.SIGINT)
    time.sleep(0)  # here Python calls the handler, inside of a callback that may not raise

signals.watch_for_interruption()
thing = Thing()
watch = weakref.ref(thing, press)
try:
    del thing
    print("went on", flush=True)
    time.sleep(20)
    print("was not interrupted")
except KeyboardInterrupt:
    print("interrupted", signals.interrupted())
"""


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def test_an_interruption_that_python_ignores_comes_again() -> None:
    done = run(_LOST)
    assert done.stdout == "went on\ninterrupted True\n"
    assert done.stderr == ""


def test_an_interruption_that_ends_a_task_says_the_last_words_alone() -> None:
    done = run(
        "import asyncio, signal, framefeat.signals as s\n"
        "s.watch_for_interruption()\n"
        "s.say_at_the_end(lambda: 'interrupted, 1 of 2')\n"
        "async def work():\n"
        "    async with asyncio.TaskGroup() as tasks:\n"
        "        tasks.create_task(press())\n"
        "async def press():\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "loop = asyncio.new_event_loop()\n"
        "loop.run_until_complete(work())\n"
    )
    assert done.returncode != 0
    assert done.stderr == "interrupted, 1 of 2\n"


def test_an_interruption_that_nothing_takes_is_no_traceback() -> None:
    done = run(
        "import signal, framefeat.signals as s; s.watch_for_interruption(); signal.raise_signal(signal.SIGINT)"
    )
    assert done.returncode != 0
    assert done.stderr == "interrupted; the same command goes on\n"
