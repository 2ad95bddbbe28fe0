"""Snakemake's own output, and under it in a terminal one line that says how far the run is (``--logger framefeat``).

Where the output is not a terminal (a file, a pipe, CI) nothing is added.
"""

import shutil
import signal
import sys
import threading
import time
from logging import Formatter, LogRecord
from typing import TextIO

from framefeat import signals
from framefeat.run.progress import Tally
from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

_OF_ENDED_JOBS = (
    "RuleException",
    "Exiting because a job execution failed",
    "Trying to restart job",
    "Removing output files of failed job",
    "Complete log",
    "WorkflowError:\nAt least one job",
    "At least one job did not complete",
)
_OF_A_JOB_THAT_GOT_IT = ("died with <Signals.SIGINT", f"returned non-zero exit status {128 + signal.SIGINT}")
_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


class LogHandler(LogHandlerBase):
    """Writes what Snakemake's default handler writes; the line below is erased before and drawn anew after each
    message."""

    def __post_init__(self) -> None:
        from snakemake.logging import ColorizingTextHandler, DefaultFilter
        from snakemake.settings.enums import Quietness

        common = self.common_settings
        self.stream: TextIO = sys.stdout if self.common_settings.stdout else sys.stderr
        self.usual = ColorizingTextHandler(nocolor=self.common_settings.nocolor, stream=self.stream)
        # Snakemake's own filter would keep from the line what --quiet keeps from the screen.
        quiet = set(common.quiet or ())
        self.usual.addFilter(
            DefaultFilter(quiet, common.debug_dag, common.verbose, common.dryrun, common.printshellcmds)
        )
        self.tally = Tally()
        signals.watch_for_interruption()
        self.live = (
            bool(self.stream.isatty())
            and not common.dryrun
            and Quietness.ALL not in quiet
            and self.usual.can_color_tty()
        )
        if self.live and isinstance(common.quiet, set):
            # Snakemake's scheduler asks this set whether to tell what is finished at all.
            common.quiet.discard(Quietness.PROGRESS)
        self.shown = False
        self.ended = False
        self.turn = 0
        self.guard = threading.Lock()
        self.halt = threading.Event()
        if self.live:
            threading.Thread(target=self._tick, name="framefeat-progress", daemon=True).start()

    @property
    def writes_to_stream(self) -> bool:
        return True

    @property
    def writes_to_file(self) -> bool:
        return False

    @property
    def has_filter(self) -> bool:
        return True

    @property
    def has_formatter(self) -> bool:
        return False

    @property
    def needs_rulegraph(self) -> bool:
        return False

    def setFormatter(self, fmt: Formatter | None) -> None:
        super().setFormatter(fmt)
        self.usual.setFormatter(fmt)

    def emit(self, record: LogRecord) -> None:
        # The queue that brings the records writes "None" where there was no message.
        if record.msg == "None":
            record.msg = None
        with self.guard:
            if self.live:
                try:
                    self._note(record)
                except (AttributeError, KeyError, TypeError, ValueError):
                    self.live = False  # an event in a shape not known: no line rather than a wrong one
                self._erase()
            if self.usual.filter(record) and not _told_by_the_interruption(record):
                self.usual.emit(record)
            self._draw()

    def close(self) -> None:
        self.halt.set()
        with self.guard:
            self.ended = True
            self._erase()
        super().close()

    def _note(self, record: LogRecord) -> None:
        event, fields, now = getattr(record, "event", None), record.__dict__, time.monotonic()
        if event == LogEvent.RUN_INFO:
            self.tally.run_begins(fields.get("stats") or {})
        elif event == LogEvent.JOB_INFO:
            self.tally.job_begins(
                fields["jobid"],
                fields["rule_name"],
                fields.get("input") or [],
                fields.get("output") or [],
                now,
            )
        elif event == LogEvent.JOB_FINISHED:
            self.tally.job_ends(fields["job_id"], now)
        elif event == LogEvent.JOB_ERROR:
            self.tally.job_fails(fields["jobid"])
        elif event == LogEvent.PROGRESS:
            self.tally.steps(fields["done"], fields["total"])
            self.ended = fields["done"] >= fields["total"] > 1
        elif str(record.msg).startswith(("Exiting because", "Terminating processes", "Complete log")):
            self.ended = True

    def _draw(self) -> None:
        if not self.live or self.ended:
            return
        # Never as wide as the terminal: a line that wraps cannot be erased.
        text = self.tally.line(time.monotonic(), max(10, shutil.get_terminal_size().columns - 3))
        if not text:
            return
        mark = _FRAMES[self.turn % len(_FRAMES)]
        self.stream.write(f"{mark} {text}\r")
        self.stream.flush()
        self.shown = True

    def _erase(self) -> None:
        if self.shown:
            self.stream.write("\r\x1b[K")
            self.stream.flush()
            self.shown = False

    def _tick(self) -> None:
        while not self.halt.wait(0.5):
            with self.guard:
                if self.shown and not self.ended:
                    self.turn += 1
                    self._erase()
                    self._draw()


def _told_by_the_interruption(record: LogRecord) -> bool:
    """Whether this only tells that Ctrl-C ended the jobs, too, as an error of each."""
    # A terminal's Ctrl-C goes to the jobs, too, and one of them can be dead before Python calls Snakemake's handler.
    ended_by_it = any(sign in str(record.msg) for sign in _OF_A_JOB_THAT_GOT_IT)
    if not signals.interrupted(within=2 if ended_by_it else 0):
        return False
    failed = getattr(record, "event", None) in (LogEvent.JOB_ERROR, LogEvent.GROUP_ERROR)
    return failed or str(record.msg).lstrip().startswith(_OF_ENDED_JOBS)
