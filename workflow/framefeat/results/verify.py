"""``framefeat verify``: finished results against their own manifest, their source index and the videos themselves."""

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from framefeat import tolerances
from framefeat.backbone.chosen import CACHE, WEIGHTS
from framefeat.errors import UserError
from framefeat.files import file_sha256, remembered_paths
from framefeat.index.merge import KEY, SLICE_ROW
from framefeat.layout import FRAME_INDEX, BackboneFolder
from framefeat.names import video_key
from framefeat.parquet import read_parquet
from framefeat.records import Counts, Manifest, VideoEntry, VideoRecord
from framefeat.results.decode_again import DecodedAgain, Decoding, container_of
from framefeat.results.finished import FinishedRun, result_folders, rows_of
from framefeat.results.shape import misfit_of_video
from framefeat.results.told_again import ToldAgain
from framefeat.results.verdict import LEVELS, NOT_VERIFIED, VERIFIED, of_all, of_manifest
from framefeat.shard_files import MERGE_AGAIN, Merged
from framefeat.terminal import print_table, print_wrapped, printable
from framefeat.vectors import cosine
from framefeat.words import many

_SPREAD_ROWS = 2000


@dataclass
class CheckedVideo:
    """One line of the table: what was found wrong (``failures``) and what merely looks odd (``warnings``). ``state``:
    the manifest's verdict."""

    video_id: str
    rows: int
    counts: Counts
    decoder: str
    state: str
    redecoded: int = 0
    pixel_difference: float = 0.0
    cosine: float | None = None
    failures: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def outcome(self) -> str:
        """For the table: the verdict of the run, unless that could not be repeated."""
        if self.failures:
            return "FAILED"
        return self.state if self.redecoded or self.state == NOT_VERIFIED else "not checked"


@dataclass
class Verdict:
    """What ``verify_folder`` found of one backbone's results; ``unchecked``: why no row was embedded again."""

    folder: Path
    unchecked: str = ""
    failures: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    videos: list[CheckedVideo] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.failures and not any(video.failures for video in self.videos)


@dataclass(frozen=True)
class StoredRows:
    """What the results say of one video's rows. All arrays [T], ``features`` float32 [T, D]; ``rows``: of the
    matrix."""

    entry: VideoEntry
    rows: np.ndarray
    ids: Sequence[str]
    times: np.ndarray
    native: np.ndarray
    pts: np.ndarray
    status: np.ndarray
    features: np.ndarray

    @property
    def good(self) -> np.ndarray:
        """bool [T]"""
        return self.status != "bad"


#: What is checked, of the manifest and of the frame index.
_NEEDED = (
    "videos", "counts", "spec", "precision", "weights_sha256", "matrix_sha256", "frame_index_sha256", "dataset",
    "alignment", "decoder", "on_bad_frames", "versions", "preprocessing",
)  # fmt: skip
_NOT_COMPUTED = "its rows of the matrix are not the features that were computed (features_sha256)"
_NEEDED_OF_VIDEOS = ("rows", "fingerprint", "fps", "container", "decoder", "counts", "features_sha256")
_COLUMNS = ("video_id", "timestamp_sec", "native_idx", "pts_sec", "status")


def verify_folder(folder: Path, *, rows_per_video: int, weights: Sequence[Path]) -> Verdict:
    """Check one backbone's results; ``rows_per_video`` rows of each video are decoded and embedded again (0: all)."""
    verdict = Verdict(folder)
    try:
        run = FinishedRun.of(folder, needed=_NEEDED)
        matrix, index = run.map_matrix(), run.read_index()
    except UserError as error:
        verdict.failures.append(str(error))
        return verdict
    if problem := _misshapen(run, matrix, index) or _no_backbone(run.manifest):
        verdict.failures.append(problem)
        return verdict
    status = np.asarray(index.column("status").to_pylist(), dtype=object)
    covered = np.zeros(len(matrix), dtype=bool)
    alone = _lies_alone(folder)
    again = Again(folder, run.manifest, weights, rows_per_video)
    usable: list[VideoEntry] = []
    try:
        for entry in run.manifest["videos"]:
            if problem := _unusable(entry):
                verdict.failures.append(problem)
                covered[rows_of(entry)] = True
                continue
            usable.append(entry)
            stored = _stored_rows(entry, index, status, matrix)
            if covered[stored.rows].any():
                verdict.failures.append(
                    f"{entry['video_id']}: the manifest gives it rows that it gave before"
                )
            covered[stored.rows] = True
            verdict.videos.append(_verify_video(stored, None if alone else again))
    finally:
        again.end()
    verdict.unchecked = again.unchecked
    if weights and again.unchecked:  # who names the weights asks for the check
        verdict.failures.append(again.unchecked)
    verdict.failures += [alone] if alone else []
    verdict.failures += _check_files(
        run, index, status, but_matrix=any(_NOT_COMPUTED in video.failures for video in verdict.videos)
    )
    told_again = _told_again(run, usable)
    if told_again:
        verdict.failures += told_again.failures
        verdict.warnings += told_again.warnings
    if not covered.all():
        verdict.failures.append(f"{int((~covered).sum())} rows belong to no video of the manifest")
    verdict.warnings += _oddities(usable, matrix, status)
    return verdict


