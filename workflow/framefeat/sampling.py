"""The sampling stage: decode the planned frames of one video, resize them, and write down what was really decoded.

The decoding runs in a child process: a decoder that crashes or hangs takes only its own attempt with it.
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from framefeat.child import ChildLost, Line, polite_end, run_in_child
from framefeat.errors import UserError
from framefeat.files import atomic_path

#: A new number makes every earlier sampling stale.
ALGORITHM = 1

_PROGRESS_SECONDS = 10.0


def sample_key(record: Mapping[str, Any], *, alignment: str, geometry: str, decoder: str) -> dict[str, Any]:
    """Exactly what decides a sampling's result. ``record`` knows the alignment that holds for this video, if any differs."""
    return {
        "algorithm": ALGORITHM,
        "fingerprint": record["fingerprint"],
        "times_sha256": record["times_sha256"],
        "fps": record["fps"],
        "alignment": record.get("alignment", alignment),
        "geometry": geometry,
        "decoder": decoder,
    }


def sample_video(
    record: Mapping[str, Any],
    *,
    geometry: str,
    alignment: str,
    decoder: str,
    on_bad_frames: str,
    frames_path: str | os.PathLike[str],
    recheck_path: str | os.PathLike[str],
    thumbnails_path: str | os.PathLike[str],
    evidence_path: str | os.PathLike[str],
    rechecks: int = 2,
    timeout: float = 120.0,
) -> dict[str, Any]:
    """Sample one video and return its evidence.

    ``record``: ``video_id, path, timestamps`` (seconds from the first presented frame), ``fps, fingerprint,
    times_sha256``. Writes, all or none: ``frames_path`` (uint8 [T, h, w, 3] of the geometry's size; bad rows are zeros
    and marked in the evidence), ``recheck_path`` (uint8 [K, h, w, 3]: ``rechecks`` rows decoded a second time through
    another reader), ``thumbnails_path`` (one JPEG strip) and ``evidence_path`` (JSON).

    ``timeout``: seconds without a sign of life after which the decoder is taken for hung. With ``on_bad_frames`` =
    ``fail`` anything that is not clean raises ``UserError``; with ``mask`` it becomes rows with status ``bad``.
    """
    job: dict[str, Any] = {
        "record": dict(record),
        "geometry": geometry,
        "alignment": record.get("alignment", alignment),
        "decoder": decoder,
        "on_bad_frames": on_bad_frames,
        "rechecks": rechecks,
        "key": sample_key(record, alignment=alignment, geometry=geometry, decoder=decoder),
    }
    outputs = {
        "frames": frames_path,
        "recheck": recheck_path,
        "thumbnails": thumbnails_path,
        "evidence": evidence_path,
    }
    with polite_end(), ExitStack() as stack:
        job["paths"] = {name: str(stack.enter_context(atomic_path(path))) for name, path in outputs.items()}
        evidence = _attempts(job, timeout)
        text = json.dumps(evidence, ensure_ascii=False, allow_nan=False) + "\n"
        Path(job["paths"]["evidence"]).write_text(text, encoding="utf-8")
    for warning in evidence["warnings"]:
        print(f"{record['video_id']}: {warning}", file=sys.stderr)
    bad = evidence["rows"]["status"].count("bad")
    if bad:
        print(
            f"{record['video_id']}: {bad} rows are bad: {'; '.join(evidence['problems'][:5])}",
            file=sys.stderr,
        )
    return evidence


def _attempts(job: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    """Once; where decord dies under ``auto``, once more with PyAV; where all fails, by the rule for bad frames."""
    record = job["record"]
    progress = _Progress(record["video_id"], len(record["timestamps"]))

    def attempt(**more: str) -> dict[str, Any]:
        work = partial(_work, {**job, **more})
        try:
            return run_in_child(work, timeout, progress)
        except ChildLost as lost:
            if not lost.from_outside:
                raise
            # Nothing that the file or its decoder did: another decoder, or bad rows, would be a wrong conclusion.
            print(f"{record['path']!r}: the decoder {lost.how}; once more", file=sys.stderr, flush=True)
        try:
            return run_in_child(work, timeout, progress)
        except ChildLost as lost:
            if not lost.from_outside:
                raise
            raise UserError(
                f"{record['path']!r}: the decoder {lost.how} twice{_after(lost)}, by the system for want of memory or by "
                "somebody; give the job more memory (mem_mb), or run fewer at once, and run again."
            ) from None

    try:
        try:
            return attempt()
        except ChildLost as lost:
            if job["decoder"] != "auto" or lost.state.get("phase") != "decord":
                raise
            reason = f"decord {lost.how}{_after(lost)}"
            print(f"{record['path']!r}: {reason}; trying PyAV", file=sys.stderr, flush=True)
            return attempt(not_decord=reason)
    except ChildLost as lost:
        problem = (
            f"{record['path']!r}: the decoder {lost.how}{_after(lost)}; the file is damaged: fetch it again."
        )
        if job["on_bad_frames"] == "fail":
            raise UserError(problem) from None
        return attempt(hopeless=problem)


def _after(lost: ChildLost) -> str:
    done = lost.state.get("time")
    return "" if done is None else f" after the frame at {done:.3f} s"


def _work(job: Mapping[str, Any], line: Line) -> dict[str, Any]:
    # Nothing here needs linear algebra, and numpy's library would start a thread for each core.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from framefeat.sampler import Sampler

    sampler = Sampler(job, line)
    try:
        return sampler.run()
    finally:
        sampler.close()


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
