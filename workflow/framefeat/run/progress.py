"""How far a run is: videos done, frames per second, time left, from Snakemake's events."""

import math
import re
import shlex
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from framefeat.errors import UserError
from framefeat.files import read_json
from framefeat.layout import ResultsFolder, promise_in, results_of_promise
from framefeat.shard_files import read_slices

SAMPLE, EXTRACT = "sample_frames", "extract_features"
_WINDOW = 120.0  # seconds over which the pace is measured
_FEWEST = 4  # steps before a time left is said
#: Options of Snakemake and its plugins whose value is nobody else's business.
_SECRET = re.compile(r"--[\w-]*(secret|token|passw|credential|-key)[\w-]*", re.IGNORECASE)
_LEAST_TELLING_FIRST = ("decoded", "frames", "steps", "rate", "left", "failed", "videos")


@dataclass
class _Job:
    rule: str
    promise: Path | None


@dataclass
class Tally:
    """Counts what Snakemake's events tell; times are seconds of any one clock, given with every event.

    A job is a shard, and a person counts videos: how many a shard has stands in the file that tells that it is done.
    """

    sampled: int = 0  # videos
    embedded: int = 0
    frames: int = 0
    failed: int = 0
    done: int = 0
    total: int = 0
    #: All videos and all shards of the data set, those that an earlier run has done among them; 0: not known.
    videos: int = 0
    shards: int = 0
    _extracted: int = 0  # jobs
    _sampling: int = 0
    _counts: dict[str, int] = field(default_factory=dict)
    _jobs: dict[int, _Job] = field(default_factory=dict)
    _steps: deque[tuple[float, int]] = field(
        default_factory=deque
    )  # when a shard's step ended, frames embedded till then
    _began: float | None = None

    def run_begins(self, counts: Mapping[str, int]) -> None:
        """``counts``: jobs per rule, as Snakemake plans them at its start (before the checkpoint: without the
        shards)."""
        self._counts = dict(counts)

    def job_begins(
        self, number: int, rule: str, inputs: Iterable[str], outputs: Iterable[str], now: float
    ) -> None:
        promise = promise_in(str(path) for path in outputs) if rule in (SAMPLE, EXTRACT) else None
        self._jobs[number] = _Job(rule, promise)
        if promise and not self.shards:
            self.videos, self.shards = videos_and_shards(results_of_promise(promise))
        if rule in (SAMPLE, EXTRACT) and self._began is None:
            self._began = now

    def job_ends(self, number: int, now: float) -> None:
        job = self._jobs.pop(number, None)
        if job is None or job.rule not in (SAMPLE, EXTRACT):
            return
        videos, rows = promised(job.promise)
        if job.rule == SAMPLE:
            self._sampling += 1
            self.sampled += videos
        else:
            self._extracted += 1
            self.embedded += videos
            self.frames += rows
        self._steps.append((now, self.frames))
        while len(self._steps) > _FEWEST and now - self._steps[0][0] > _WINDOW:
            self._steps.popleft()

    def job_fails(self, number: int) -> None:
        if self._jobs.pop(number, None) is not None:
            self.failed += 1

    def steps(self, done: int, total: int) -> None:
        self.done, self.total = done, total

    @property
    def of_videos(self) -> tuple[int, int] | None:
        """How many videos are done, and how many there are (one counts once per backbone); None until they are known.

        Of jobs that are still to come only the number is known: they count as jobs of the usual size.
        """
        if not (self._sampling or self._extracted) or not self.shards:
            return None
        others = sum(count for rule, count in self._counts.items() if rule not in (SAMPLE, EXTRACT, "total"))
        backbones = max(1, self._counts.get("assemble", 1))
        share = backbones / (backbones + 1) if self._sampling else 1.0
        jobs = max(self._extracted, math.ceil((self.total - others) * share))
        if jobs <= 0:
            return None
        every = self.videos * backbones
        to_come = round((jobs - self._extracted) * self.videos / self.shards)
        return max(self.embedded, every - to_come), max(every, self.embedded)

    def frames_per_second(self, now: float) -> float | None:
        """Frames embedded per second of late (since the first video step, while that is not long ago)."""
        if self._began is None or not self.frames or not self._steps:
            return None
        first = (self._began, 0) if now - self._began <= _WINDOW else self._steps[0]
        seconds = now - first[0]
        return (self.frames - first[1]) / seconds if seconds > 0 else None

    def seconds_left(self, now: float) -> float | None:
        if self._began is None or len(self._steps) < _FEWEST or self.total <= self.done:
            return None
        recent = now - self._began <= _WINDOW
        since, steps = (
            (self._began, len(self._steps)) if recent else (self._steps[0][0], len(self._steps) - 1)
        )
        return (self.total - self.done) * (now - since) / max(1, steps)

    def line(self, now: float, columns: int | None = None) -> str:
        """One line for a person: ``12 of 50 videos · 6,120 frames · 310 frames/s · about 40 s left · 27 of 105
        steps``; of what does not fit into ``columns``, the least telling parts are left out."""
        parts = self._parts(now)
        while columns is not None and len(parts) > 1 and len(" · ".join(parts.values())) > columns:
            del parts[next(name for name in _LEAST_TELLING_FIRST if name in parts)]
        return " · ".join(parts.values())[:columns]

    def _parts(self, now: float) -> dict[str, str]:
        parts = {}
        if videos := self.of_videos:
            parts["videos"] = f"{videos[0]:,} of {videos[1]:,} videos"
            if self.sampled > self.embedded:
                parts["decoded"] = f"{self.sampled:,} decoded"
        if self.frames:
            parts["frames"] = f"{self.frames:,} frames"
        if rate := self.frames_per_second(now):
            parts["rate"] = f"{rate:,.0f} frames/s" if rate >= 10 else f"{rate:.1f} frames/s"
        if left := self.seconds_left(now):
            parts["left"] = f"about {spell(left)} left"
        if self.failed:
            parts["failed"] = f"{self.failed:,} failed"
        if self.total:
            parts["steps"] = f"{self.done:,} of {self.total:,} steps"
        return parts