def _lies_alone(folder: Path) -> str:
    """Why no frame can be decoded again of a backbone's folder that was copied without what lies beside it; empty where
    that is there."""
    results = BackboneFolder(folder).results
    if results.index.exists() or results.videos.exists():
        return ""
    return (
        f"{results.index.name} and {results.videos.name}/ are not beside this folder, which say where the videos are: no frame "
        "was decoded again. Of a copy, copy results/DATASET whole"
    )


def _unusable(entry: VideoEntry) -> str:
    """Why nothing of a video can be checked; empty where it can be."""
    missing = [name for name in _NEEDED_OF_VIDEOS if name not in entry]
    wrong = f"{', '.join(missing)} is missing" if missing else misfit_of_video(entry)
    return wrong and f"{entry['video_id']}: its entry in the manifest is not as it was written: {wrong}"


def _misshapen(run: FinishedRun, matrix: np.ndarray, index: pa.Table) -> str:
    """Why matrix and index cannot be compared row by row; empty where they can be."""
    if matrix.dtype != np.dtype("<f4") or matrix.shape != run.shape or not matrix.flags.c_contiguous:
        return f"{run.matrix_path.name} is {matrix.dtype} {matrix.shape}; the manifest says float32 {run.shape} in C order"
    if missing := [name for name in _COLUMNS if name not in index.column_names]:
        return f"{FRAME_INDEX} lacks the column {', '.join(missing)}; it is not the frame index of a run"
    if index.num_rows != len(matrix):
        return f"{FRAME_INDEX} has {index.num_rows} rows, the matrix {len(matrix)}"
    return ""


def _told_again(run: FinishedRun, entries: Sequence[VideoEntry]) -> ToldAgain | None:
    """None where the merged index is not there or not whole, which is said elsewhere."""
    folder = run.matrix_path.parent
    try:
        return ToldAgain(
            folder,
            run.manifest,
            entries,
            read_parquet(BackboneFolder(folder).results.index, [KEY, SLICE_ROW], advice=""),
        )
    except (UserError, FileNotFoundError):
        return None


def _no_backbone(manifest: Manifest) -> str:
    """Why nothing can be embedded as the manifest says; empty where it can be."""
    from framefeat.backbone.spec import BackboneSpec
    from framefeat.video.geometry import Geometry

    try:
        Geometry.from_name(BackboneSpec.from_json(manifest["spec"]).geometry)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return f"the manifest's spec describes no backbone ({error!r})"
    return ""


def _check_files(run: FinishedRun, index: pa.Table, status: np.ndarray, *, but_matrix: bool) -> Iterator[str]:
    """What is wrong with the files as wholes. ``but_matrix``: some of its rows are known to be wrong."""
    if not but_matrix and file_sha256(run.matrix_path) != run.manifest["matrix_sha256"]:
        yield f"{run.matrix_path.name}: its sha256 is not the manifest's matrix_sha256"
    if file_sha256(run.index_path) != run.manifest["frame_index_sha256"]:
        yield f"{FRAME_INDEX}: its sha256 is not the manifest's frame_index_sha256"
    if run.matrix_path != BackboneFolder(run.matrix_path.parent).matrix(run.manifest["dataset"]):
        yield f"the manifest says dataset is {run.manifest['dataset']!r}, the matrix is {run.matrix_path.name}"
    if not _lies_alone(run.matrix_path.parent):
        yield from _compare_with_source(run.matrix_path.parent, index)
    if run.manifest["counts"] != {name: int((status == name).sum()) for name in ("ok", "clamped", "bad")}:
        yield f"the manifest's counts are not those of {FRAME_INDEX}"


