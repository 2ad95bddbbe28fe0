"""One video: decode its planned frames, resize them, and write down what was really decoded.

The decoding runs in a child process: a decoder that crashes or hangs takes only its own attempt with it. One child may
decode several short videos, one after the other, as long as nothing is wrong with any of them. Whatever is
wrong with the file is a finding: it is stored with the evidence, and no error of the job.
"""

import json
import os
import stat
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

from framefeat import stored
from framefeat.errors import MachineError, UserError, machine_trouble
from framefeat.files import atomic_path
from framefeat.identity import sample_key
from framefeat.records import PAST_END, Evidence, SampleJob, VideoRecord
from framefeat.sample.child import Child, ChildLost, Line, run_in_child
from framefeat.sample.source import Source
from framefeat.settings import DEFAULTS
from framefeat.signals import polite_end
from framefeat.terminal import printable

_PROGRESS_SECONDS = 10.0


def sampling_child() -> Child[SampleJob]:
    """What decodes one video after the other; end it after the last."""
    return Child(_work)


def sample_video(
    record: VideoRecord,
    *,
    geometry: str,
    alignment: str,
    decoder: str,
    frames_path: Path,
    recheck_path: Path,
    evidence_path: Path,
    rechecks: int = 2,
    timeout: float = DEFAULTS["decoder_timeout"],
    child: Child[SampleJob] | None = None,
) -> Evidence:
    """Sample one video and return its evidence.

    Writes ``evidence_path`` (see ``stored``: the evidence, and ``thumbnails``, the bytes of one JPEG strip as uint8),
    then ``recheck_path`` (uint8 [K, h, w, 3]: ``rechecks`` rows decoded a second time through another reader), then
    ``frames_path`` (uint8 [T, h, w, 3] of the geometry's size; bad rows are zeros and marked in the evidence). Frames
    of an earlier sampling are removed first: where frames lie, they are those that the evidence tells of.

    ``timeout``: seconds without a sign of life after which the decoder is taken for hung. ``child``: of
    ``sampling_child``, for several videos; none: a child of its own. Rows that cannot be had
    cleanly have the status ``bad``, and the evidence's ``problems`` say why. Raises ``UserError`` for what is not the
    file's (``MachineError``) and for arguments that make no sense; nothing is stored then.
    """
    key = sample_key(record, alignment=alignment, geometry=geometry, decoder=decoder)
    source = Source(record)
    for path in (frames_path, recheck_path):
        path.unlink(missing_ok=True)
    with polite_end(), ExitStack() as stack:
        # The stack is unwound from its end: the frames come last.
        frames, recheck = (stack.enter_context(atomic_path(path)) for path in (frames_path, recheck_path))
        strip = frames.with_suffix(".jpg")
        stack.callback(strip.unlink, missing_ok=True)
        paths = {"frames": str(frames), "recheck": str(recheck), "thumbnails": str(strip)}
        job = SampleJob(record, geometry, key["alignment"], decoder, rechecks, key, paths)
        decodes = child or stack.enter_context(sampling_child())
        evidence = _Attempts(job, timeout, decodes, source).evidence()
        source.check()
        if "content" in record:
            evidence["content"] = record["content"]
        stored.write(evidence_path, evidence, {"thumbnails": stored.as_bytes(strip.read_bytes())})
    for warning in [*evidence["warnings"], *evidence["doubts"]]:
        print(f"{record['video_id']}: {warning}", file=sys.stderr)
    bad = evidence["rows"]["status"].count("bad")
    if bad:
        tell_finding(record["video_id"], bad, len(evidence["rows"]["status"]), evidence["problems"])
    return evidence


def tell_finding(video_id: str, bad: int, rows: int, problems: Sequence[str]) -> None:
    """One line on standard error (the job's log), and on standard output if that is another (the run's terminal)."""
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    text = printable(f"{video_id}: {bad} of {rows} rows are bad: {problems[0]}{more}")
    print(text, file=sys.stderr, flush=True)
    tell_at_once(text)


def tell_at_once(text: str) -> None:
    """A line on standard output, where it is the run's terminal and not the job's log."""
    with suppress(OSError, ValueError):
        if not os.path.sameopenfile(sys.stdout.fileno(), sys.stderr.fileno()):
            print(text, flush=True)


