"""What people said of videos, per native frame: TVSum's scores, SumMe's summaries."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from framefeat.errors import UserError
from framefeat.summaries.knapsack import BUDGET

#: TVSum's scores are whole numbers from LOWEST to HIGHEST (Song et al., CVPR 2015).
LOWEST, HIGHEST = 1.0, 5.0
#: Annotated and decoded length may differ by this many frames.
MOST_FRAMES_APART = 2


@dataclass(frozen=True, eq=False)
class Labels:
    """What people said of one video.

    ``importance``: float64 ``[frames]``, what ``gtscore`` holds. ``user_scores``: float64 ``[users, frames]`` in 0..1,
    from which summaries are made; or ``user_summaries``: uint8 ``[users, frames]``, the summaries that they chose
    themselves.
    """

    importance: np.ndarray
    user_scores: np.ndarray | None = None
    user_summaries: np.ndarray | None = None

    def fit(self, n_frames: int) -> "Labels":
        """The same for ``n_frames`` frames: a missing end repeats the last value, an excess end is cut."""
        return Labels(
            fit_length(self.importance, n_frames),
            None if self.user_scores is None else fit_length(self.user_scores, n_frames),
            None if self.user_summaries is None else fit_length(self.user_summaries, n_frames),
        )


class Annotations(Protocol):
    """Where labels come from, one video at a time; a context manager. ``words``: what the exported file says of
    them."""

    path: Path
    words: Mapping[str, str]

    @property
    def files(self) -> Sequence[Path]:
        """What is read."""
        ...

    @property
    def video_ids(self) -> Sequence[str]:
        """The annotated videos, in the source's own order."""
        ...

    def frames(self, video_id: str) -> int:
        """How many frames of it are annotated."""
        ...

    def labels(self, video_id: str) -> Labels: ...

    def __enter__(self) -> "Annotations": ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_annotations(path: str | os.PathLike[str]) -> Annotations:
    """Open ``ydata-tvsum50.mat`` (MATLAB v7.3), ``ydata-tvsum50-anno.tsv``, or SumMe's folder ``GT`` (one .mat per
    video)."""
    path = Path(path)
    if path.is_dir():
        return SumMeAnnotations(path)
    if not path.is_file():
        raise UserError(f"annotations: the file {str(path)!r} does not exist.")
    if path.suffix.lower() == ".mat":
        return MatAnnotations(path)
    if path.suffix.lower() in (".tsv", ".txt"):
        return TsvAnnotations(path)
    raise UserError(
        f"annotations: {str(path)!r} is neither .mat nor .tsv; give ydata-tvsum50.mat, ydata-tvsum50-anno.tsv, or SumMe's folder GT."
    )


class _Scores:
    """Scores of TVSum's annotators as labels."""

    words: Mapping[str, str] = {
        "gtscore": "mean over users of (score - 1) / 4 at picks",
        "summaries": f"knapsack over mean shot scores, at most {BUDGET:g} of n_frames",
    }

    def scores(self, video_id: str) -> np.ndarray:
        """float32 ``[users, frames]`` of one video."""
        raise NotImplementedError

    def frames(self, video_id: str) -> int:
        return int(self.scores(video_id).shape[1])

    def labels(self, video_id: str) -> Labels:
        scores = unit_scores(self.scores(video_id))
        return Labels(scores.mean(axis=0), user_scores=scores)


class MatAnnotations(_Scores):
    """``ydata-tvsum50.mat``: an HDF5 file with a struct ``tvsum50`` whose fields hold references, one per video."""

    def __init__(self, path: Path) -> None:
        import h5py

        self.path = path
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            with path.open("rb") as stream:
                old = stream.read(10) == b"MATLAB 5.0"
            if old:
                raise UserError(
                    f"annotations: {str(path)!r} is not a MATLAB v7.3 file, as ydata-tvsum50.mat is; for SumMe, give the folder that holds "
                    "its files (GT)."
                ) from error
            raise UserError(
                f"annotations: {str(path)!r} is not a MATLAB v7.3 file ({error}); save it from MATLAB with -v7.3, or give the .tsv."
            ) from error
        struct = self._file.get("tvsum50")
        if struct is None or not {"video", "user_anno"} <= set(struct):
            self._file.close()
            raise UserError(
                f"annotations: {str(path)!r} has no struct tvsum50 with fields video and user_anno."
            )
        self._scores: dict[str, Any] = {}
        for place, reference in enumerate(struct["video"][:, 0]):
            name = "".join(chr(int(code)) for code in np.asarray(self._file[reference]).ravel())
            self._scores[name] = struct["user_anno"][place, 0]

    @property
    def files(self) -> Sequence[Path]:
        return [self.path]

    @property
    def video_ids(self) -> Sequence[str]:
        return list(self._scores)

    def scores(self, video_id: str) -> np.ndarray:
        # MATLAB's [frames, users] is seen transposed through HDF5
        return _checked(np.asarray(self._file[self._scores[video_id]], dtype=np.float32), self.path, video_id)

    def __enter__(self) -> "MatAnnotations":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


