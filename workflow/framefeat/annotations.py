"""TVSum's annotations: one importance score (1 to 5) per frame and annotator, from the .mat or the .tsv file."""

import os
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from framefeat.errors import UserError

#: Scores are whole numbers from LOWEST to HIGHEST (Song et al., CVPR 2015).
LOWEST, HIGHEST = 1.0, 5.0
#: Annotated and decoded length may differ by this many frames.
MOST_FRAMES_APART = 2


class Annotations(Protocol):
    """Where scores come from, one video at a time; a context manager."""

    path: Path

    def __contains__(self, video_id: object) -> bool: ...

    def scores(self, video_id: str) -> np.ndarray:
        """float32 ``[users, frames]`` of one video."""
        ...

    def __enter__(self) -> "Annotations": ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_annotations(path: str | os.PathLike[str]) -> Annotations:
    """Open ``ydata-tvsum50.mat`` (MATLAB v7.3) or ``ydata-tvsum50-anno.tsv``, told apart by their endings."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"annotations: the file {str(path)!r} does not exist.")
    if path.suffix.lower() == ".mat":
        return MatAnnotations(path)
    if path.suffix.lower() in (".tsv", ".txt"):
        return TsvAnnotations(path)
    raise UserError(
        f"annotations: {str(path)!r} is neither .mat nor .tsv; give ydata-tvsum50.mat or ydata-tvsum50-anno.tsv."
    )


class MatAnnotations:
    """``ydata-tvsum50.mat``: an HDF5 file with a struct ``tvsum50`` whose fields hold references, one per video."""

    def __init__(self, path: Path) -> None:
        import h5py

        self.path = path
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
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

    def __contains__(self, video_id: object) -> bool:
        return video_id in self._scores

    def scores(self, video_id: str) -> np.ndarray:
        # MATLAB's [frames, users] is seen transposed through HDF5
        return _checked(np.asarray(self._file[self._scores[video_id]], dtype=np.float32), self.path, video_id)

    def __enter__(self) -> "MatAnnotations":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


class TsvAnnotations:
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
                    name = line.split(b"\t", 1)[0].decode("utf-8-sig" if number == 1 else "utf-8").strip()
                    self._lines.setdefault(name, []).append((number, offset))
                offset += len(line)
        self._stream = path.open("rb")  # closed by __exit__

    def __contains__(self, video_id: object) -> bool:
        return video_id in self._lines

    def scores(self, video_id: str) -> np.ndarray:
        users = []
        for number, offset in self._lines[video_id]:
            self._stream.seek(offset)
            fields = self._stream.readline().decode("utf-8").rstrip("\r\n").split("\t")
            try:
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


def _checked(scores: np.ndarray, path: Path, video_id: str) -> np.ndarray:
    if scores.ndim != 2 or not scores.size or not np.all((scores >= LOWEST) & (scores <= HIGHEST)):
        raise UserError(
            f"annotations: {str(path)!r}: the scores of {video_id!r} are not a table of numbers from {LOWEST:g} to {HIGHEST:g}."
        )
    return scores


def unit_scores(scores: np.ndarray) -> np.ndarray:
    """Scores from 1..5 to 0..1, ``(x - 1) / 4``: what the published ``eccv16_dataset_tvsum`` file holds."""
    return (np.asarray(scores, dtype=np.float64) - LOWEST) / (HIGHEST - LOWEST)


def fit_length(scores: np.ndarray, n_frames: int) -> np.ndarray:
    """``[users, frames]`` made ``[users, n_frames]``: a missing end repeats the last score, an excess end is cut."""
    annotated = scores.shape[1]
    if annotated >= n_frames:
        return scores[:, :n_frames]
    return np.concatenate([scores, np.repeat(scores[:, -1:], n_frames - annotated, axis=1)], axis=1)