def _compare_with_source(folder: Path, index: pa.Table) -> Iterator[str]:
    source_path = BackboneFolder(folder).results.index
    if not source_path.is_file():
        yield (
            f"{source_path}: the merged index is not there, so the order of the rows cannot be compared with it; {MERGE_AGAIN}"
        )
        return
    try:
        source = read_parquet(source_path, ["video_id", "timestamp_sec"], advice=MERGE_AGAIN)
    except UserError as error:
        yield str(error)
        return
    for name in ("video_id", "timestamp_sec"):
        if source.num_rows != index.num_rows or not source.column(name).combine_chunks().equals(
            index.column(name).combine_chunks()
        ):
            yield f"{FRAME_INDEX}: the column {name} is not that of {source_path}, row by row"
            return


def _oddities(entries: Sequence[VideoEntry], matrix: np.ndarray, status: np.ndarray) -> Iterator[str]:
    """What looks odd in the whole and need not be wrong."""
    doubtful = [video for video in entries if video.get("doubts")]
    if doubtful:
        first = doubtful[0]
        which = ": " if len(doubtful) == 1 else ", the first: "
        yield f"{many(len(doubtful), 'video')} doubtful{which}{first['video_id']}: {'; '.join(first['doubts'])}"
    good = np.flatnonzero(status != "bad")
    if len(good) > 1:
        some = good[np.linspace(0, len(good) - 1, min(_SPREAD_ROWS, len(good))).astype(int)]
        spread = np.ptp(matrix[some], axis=0)
        if (spread == 0).any():
            yield (
                f"{int((spread == 0).sum())} of {len(spread)} feature dimensions are constant over the sampled rows"
            )


# ------------------------------------------------------------------------------------------------------- one video


def _stored_rows(entry: VideoEntry, index: pa.Table, status: np.ndarray, matrix: np.ndarray) -> StoredRows:
    rows = rows_of(entry)
    mine = index.select(["video_id", "timestamp_sec", "native_idx", "pts_sec"]).take(pa.array(rows))
    return StoredRows(
        entry=entry,
        rows=rows,
        ids=mine.column("video_id").to_pylist(),
        times=mine.column("timestamp_sec").cast(pa.float64()).to_numpy(),
        native=mine.column("native_idx").to_numpy(),
        pts=mine.column("pts_sec").to_numpy(),
        status=status[rows],
        features=np.ascontiguousarray(matrix[rows]),
    )


def _verify_video(stored: StoredRows, again: "Again | None") -> CheckedVideo:
    entry = stored.entry
    video = CheckedVideo(
        entry["video_id"],
        len(stored.rows),
        entry["counts"],
        entry["decoder"] or "-",
        of_manifest(entry),
    )
    video.failures += _check_features(stored)
    video.warnings += _equal_neighbours(stored)
    if again and stored.good.any():
        try:
            again.check(stored, video)
        except UserError as error:
            video.failures.append(str(error))
    return video


def _check_features(stored: StoredRows) -> Iterator[str]:
    """What is wrong with the rows as they lie there."""
    if hashlib.sha256(stored.features.tobytes()).hexdigest() != stored.entry["features_sha256"]:
        yield _NOT_COMPUTED
    if not np.isfinite(stored.features[stored.good]).all():
        yield "rows that are not marked 'bad' hold values that are not finite"
    if not np.isnan(stored.features[~stored.good]).all():
        yield "rows marked 'bad' are not NaN"
    if set(stored.ids) != {stored.entry["video_id"]}:
        yield "the manifest gives it rows of other videos"


def _equal_neighbours(stored: StoredRows) -> Iterator[str]:
    good, features, native = stored.good, stored.features, stored.native
    if good.sum() < 2:
        return
    same = (np.diff(features, axis=0) == 0).all(axis=1) & (np.diff(native) != 0) & good[1:] & good[:-1]
    if same.any():
        yield f"{int(same.sum())} neighbouring rows of different frames have equal features"
    if np.ptp(features[good], axis=0).max() == 0 and len(np.unique(native[good])) > 1:
        yield "all its rows have the same features"


def choose_rows(candidates: np.ndarray, count: int, seed: str) -> np.ndarray:
    """``count`` of ``candidates`` (0: all), the last among them, drawn by a seed that depends on the content alone."""
    if count == 0 or count >= len(candidates):
        return candidates
    random = np.random.default_rng(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "little"))
    drawn = random.choice(candidates[:-1], size=count - 1, replace=False)
    return np.sort(np.append(drawn, candidates[-1]))


def _misplaced(stored: StoredRows, container: Any, alignment: str) -> str:
    """The first row whose frame, or its time, is not what the rule asks for."""
    from framefeat.video.alignment import align

    good, rows = stored.good, stored.rows[stored.good]
    native = stored.native[good]
    meant = align(container, stored.times, stored.entry["fps"], alignment).native[good]
    if not np.array_equal(meant, native):
        wrong = rows[np.flatnonzero(meant != native)[0]]
        return f"native_idx of row {wrong} is not the frame that its time means"
    expected = container.times()[native]
    if not np.allclose(expected, stored.pts[good], rtol=0, atol=1e-6):
        wrong = rows[int(np.abs(expected - stored.pts[good]).argmax())]
        return f"pts_sec of row {wrong} is not the presentation time of its frame"
    return ""


