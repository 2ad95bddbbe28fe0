"""Shots and labels out of another HDF5 file of the summarisers' layout: an earlier export, or a published file."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from framefeat.errors import UserError
from framefeat.summaries.annotations import MOST_FRAMES_APART, Labels

_VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".m4v", ".3gp")
_LABELS = ("gtscore", "picks", "user_summary")


class OtherFile:
    """A file of this layout. Videos are found by ``video_name`` (with or without a suffix, here and there), or by
    their group where it has no names.

    ``option``: what the user calls it by, for sentences. The methods ``problem_*`` return a sentence, or None; only
    then the methods that read may be called.
    """

    def __init__(self, path: str | os.PathLike[str], option: str) -> None:
        import h5py

        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(f"{option}: the file {str(path)!r} does not exist.")
        try:
            self._file = h5py.File(self.path, "r")
        except OSError as error:
            raise UserError(f"{option}: {str(path)!r} is not an HDF5 file ({error}).") from error
        self._by_name: dict[str, str] = {}
        for group in self._file:
            found = _member(self._file, group)
            name = _name(found) if isinstance(found, h5py.Group) else None
            if name in self._by_name:
                raise UserError(
                    f"{option}: {str(path)!r} has two videos of the name {name!r} ({self._by_name[name]}, {group}); "
                    "rename or remove one."
                )
            if name is not None:
                self._by_name[name] = group
        stems = [os.path.splitext(name) for name in self._by_name]
        for stem, suffix in stems:
            if suffix.lower() in _VIDEO_SUFFIXES and [one for one, _ in stems].count(stem) == 1:
                self._by_name.setdefault(stem, self._by_name[stem + suffix])

    def __enter__(self) -> "OtherFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def named(self) -> bool:
        """Whether its videos have names."""
        return bool(self._by_name)

    def group_of(self, video_id: str) -> str | None:
        """The group that has this name."""
        stem, suffix = os.path.splitext(video_id)
        plain = stem if suffix.lower() in _VIDEO_SUFFIXES else video_id
        return self._by_name.get(video_id) or self._by_name.get(plain)

    @property
    def groups(self) -> int:
        """How many there are."""
        import h5py

        return sum(isinstance(_member(self._file, name), h5py.Group) for name in self._file)

    def _group(self, video_id: str, group: str) -> Any:
        import h5py

        found = _member(self._file, (self.group_of(video_id) or "") if self.named else group)
        return found if isinstance(found, h5py.Group) else None

    def problem_of_shots(self, video_id: str, group: str, n_frames: int) -> str | None:
        where = f"{video_id!r} ({group})"
        found = self._group(video_id, group)
        if found is None or "change_points" not in found:
            return f"{where}: {str(self.path)!r} has no change_points for it"
        try:
            shots = _numbers(found, "change_points")
        except _Unusable as why:
            return f"{where}: {why} in {str(self.path)!r}"
        if shots.ndim != 2 or shots.shape[1] != 2 or not len(shots):
            return (
                f"{where}: the change_points in {str(self.path)!r} are {list(shots.shape)}, not [segments, 2]"
            )
        frames = int(shots[-1, 1]) + 1
        if shots[0, 0] != 0 or np.any(shots[1:, 0] != shots[:-1, 1] + 1) or np.any(shots[:, 1] < shots[:, 0]):
            return f"{where}: the change_points in {str(self.path)!r} leave gaps or overlap"
        if abs(frames - n_frames) > MOST_FRAMES_APART or shots[-1, 0] >= n_frames:
            return f"{where}: the change_points in {str(self.path)!r} end at frame {frames - 1} of {n_frames}"
        return None

    def shots(self, video_id: str, group: str, n_frames: int) -> np.ndarray:
        """int32 ``[segments, 2]``, the last ending at the last frame."""
        shots = np.array(self._group(video_id, group)["change_points"][()], dtype=np.int32)
        shots[-1, 1] = n_frames - 1
        return shots

    def problem_of_labels(self, video_id: str, group: str, n_frames: int) -> str | None:
        where = f"{video_id!r} ({group})"
        found = self._group(video_id, group)
        if found is None:
            return f"{where}: {str(self.path)!r} has no such video"
        missing = [name for name in _LABELS if name not in found]
        if missing:
            return f"{where}: {str(self.path)!r} has no {', '.join(missing)} for it"
        try:
            scores, picks, users = (_numbers(found, name) for name in _LABELS)
        except _Unusable as why:
            return f"{where}: {why} in {str(self.path)!r}"
        if scores.ndim != 1 or scores.shape != picks.shape or not len(picks):
            return f"{where}: gtscore and picks in {str(self.path)!r} are not of one length"
        if picks[0] < 0 or np.any(np.diff(picks) < 0):
            return f"{where}: picks in {str(self.path)!r} are not frame numbers in order of time"
        if not users.size:
            return f"{where}: user_summary in {str(self.path)!r} is empty ({list(users.shape)})"
        frames = users.shape[-1] if users.ndim in (1, 2) else 0
        if abs(frames - n_frames) > MOST_FRAMES_APART or picks[-1] > frames:
            return (
                f"{where}: user_summary in {str(self.path)!r} covers {frames} frames but {n_frames} were decoded (at most "
                f"{MOST_FRAMES_APART} apart are reconciled); is it the same cut of the video?"
            )
        return None

    def frames(self, video_id: str, group: str) -> int:
        """How many frames its user summaries cover."""
        return int(self._group(video_id, group)["user_summary"].shape[-1])

    def labels(self, video_id: str, group: str) -> Labels:
        """``gtscore`` holds from each of its picks to the next, so that it can be read at other picks."""
        found = self._group(video_id, group)
        scores, picks, users = (np.asarray(found[name][()]) for name in _LABELS)
        frames = users.shape[-1]
        step = np.searchsorted(picks, np.arange(frames), side="right") - 1
        importance = scores.astype(np.float64)[np.maximum(step, 0)]
        return Labels(importance, user_summaries=(np.atleast_2d(users) > 0).astype(np.uint8))


class _Unusable(Exception):
    """What is wrong with one array of a file."""


def _member(parent: Any, name: str) -> Any:
    """What has this name, None where it is not there or cannot be had: a link to nothing, a damaged object."""
    try:
        return parent.get(name)
    except (KeyError, OSError, RuntimeError, ValueError):
        return None


def _name(group: Any) -> str | None:
    """The group's ``video_name``, as text whatever its bytes."""
    try:
        (name,) = np.asarray(group["video_name"][()]).ravel()[:1]
    except (KeyError, TypeError, AttributeError, OSError, RuntimeError, ValueError):
        return None
    return name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else str(name)


def _numbers(group: Any, name: str) -> np.ndarray:
    """An array of finite numbers. Raises ``_Unusable``."""
    try:
        values = np.asarray(group[name][()])
    except (KeyError, TypeError, AttributeError, OSError, RuntimeError, ValueError):
        raise _Unusable(f"{name} cannot be read") from None
    if values.dtype.kind not in "fiub":
        raise _Unusable(f"{name} holds {values.dtype}, no numbers,")
    if not np.isfinite(values).all():
        raise _Unusable(f"{name} holds NaN or infinity")
    return values.astype(np.int64) if values.dtype.kind == "u" else values  # differences below 0 stay such


def choices(path: Path) -> Sequence[tuple[str, str, int]]:
    """``(video, summary_choice, empty_summaries)`` of each video of an export."""
    import h5py

    with h5py.File(path, "r") as file:
        return [
            (
                group["video_name"][()].decode(),
                str(group.attrs.get("summary_choice", "free")),
                int(group.attrs.get("empty_summaries", 0)),
            )
            for group in file.values()
        ]
