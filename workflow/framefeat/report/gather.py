"""Reads a finished run: manifest, index, matrix (mapped, one pass), evidence of the few videos shown in detail."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from framefeat import stored
from framefeat.errors import UserError
from framefeat.layout import ResultsFolder
from framefeat.names import video_key
from framefeat.records import Manifest, VideoEntry
from framefeat.report import numbers
from framefeat.results import verdict
from framefeat.results.finished import FinishedRun, rows_of
from framefeat.vectors import row_lengths, unit_rows
from framefeat.words import many

_CHUNK_ROWS = 4096
_UNLIKE_ROWS = 300


@dataclass
class ReportVideo:
    """One video of one backbone. Times in seconds; ``rows``: its rows of the matrix, in time order, one per time."""

    video_id: str
    key: str
    entry: VideoEntry
    rows: np.ndarray
    times: np.ndarray
    offsets: np.ndarray
    native: np.ndarray
    status: np.ndarray
    norm: float = float("nan")
    equal_neighbours: int = 0
    neighbours: int = 0
    zero_rows: int = 0
    cuts: int = 0
    reasons: list[tuple[int, str]] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        given: Mapping[str, Any] = self.entry.get("counts") or {}
        return {name: int(given.get(name, (self.status == name).sum())) for name in ("ok", "clamped", "bad")}

    @property
    def total_rows(self) -> int:
        """Rows in the matrix, those that ask for the same time again included."""
        return int(self.entry.get("rows", len(self.rows)))

    @property
    def state(self) -> str:
        """``verified``, ``doubtful`` or ``not verified``."""
        return verdict.of_manifest(self.entry)

    @property
    def has_frames(self) -> bool:
        return bool((self.status != "bad").any())

    @property
    def can_have_cuts(self) -> bool:
        """Whether there is a usual change for another one to stand out from."""
        return self.neighbours > 1

    @property
    def doubts(self) -> list[str]:
        return [str(doubt) for doubt in self.entry.get("doubts") or []]

    @property
    def container(self) -> Mapping[str, Any]:
        return self.entry.get("container") or {}

    @property
    def fps(self) -> float | None:
        value = self.entry.get("fps") or self.container.get("fps")
        return float(value) if value else None

    @property
    def max_offset(self) -> float | None:
        """Seconds; clamped rows, where another frame stands in, are not counted."""
        known = np.abs(self.offsets[self.status == "ok"])
        return float(known.max()) if known.size else None

    @property
    def severity(self) -> int:
        """3: not verified, 2: doubtful, 1: worth a look, 0: nothing stands out."""
        return max((level for level, _ in self.reasons), default=0)


@dataclass
class Backbone:
    """One results folder; ``norms`` and ``changes`` float32 ``[N]`` in matrix order (empty until the matrix was read).

    ``unlike``: the change between two frames that have nothing to do with each other, which differs between backbones.
    """

    folder: Path
    manifest: Manifest
    matrix: np.ndarray
    videos: list[ReportVideo]
    norms: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    changes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    unlike: float = float("inf")

    def cuts(self, video: ReportVideo) -> tuple[np.ndarray, float]:
        """The likely cuts of a video, as places among its rows, and the change that makes one."""
        change = self.changes[video.rows]
        return numbers.likely_cuts(change, self.unlike), numbers.cut_threshold(change, self.unlike)

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def state(self) -> str:
        """``verified``, ``doubtful`` or ``not verified``."""
        return verdict.of_manifest(self.manifest)

    @property
    def counts(self) -> dict[str, int]:
        return {name: sum(video.counts[name] for video in self.videos) for name in ("ok", "clamped", "bad")}

    @property
    def rechecked(self) -> int:
        """Rows that were decoded and embedded a second time."""
        total = 0
        for video in self.videos:
            pixels = (video.entry.get("recheck") or {}).get("pixels") or {}
            total += len(pixels.get("rows") or [])
        return total


def read_backbone(folder: Path) -> Backbone:
    """Manifest, index and mapped matrix of one backbone; the matrix itself is not read yet."""
    run = FinishedRun.of(folder, needed=["videos"])
    matrix = run.map_matrix()
    table = run.read_index(["timestamp_sec", "native_idx", "offset_sec", "status"])
    run.check(matrix, table.num_rows)
    times = table.column("timestamp_sec").to_numpy().astype(np.float64)
    native = table.column("native_idx").to_numpy()
    offsets = table.column("offset_sec").to_numpy().astype(np.float64)
    # Codes instead of strings: a long index holds millions of them.
    names = np.array(["ok", "clamped", "bad"], dtype=object)
    encoded = table.column("status").combine_chunks().dictionary_encode()
    known = {name: place for place, name in enumerate(names)}
    places = np.array([known.get(name, 2) for name in encoded.dictionary.to_pylist()] or [0], dtype=np.int8)
    status = places[encoded.indices.to_numpy(zero_copy_only=False)]
    videos = []
    for entry in run.manifest["videos"]:
        rows = rows_of(entry)
        if len(rows) > 1 and (np.diff(times[rows]) <= 0).any():
            _, first = np.unique(times[rows], return_index=True)
            rows = rows[first]
        videos.append(
            ReportVideo(
                video_id=str(entry["video_id"]),
                key=video_key(str(entry["video_id"])),
                entry=entry,
                rows=rows,
                times=times[rows],
                offsets=offsets[rows],
                native=native[rows],
                status=names[status[rows]],
            )
        )
    return Backbone(folder, run.manifest, matrix, videos)


def measure(backbone: Backbone) -> None:
    """Read the matrix once, one video at a time, and fill in what is known of its features."""
    backbone.norms = np.full(len(backbone.matrix), np.nan, np.float32)
    backbone.changes = np.full(len(backbone.matrix), np.nan, np.float32)
    for video in backbone.videos:
        for rows, fresh, values in _pieces(backbone.matrix, video.rows):
            backbone.norms[rows[fresh:]] = row_lengths(values[fresh:])
            backbone.changes[rows[fresh:]] = numbers.changes(unit_rows(values))[fresh:]
        norms, change = backbone.norms[video.rows], backbone.changes[video.rows]
        known = norms[np.isfinite(norms)]
        video.norm = float(np.median(known)) if known.size else float("nan")
        video.zero_rows = int((known == 0).sum())
        video.equal_neighbours = int((change <= 1e-6).sum())
        video.neighbours = int(np.isfinite(change).sum())
    learn_unlike(backbone)
    for video in backbone.videos:
        video.cuts = len(backbone.cuts(video)[0])


def learn_unlike(backbone: Backbone) -> None:
    """What two unrelated frames look like, from a few rows of the whole matrix."""
    some = unit_rows(read_rows(backbone.matrix, numbers.evenly(len(backbone.matrix), _UNLIKE_ROWS)))
    backbone.unlike = numbers.typical_change(some)


def _pieces(matrix: np.ndarray, rows: np.ndarray) -> Iterator[tuple[np.ndarray, int, np.ndarray]]:
    """Stretches of ``rows`` that overlap by one row: ``(rows, first fresh row, features)``."""
    for start in range(0, len(rows), _CHUNK_ROWS):
        first = max(0, start - 1)
        piece = rows[first : start + _CHUNK_ROWS]
        yield piece, start - first, read_rows(matrix, piece)


def read_rows(matrix: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """``matrix[rows]`` for ascending rows, by plain reads of runs of neighbours: pages of a mapping would count as
    memory."""
    if not isinstance(matrix, np.memmap) or not matrix.flags.c_contiguous or not len(rows):
        return np.asarray(matrix[rows])
    result = np.empty((len(rows), matrix.shape[1]), dtype=matrix.dtype)
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    with open(str(matrix.filename), "rb", buffering=0) as stream:
        for start, end in zip(np.r_[0, breaks], np.r_[breaks, len(rows)], strict=True):
            stream.seek(matrix.offset + int(rows[start]) * matrix.shape[1] * matrix.itemsize)
            _read_into(stream, result[start:end].data.cast("B"))
    return result


def _read_into(stream: FileIO, view: memoryview) -> None:
    while len(view):
        count = stream.readinto(view)
        if not count:
            raise UserError(
                f"{stream.name}: shorter than its header says; run Snakemake with --forcerun assemble."
            )
        view = view[count:]


def judge(backbone: Backbone) -> None:
    """Give each video the reasons why a person should look at it, the gravest first."""
    twins: dict[str, list[str]] = {}
    for video in backbone.videos:
        if video.has_frames and (digest := video.entry.get("features_sha256")):
            twins.setdefault(str(digest), []).append(video.video_id)
    middle, farthest = _usual_norm(backbone.videos)
    for video in backbone.videos:
        others = [
            name
            for name in twins.get(str(video.entry.get("features_sha256")), [])
            if name != video.video_id and video.has_frames
        ]
        reasons = [*_state_reasons(video), *_feature_reasons(video, others)]
        if abs(video.norm - middle) > farthest:
            reasons.append(
                (1, f"features of unusual length ({video.norm:.3g}; the others about {middle:.3g})")
            )
        # A text is said once, at its gravest; the sort keeps the order of equals.
        said: dict[str, int] = {}
        for level, text in sorted(reasons, key=lambda reason: -reason[0]):
            said.setdefault(text, level)
        video.reasons = [(level, text) for text, level in said.items()]


def _state_reasons(video: ReportVideo) -> Iterator[tuple[int, str]]:
    """Levels and words for what makes a video not verified (3) or doubtful (2)."""
    bad = video.counts["bad"]
    if bad:
        yield 3, f"{bad} of {video.total_rows} rows {'has' if bad == 1 else 'have'} no frame"
    yield from ((3, str(problem)) for problem in video.entry.get("problems") or [])
    if video.state == verdict.NOT_VERIFIED and not bad:
        yield 3, "a second decode or embedding did not agree, or is missing"
    yield from ((2, doubt) for doubt in video.doubts)


def _usual_norm(videos: Sequence[ReportVideo]) -> tuple[float, float]:
    """The median norm of the videos, and how far from it a video may lie; without limit where they are too few."""
    norms = np.array([video.norm for video in videos])
    norms = norms[np.isfinite(norms)]
    if len(norms) < 8:
        return 0.0, float("inf")
    middle = float(np.median(norms))
    spread = 1.4826 * float(np.median(np.abs(norms - middle)))
    return middle, 8 * spread if spread > 0 else float("inf")


def _feature_reasons(video: ReportVideo, others: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Level 1: what stands out. ``others``: the videos whose features are equal to this one's."""
    if video.zero_rows:
        yield 1, f"{many(video.zero_rows, 'row')} of nothing but zeros"
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        yield 1, f"features equal to those of {others[0]}{more}: the same video twice?"
    yield from ((1, str(warning)) for warning in video.entry.get("warnings") or [])
    if clamped := video.counts["clamped"]:
        yield 1, f"{many(clamped, 'row')} past the end: the last frame stands in"
    equal, neighbours = video.equal_neighbours, video.neighbours
    if neighbours > 1 and equal > 0.25 * neighbours:
        yield 1, f"{equal} of {neighbours} neighbours have equal features: still, or repeated frames"


def by_concern(videos: Iterable[ReportVideo]) -> list[int]:
    """Places of the videos, those that need a look first, then as they come."""
    listed = list(videos)
    return sorted(
        range(len(listed)),
        key=lambda place: (-listed[place].severity, -sum(level for level, _ in listed[place].reasons), place),
    )


def thumbnails(results: Path, backbone: Backbone, key: str) -> tuple[bytes, list[int]]:
    """A video's strip of thumbnails, as JPEG, and the rows of the video that they show; nothing without one."""
    files = ResultsFolder(results)
    own = str((backbone.manifest.get("preprocessing") or {}).get("geometry", ""))
    for geometry in sorted(files.geometries(), key=lambda geometry: (geometry != own, geometry)):
        path = files.evidence(geometry, key)
        try:
            rows = [int(row) for row in stored.read_record(path)["thumbnails"]["rows"]]
            return stored.read_array(path, "thumbnails").tobytes(), rows
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return b"", []