class Again:
    """Rows decoded and embedded again. The decoders and the network are started when they are first needed."""

    def __init__(
        self, folder: Path, manifest: Manifest, weights: Sequence[Path], rows_per_video: int
    ) -> None:
        self._results = BackboneFolder(folder).results
        self._merged = Merged(self._results)
        self._manifest = manifest
        self._network = StoredNetwork(manifest, weights, self._results.root)
        self._rows_per_video = rows_per_video
        self._decoding: Decoding | None = None

    @property
    def unchecked(self) -> str:
        """Why no row was embedded again, where the weights could not be had."""
        return self._network.missing

    def check(self, stored: StoredRows, video: CheckedVideo) -> None:
        """Write into ``video`` what comes out. Raises ``UserError`` where the video cannot be had."""
        entry = stored.entry
        record: VideoRecord = self._merged.record(video_key(entry["video_id"]))
        path = _unchanged_file(record, entry["fingerprint"])
        source = entry["container"]["index_source"] if entry["container"] else "packets"
        container = container_of(path, source)
        alignment = record.get("alignment", self._manifest["alignment"])
        if problem := _misplaced(stored, container, alignment):
            video.failures.append(problem)
            return
        chosen = choose_rows(np.flatnonzero(stored.good), self._rows_per_video, entry["fingerprint"])
        video.redecoded = len(chosen)
        wanted = sorted({int(stored.native[place]) for place in chosen})
        decoded = self._decode(path, wanted, entry["decoder"], self._manifest["spec"]["geometry"], source)
        video.pixel_difference = max(decoded.differences.values(), default=0.0)
        video.failures += [
            f"frame {number} {why}, decoded again in order"
            for number, why in sorted(decoded.unproved.items())
        ]
        if set(wanted) <= set(decoded.frames) and self._network.is_there():
            self._compare(stored, chosen, decoded, video)

    def _compare(
        self, stored: StoredRows, chosen: np.ndarray, decoded: DecodedAgain, video: CheckedVideo
    ) -> None:
        numbers = [int(stored.native[place]) for place in chosen]
        vectors = self._network.embed(np.stack([decoded.frames[number] for number in numbers]))
        of_same = (
            tolerances.COSINE_OF_SAME_PIXELS_LATER
            if self._manifest["precision"] == "float32"
            else tolerances.COSINE_OF_SAME_PIXELS_LATER_HALF
        )
        for place, number, vector in zip(chosen, numbers, vectors, strict=True):
            alike = cosine(vector, stored.features[place])
            video.cosine = alike if video.cosine is None else min(video.cosine, alike)
            same = decoded.differences.get(number, 0.0) == 0
            if alike < (of_same if same else tolerances.COSINE_OF_NEAR_PIXELS):
                video.failures.append(
                    f"row {stored.rows[place]}: the frame embedded again has cosine {alike:.4f} with the stored row"
                )

    def _decode(self, *request: Any) -> DecodedAgain:
        self._decoding = self._decoding or Decoding()
        try:
            return self._decoding(*request)
        except UserError:
            self.end()
            raise

    def end(self) -> None:
        if self._decoding is not None:
            self._decoding.end()
            self._decoding = None


def _unchanged_file(record: VideoRecord, fingerprint: str) -> str:
    path = record["path"]
    if not Path(path).is_file():
        raise UserError(f"its file {path!r} is gone, so no frame can be decoded again")
    if file_sha256(path) != fingerprint:
        raise UserError(f"its file {path!r} is no longer the one that the features were computed from")
    return path