class _Attempts:
    """Once; if decord dies under ``auto``, once more with PyAV; if all fails, evidence with only bad rows."""

    def __init__(self, job: SampleJob, timeout: float, child: Child[SampleJob], source: Source) -> None:
        self.job, self.timeout, self.child, self.source = job, timeout, child, source
        self.path = job.record["path"]
        self.progress = _Progress(job.record["video_id"], len(job.record["timestamps"]))

    def evidence(self) -> Evidence:
        found = self._outcome()
        if _is_sound(found):
            return found
        unread = self._unread()
        if not unread:
            # A share that was gone for a moment looks like a damaged file; what is wrong twice is the file's.
            self._say("something is wrong with it, but the file can be read; once more")
            found = self._outcome()
        if isinstance(found, str) or (unread and found["decoder"] is None):
            return self._attempt(replace(self.job, hopeless=unread or str(found)))
        return {**found, "problems": [unread, *found["problems"]]} if unread else found

    def _outcome(self) -> Evidence | str:
        """The evidence, or why nothing of the file can be had."""
        try:
            return self._decoded()
        except MachineError:
            raise
        except UserError as error:
            return str(error)
        except ChildLost as lost:
            return (
                f"{self.path!r}: the decoder {lost.how}{_after(lost)}; the file is damaged, or of a kind that was not "
                "foreseen: fetch it again, or leave the video out."
            )

    def _decoded(self) -> Evidence:
        job = self.job
        try:
            return self._attempt(job)
        except ChildLost as lost:
            if job.decoder == "auto" and lost.state.get("phase") in ("decord", "second decode"):
                job = replace(job, not_decord=f"decord {lost.how}{_after(lost)}")
                self._say(f"{job.not_decord}; trying PyAV")
            elif not lost.silent:
                raise
        if job.not_decord:
            try:
                return self._attempt(job)
            except ChildLost as lost:
                if not lost.silent:
                    raise
        # A disk that does not answer is not the file's fault; a decoder that hangs on what lies in memory is.
        if problem := self._unread():
            raise UserError(problem)
        self._say("it hangs, but the file can be read; once more")
        return self._attempt(job)

    def _attempt(self, job: SampleJob) -> Evidence:
        try:
            return self._run(job)
        except ChildLost as lost:
            if not lost.from_outside:
                raise
            # Nothing that the file or its decoder did: another decoder, or bad rows, would be a wrong conclusion.
            self._say(f"the decoder {lost.how}; once more")
        try:
            return self._run(job)
        except ChildLost as lost:
            if not lost.from_outside:
                raise
            raise MachineError(
                f"{self.path!r}: the decoder {lost.how} twice{_after(lost)}, by the system for want of memory or by "
                "somebody; give the job more memory (mem_mb), or run fewer at once, and run again."
            ) from None

    def _run(self, job: SampleJob) -> Evidence:
        try:
            evidence: Evidence = self.child.run(job, self.timeout, self.progress)
        except ChildLost as lost:
            if lost.trace:
                print(lost.trace, file=sys.stderr, flush=True)
            raise
        if evidence["problems"] or evidence["warnings"]:
            self.child.end()  # whatever was odd about the file may have left its traces in the process
        return evidence

    def _unread(self) -> str:
        """Why the file cannot even be read, as a sentence; empty if it can. A hanging disk is the machine's trouble."""
        try:
            why = run_in_child(partial(_read_through, self.path), self.timeout)
        except ChildLost as lost:
            raise MachineError(
                f"{self.path!r}: reading it {lost.how}: the disk or the network does not answer; run again when it does."
            ) from None
        if not why:
            return ""
        if self.source.is_known:
            raise MachineError(
                f"{self.path!r} cannot be read to its end ({why}), and could when this run began: is its disk still there? Mend "
                "this and run again."
            )
        return (
            f"{self.path!r} cannot be read ({why}); mend this and run again: the next run looks at it anew."
        )

    def _say(self, text: str) -> None:
        print(f"{self.path!r}: {text}", file=sys.stderr, flush=True)


def _is_sound(found: Evidence | str) -> TypeGuard[Evidence]:
    """Whether nothing speaks against the file: times past the end are the index's doing."""
    return (
        not isinstance(found, str)
        and all(PAST_END in text for text in found["problems"])
        and found["recheck"]["agrees"]
    )


def _read_through(path: str, line: Line) -> str:
    """The system's word for why ``path`` cannot be read to its end, if it cannot."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return "it is no regular file"
        with open(path, "rb", buffering=0) as stream:
            while stream.read(1 << 20):
                line.tick()
    except OSError as error:
        if machine_trouble(error):
            raise
        return error.strerror or str(error)
    return ""


def _after(lost: ChildLost) -> str:
    done = lost.state.get("time")
    return "" if done is None else f" after the frame at {done:.3f} s"


def _work(job: SampleJob, line: Line) -> Evidence:
    # Nothing here needs linear algebra, and numpy's library would start a thread for each core.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from framefeat.sample.attempt import Sampler

    sampler = Sampler(job, line)
    try:
        evidence = sampler.run()
    finally:
        sampler.close()
    json.dumps(evidence, allow_nan=False)  # a number that no JSON can hold is a fault of this attempt
    return evidence


class _Progress:
    """A line on standard error now and then."""

    def __init__(self, video_id: str, rows: int) -> None:
        self._video_id, self._rows = video_id, rows
        self._told = time.monotonic()

    def __call__(self, state: Mapping[str, Any]) -> None:
        if time.monotonic() - self._told > _PROGRESS_SECONDS:
            self._told = time.monotonic()
            done = f"{state.get('done', 0)} of {self._rows} rows ({state.get('phase', 'starting')})"
            print(f"{self._video_id}: {done}", file=sys.stderr, flush=True)