class TsvAnnotations(_Scores):
    """``ydata-tvsum50-anno.tsv``: no header; video id, category, comma-separated scores; one line per annotator.

    The missing header is a trap: a reader that expects one loses the first annotator of the first video.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: dict[str, list[tuple[int, int]]] = {}
        with path.open("rb") as stream:
            offset = 0
            for number, line in enumerate(stream, 1):
                if line.strip():
                    try:
                        name = line.split(b"\t", 1)[0].decode("utf-8-sig" if number == 1 else "utf-8").strip()
                    except UnicodeDecodeError as error:
                        raise UserError(
                            f"annotations: {str(path)!r}, line {number}: this is not UTF-8 text ({error}); give ydata-tvsum50-anno.tsv."
                        ) from error
                    self._lines.setdefault(name, []).append((number, offset))
                offset += len(line)
        self._stream = path.open("rb")  # closed by __exit__

    @property
    def files(self) -> Sequence[Path]:
        return [self.path]

    @property
    def video_ids(self) -> Sequence[str]:
        return list(self._lines)

    def scores(self, video_id: str) -> np.ndarray:
        users = []
        for number, offset in self._lines[video_id]:
            self._stream.seek(offset)
            try:
                fields = self._stream.readline().decode("utf-8").rstrip("\r\n").split("\t")
                users.append(
                    np.array(
                        [float(score) for score in fields[2].strip().strip(",").split(",")], dtype=np.float32
                    )
                )
            except (IndexError, ValueError) as error:
                raise UserError(
                    f"annotations: {str(self.path)!r}, line {number}: expected video id, category and comma-separated scores, "
                    f"divided by tabs ({error})."
                ) from error
        lengths = sorted({len(user) for user in users})
        if len(lengths) > 1:
            raise UserError(
                f"annotations: {str(self.path)!r}: {video_id!r}'s annotators have different numbers of frames {lengths}."
            )
        return _checked(np.stack(users), self.path, video_id)

    def __enter__(self) -> "TsvAnnotations":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()


def files_of_summe(folder: Path) -> list[Path]:
    """The ``.mat`` files of SumMe's folder ``GT``, in byte order of their names."""
    return [
        file
        for file in sorted(folder.iterdir(), key=lambda file: os.fsencode(file.name))
        if file.suffix.lower() == ".mat" and not file.name.startswith(".")
    ]


class SumMeAnnotations:
    """SumMe's folder ``GT``: ``{video}.mat`` with ``user_score`` [nFrames, users] (above 0: the user chose the frame)
    and ``gt_score`` [nFrames, 1]. Videos are in byte order of their names."""

    words: Mapping[str, str] = {
        "gtscore": "gt_score at picks",
        "summaries": "user_score > 0",
    }

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files = {file.stem: file for file in files_of_summe(path)}
        if not self._files:
            raise UserError(
                f"annotations: the folder {str(path)!r} holds no .mat file; give SumMe's folder GT."
            )
        self._last = lru_cache(maxsize=1)(self._read)  # planning asks for the length, writing for the rest

    @property
    def files(self) -> Sequence[Path]:
        return list(self._files.values())

    @property
    def video_ids(self) -> Sequence[str]:
        return list(self._files)

    def frames(self, video_id: str) -> int:
        return len(self._last(video_id).importance)

    def labels(self, video_id: str) -> Labels:
        return self._last(video_id)

    def _read(self, video_id: str) -> Labels:
        from scipy.io import loadmat

        path = self._files[video_id]
        try:
            values = loadmat(str(path), variable_names=["user_score", "gt_score", "nFrames"])
        except Exception as error:  # scipy raises whatever the bytes lead it to
            raise UserError(
                f"annotations: {str(path)!r} is not a MATLAB file as SumMe's are, of version 5 ({error})."
            ) from error
        missing = [name for name in ("user_score", "gt_score", "nFrames") if name not in values]
        if missing:
            raise UserError(
                f"annotations: {str(path)!r} has no {', '.join(missing)}; give SumMe's own file of this video."
            )
        try:
            users = np.asarray(values["user_score"], dtype=np.float64)
            importance = np.asarray(values["gt_score"], dtype=np.float64).ravel()
            frames = int(np.asarray(values["nFrames"]).item())
        except (TypeError, ValueError) as error:
            raise UserError(
                f"annotations: {str(path)!r}: user_score, gt_score and nFrames are not numbers."
            ) from error
        if users.ndim != 2 or not users.size or len(users) != frames or len(importance) != frames:
            raise UserError(
                f"annotations: {str(path)!r}: user_score is {list(users.shape)} and gt_score [{len(importance)}], where nFrames says {frames} "
                "frames; expected [nFrames, users] and [nFrames, 1]."
            )
        if not (np.isfinite(users).all() and np.isfinite(importance).all()):
            raise UserError(f"annotations: {str(path)!r}: user_score or gt_score holds NaN or infinity.")
        return Labels(importance, user_summaries=np.ascontiguousarray(users.T > 0, dtype=np.uint8))

    def __enter__(self) -> "SumMeAnnotations":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


def _checked(scores: np.ndarray, path: Path, video_id: str) -> np.ndarray:
    if scores.ndim != 2 or not scores.size or not np.all((scores >= LOWEST) & (scores <= HIGHEST)):
        raise UserError(
            f"annotations: {str(path)!r}: the scores of {video_id!r} are not a table of numbers from {LOWEST:g} to {HIGHEST:g}."
        )
    return scores


def unit_scores(scores: np.ndarray) -> np.ndarray:
    """Scores from 1..5 to 0..1, ``(x - 1) / 4``: what the published ``eccv16_dataset_tvsum`` file holds."""
    return (np.asarray(scores, dtype=np.float64) - LOWEST) / (HIGHEST - LOWEST)


def fit_length(values: np.ndarray, n_frames: int) -> np.ndarray:
    """``[..., frames]`` made ``[..., n_frames]``: a missing end repeats the last value, an excess end is cut."""
    annotated = values.shape[-1]
    if annotated >= n_frames:
        return values[..., :n_frames]
    return np.concatenate([values, np.repeat(values[..., -1:], n_frames - annotated, axis=-1)], axis=-1)