class StoredNetwork:
    """The network that made the matrix, found by the sha256 of its weights and loaded when first needed."""

    def __init__(self, manifest: Manifest, named: Sequence[Path], results: Path) -> None:
        """``named``: files that a person says it is in; ``results``: ``results/{dataset}``."""
        self._manifest, self._named = manifest, named
        self._candidates = _weight_files(named, results, manifest)
        self._loaded: Any = None
        self._path: Path | None = None
        #: Why there is no network: said once, however many videos ask.
        self.missing = ""

    def is_there(self) -> bool:
        """Whether a file with the weights' sha256 was found."""
        if self._path is None and not self.missing:
            wanted = self._manifest["weights_sha256"]
            fitting = (path for path in self._candidates if path.is_file() and file_sha256(path) == wanted)
            self._path = next(fitting, None)
            if self._path is None:
                others = [
                    f"{str(path)!r} has sha256 {file_sha256(path)[:16]}..."
                    for path in self._named
                    if path.is_file()
                ]
                self.missing = (
                    f"features not checked: the weights with sha256 {wanted[:16]}... are neither where a run of this folder, or "
                    f"of the one around these results, had them, nor in {WEIGHTS} or torch's cache; "
                    + (f"{'; '.join(others)}" if others else "name their file with --weights")
                )
        return self._path is not None

    def embed(self, frames: np.ndarray) -> np.ndarray:
        """Features float32 [K, D] of resized frames uint8 [K, h, w, 3]; only where the weights are there."""
        from framefeat.backbone.network import embed, load_model
        from framefeat.backbone.spec import BackboneSpec

        if self._loaded is None:
            spec = BackboneSpec.from_json(self._manifest["spec"])
            self._loaded = load_model(
                spec, str(self._path), device="cpu", precision=self._manifest["precision"]
            )
        return embed(self._loaded, frames, 16)[0]


def _weight_files(named: Sequence[Path], results: Path, manifest: Manifest) -> Iterator[Path]:
    """Where the weights may lie: what is named, where a run from here or from the results' project had them, and the
    usual places."""
    yield from named
    for project in dict.fromkeys((Path().absolute(), results.absolute().parent.parent)):
        yield from remembered_paths(manifest["weights_sha256"], project / CACHE / "files.json")
        yield from sorted((project / WEIGHTS).glob("*"))
    yield from sorted((Path.home() / ".cache" / "torch" / "hub" / "checkpoints").glob("*"))


# ---------------------------------------------------------------------------------------------------- the subcommand


def run(path: Path, *, rows_per_video: int, weights: Sequence[Path], as_json: bool = False) -> int:
    """Verify everything below ``path``, print a table; returns the exit status (0: all of it holds)."""
    for file in weights:
        if not file.is_file():
            print(f"--weights: {str(file)!r} does not exist; looking elsewhere", file=sys.stderr)
    verdicts = [
        verify_folder(folder, rows_per_video=rows_per_video, weights=weights)
        for folder in result_folders(path)
    ]
    if as_json:
        print(json.dumps([_as_json(verdict) for verdict in verdicts], indent=1))
    for verdict in verdicts if not as_json else ():
        _print(verdict)
    return 0 if all(verdict.ok for verdict in verdicts) else 1


def _as_json(verdict: Verdict) -> dict[str, Any]:
    return {
        "folder": str(verdict.folder),
        "ok": verdict.ok,
        "unchecked": verdict.unchecked,
        "failures": verdict.failures,
        "warnings": verdict.warnings,
        "videos": [asdict(video) for video in verdict.videos],
    }


def _print(verdict: Verdict) -> None:
    print(verdict.folder)
    names = ["video", "rows", "ok", "clamped", "bad", "decoder", "re-decoded", "pixels", "cosine", "verdict"]
    rows = [
        [
            video.video_id, str(video.rows), *(str(video.counts.get(name, "-")) for name in ("ok", "clamped", "bad")),
            video.decoder, str(video.redecoded), f"{video.pixel_difference:.2f}",
            "-" if video.cosine is None else f"{video.cosine:.6f}",
            video.outcome,
        ]
        for video in verdict.videos
    ]  # fmt: skip
    levels = [LEVELS.get(video.outcome, 3) for video in verdict.videos]
    print_table(
        names, rows, sys.stdout, right={1, 2, 3, 4, 6, 7, 8}, levels=levels, coloured_column=9, droppable=[5, 3, 2],
        cut=0,
    )  # fmt: skip
    for video in verdict.videos:
        for text in video.failures:
            print_wrapped(printable(f"failed: {video.video_id}: {text}"), sys.stdout)
        for text in video.warnings:
            print_wrapped(printable(f"warning: {video.video_id}: {text}"), sys.stdout)
    for text in verdict.failures:
        print_wrapped(f"failed: {text}", sys.stdout)
    for text in verdict.warnings:
        print_wrapped(f"warning: {text}", sys.stdout)
    if verdict.unchecked and verdict.unchecked not in verdict.failures:
        print_wrapped(verdict.unchecked, sys.stdout)
    if verdict.unchecked and verdict.ok:
        print("frames and files hold")
    else:
        state = of_all([video.state for video in verdict.videos])
        as_before = "" if state == VERIFIED else f"; the verdict of the run stays: {state}"
        print(f"everything holds{as_before}" if verdict.ok else "not everything holds")