def promised(path: Path | None) -> tuple[int, int]:
    """Videos and rows of a shard that is done; none where its file cannot be read (it may lie on another machine)."""
    try:
        if path is None:
            return 0, 0
        found = read_json(path)
        return len(found["videos"]), int(found["rows"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0, 0


def videos_and_shards(results: ResultsFolder) -> tuple[int, int]:
    """How many of each the last merge found; none where its files cannot be read."""
    names = results.shard_names()
    try:
        return sum(len(read_slices(results, name)) for name in names), len(names)
    except (UserError, OSError):
        return 0, 0


def spell(seconds: float) -> str:
    """A length of time as a person would say it."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"


def command_again(arguments: Sequence[str]) -> str:
    """The command that goes on where a run ended: the same one. ``arguments``: ``sys.argv`` of Snakemake."""
    return shlex.join(["snakemake", *arguments[1:]])


def given_twice(arguments: Sequence[str]) -> str | None:
    """The option of Snakemake, among those with keys for the configuration, that stands in ``arguments`` twice: of its
    values Snakemake takes the last, and does not say so."""
    for names in (("--config", "-C"), ("--configfile", "--configfiles")):
        given = [word for word in arguments if word.partition("=")[0] in names]
        if len(given) > 1:
            return given[1].partition("=")[0]
    return None


def command_shown(arguments: Sequence[str]) -> str:
    """The same command, for a page that is handed on: without the values of options that may hold a secret."""
    shown: list[str] = []
    hide = False
    for word in arguments:
        name, _, value = word.partition("=")
        if _SECRET.fullmatch(name):
            shown.append(f"{name}=..." if value else name)
            hide = not value
            continue
        shown.append("..." if hide else word)
        hide = False
    return command_again(shown)
