"""The assemble stage: per-video features and evidence in; one matrix in index order, its index and its manifest out."""

import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib import format as npy

import framefeat
from framefeat import stored
from framefeat.errors import UserError, complain
from framefeat.files import atomic_path, file_sha256
from framefeat.identity import RequestKey, differences, features_key, identifying, request_key, sample_key
from framefeat.index.merge import COLUMNS, KEY, SLICE_ROW
from framefeat.layout import BackboneFolder, ResultsFolder
from framefeat.parquet import read_parquet
from framefeat.records import (
    Counts,
    Evidence,
    FeatureRecord,
    ManifestHead,
    Origin,
    Slice,
    Span,
    VideoEntry,
)
from framefeat.results import verdict
from framefeat.shard_files import MERGE_AGAIN, Merged
from framefeat.words import many

MANIFEST_SCHEMA = 1
#: As the notebook says it: row i of the matrix is row i of the frame index.
ORDER = "sequential_per_frame_index"
_CHUNK_BYTES = 8 << 20
_ROWS_NAMED = 5


@dataclass(frozen=True)
class Asked:
    """What the stored parts must have been made with, whatever their files' times say. ``spec`` describes the
    backbone."""

    results: ResultsFolder
    geometry: str
    spec: Mapping[str, Any]
    dataset: str
    alignment: str
    decoder: str
    precision: str
    weights_identity: str
    on_bad_frames: str
    origin: Origin | None = None

    @property
    def folder(self) -> BackboneFolder:
        return self.results.backbone(str(self.spec["folder"]))

    @property
    def dim(self) -> int:
        return int(self.spec["dim"])

    @cached_property
    def request(self) -> RequestKey:
        return request_key(json.dumps(identifying(self.spec)), self.weights_identity, self.precision)


@dataclass(frozen=True)
class Part:
    """What is stored of one video, checked. ``features``: float32 [T, D]."""

    evidence: Evidence
    record: FeatureRecord
    features: np.ndarray


@dataclass
class Columns:
    """What the frame index says beside the user's columns: int64, float64 (NaN: no frame) and status, one for each
    row."""

    native: np.ndarray
    pts: np.ndarray
    status: np.ndarray

    @property
    def counts(self) -> Counts:
        found = Counter(self.status.tolist())
        return {"ok": found["ok"], "clamped": found["clamped"], "bad": found["bad"]}

    def take(self, places: np.ndarray) -> "Columns":
        return Columns(self.native[places], self.pts[places], self.status[places])

    def put(self, rows: np.ndarray, some: "Columns") -> None:
        self.native[rows], self.pts[rows], self.status[rows] = some.native, some.pts, some.status


@dataclass
class Summary:
    """What the manifest says of all videos, gathered one by one.

    ``videos``: their entries as JSON, a tenth of the memory of what it describes. ``doubtful``: of each video with
    doubts, how far in seconds its farthest row is. ``bad``: of each video with bad rows a sentence, by key.
    """

    videos: list[str] = field(default_factory=list)
    verified: bool = True
    states: Counter[str] = field(default_factory=Counter)
    doubtful: list[float | None] = field(default_factory=list)
    bad: dict[str, str] = field(default_factory=dict)
    weights_sha256: set[str] = field(default_factory=set)
    networks: set[str] = field(default_factory=set)
    versions: dict[str, set[str]] = field(default_factory=dict)

    def add(self, key: str, entry: VideoEntry, part: Part, bad_rows: np.ndarray) -> None:
        self.videos.append(_json(entry))
        self.verified = self.verified and entry["verified"]
        self.states[entry["verdict"]] += 1
        if entry["doubts"]:
            self.doubtful.append(entry["max_abs_offset_sec"])
        if len(bad_rows):
            self.bad[key] = _finding(entry, bad_rows)
        self.weights_sha256.add(part.record["weights_sha256"])
        if "network" in part.record:  # of earlier editions' records it is not known
            self.networks.add(json.dumps(part.record["network"], sort_keys=True))
        for name, number in (part.evidence["versions"] | part.record["versions"]).items():
            self.versions.setdefault(name, set()).add(number)

    @property
    def farthest(self) -> float | None:
        return max((far for far in self.doubtful if far is not None), default=None)


def assemble(
    results: Path,
    geometry: str,
    spec: Mapping[str, Any],
    *,
    dataset: str,
    alignment: str,
    decoder: str,
    precision: str,
    weights_identity: str,
    on_bad_frames: str,
    origin: Origin | None = None,
) -> None:
    """Write ``{dataset}_features.npy``, ``frame_index.parquet`` and ``feature_manifest.json`` of one backbone.

    ``results`` is ``results/{dataset}``; ``origin`` goes into the manifest as it is. One video's features are in memory
    at a time; of each row stay its few columns of the index, of each video its line of the manifest.

    Raises ``UserError`` listing every stored part that was not made with what is asked for, or that is not what it was
    when it was made; and, where ``on_bad_frames`` is ``fail``, listing every video that has bad rows. Nothing is
    written then.
    """
    asked = Asked(
        ResultsFolder(results),
        geometry,
        spec,
        dataset,
        alignment,
        decoder,
        precision,
        weights_identity,
        on_bad_frames,
        origin,
    )
    try:
        _write(asked)
    except BaseException:
        # It shows the matrix of before, which Snakemake has removed.
        asked.results.report.unlink(missing_ok=True)
        raise


def _write(asked: Asked) -> None:
    index = read_parquet(asked.results.index, advice=MERGE_AGAIN)
    matrix_path = asked.folder.matrix(asked.dataset)
    with atomic_path(matrix_path) as temporary:
        with open(temporary, "wb", buffering=0) as stream:
            columns, summary = _gather(asked, index, Matrix(stream, index.num_rows, asked.dim))
        _refuse(asked, summary)
        matrix_sha256 = file_sha256(temporary)
    _write_frame_index(asked.folder.frame_index, index, columns)
    head = manifest_head(asked, columns, summary, matrix_sha256, file_sha256(asked.folder.frame_index))
    _write_manifest(asked.folder.manifest, head, summary.videos)
    print(f"{matrix_path}: float32 ({index.num_rows}, {asked.dim})", file=sys.stderr)


def _gather(asked: Asked, index: pa.Table, matrix: "Matrix") -> tuple[Columns, Summary]:
    """Write every video's rows of the matrix; what there is to say of its rows and of itself."""
    count = index.num_rows
    columns = Columns(
        np.full(count, -1, dtype=np.int64), np.full(count, np.nan), np.empty(count, dtype=object)
    )
    summary = Summary()
    unfit: list[str] = []
    slices = Merged(asked.results).slices
    for key, rows, places in rows_by_video(index):
        if key not in slices:
            raise UserError(f"{str(asked.results.shards)!r} knows no video {key!r}; {MERGE_AGAIN}")
        try:
            part = _part(asked, key, slices[key])
        except _Unfit as reason:
            unfit.append(str(reason))
        if unfit:
            continue
        matrix.write(rows, part.features, places)
        mine = seen(part).take(places)
        columns.put(rows, mine)
        summary.add(key, video_entry(rows, places, part, mine), part, rows[mine.status == "bad"])
    if unfit:
        raise complain(
            "Stored parts do not fit what the index and the configuration ask for:",
            unfit,
            "Delete these files and run again: they are made anew.",
        )
    return columns, summary


def rows_by_video(index: pa.Table) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Each video's key, its rows (int64, ascending), and the row of its slice that each of them means."""
    encoded = index.column(KEY).combine_chunks().dictionary_encode()
    slice_rows = index.column(SLICE_ROW).to_numpy()
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(len(encoded.dictionary) + 1))
    for code, key in enumerate(encoded.dictionary.to_pylist()):
        rows = order[starts[code] : starts[code + 1]]
        yield key, rows, slice_rows[rows]


def _refuse(asked: Asked, summary: Summary) -> None:
    """Raise ``UserError`` where these parts may not become one matrix."""
    if summary.bad and asked.on_bad_frames == "fail":
        from_folder = asked.origin is not None and "videos" in asked.origin["source"]
        merged = Merged(asked.results)
        raise complain(
            f"{len(summary.bad)} of {many(len(summary.videos), 'video')} {'has' if len(summary.bad) == 1 else 'have'} bad rows, "
            f"and on_bad_frames is 'fail' (rows of the {'matrix' if from_folder else 'frame index'}, from 0):",
            [_with_file(found, merged, key) for key, found in summary.bad.items()],
            f"Replace these files{'' if from_folder else ' (or correct their rows in the index)'} and run again: nothing else "
            "is computed anew. Or run with on_bad_frames=mask as well (beside other keys after --config; of a module, in its part "
            "of the configuration): these rows are NaN then, marked 'bad'."
            + " Or with on_bad_frames=drop: files that give no video at all are left out, other bad rows masked."
            * from_folder,
            most=len(summary.bad),
        )
    if len(summary.weights_sha256) > 1:
        raise UserError(
            f"{asked.folder.root}: the stored features come from different weights "
            f"({', '.join(sorted(summary.weights_sha256))}); run Snakemake with --forcerun extract_features."
        )


def manifest_head(
    asked: Asked, columns: Columns, summary: Summary, matrix_sha256: str, frame_index_sha256: str
) -> ManifestHead:
    """All that the manifest says but for its videos."""
    spec, counts = asked.spec, columns.counts
    computed_by = [json.loads(network) for network in sorted(summary.networks)]
    return {
        "backbone": spec["display"],
        "weights": spec["weights"],
        "feature_dim": asked.dim,
        "total_frames": len(columns.status),
        "alignment_verified": bool(summary.videos) and summary.verified and not counts["bad"],
        "order": ORDER,
        "verdict": verdict.of_all(summary.states),
        "doubtful": {"videos": len(summary.doubtful), "max_abs_offset_sec": summary.farthest},
        "schema_version": MANIFEST_SCHEMA,
        "dataset": asked.dataset,
        **(asked.origin or {}),  # type: ignore[typeddict-item]
        "backbone_name": spec["name"],
        "preprocessing": {name: spec[name] for name in ("geometry", "mean", "std")},
        "spec": dict(spec),
        "alignment": asked.alignment,
        "precision": asked.precision,
        "decoder": asked.decoder,
        "on_bad_frames": asked.on_bad_frames,
        "weights_sha256": next(iter(summary.weights_sha256)),
        "matrix_sha256": matrix_sha256,
        "frame_index_sha256": frame_index_sha256,
        "counts": counts,
        "notes": _notes(counts, summary, computed_by),
        # Several, where results of earlier devices or environments stand beside new ones.
        "computed_by": computed_by,
        "versions": {
            "framefeat": framefeat.__version__,
            **{name: ", ".join(sorted(numbers)) for name, numbers in sorted(summary.versions.items())},
        },
    }


def _notes(counts: Counts, summary: Summary, computed_by: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a person must know of the matrix, in sentences."""
    notes = [f"{many(counts['bad'], 'bad row')} (NaN in the matrix)"] if counts["bad"] else []
    if counts["clamped"]:
        notes.append(f"{many(counts['clamped'], 'clamped row')} (the video's last frame stands in)")
    if unproven := summary.states[verdict.NOT_VERIFIED]:
        notes.append(
            f"{many(unproven, 'video')} not verified (rows are bad, or a second decode or embedding did not agree)"
        )
    if summary.doubtful:
        distance = verdict.distance(summary.farthest)
        notes.append(
            f"{many(len(summary.doubtful), 'video')} doubtful{distance and ', '}{distance}: their doubts say why"
        )
    return notes + sorted({warning for network in computed_by for warning in network["warnings"]})


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)


def _write_manifest(path: Path, manifest: ManifestHead, videos: Iterable[str]) -> None:
    """``manifest`` with a last member ``videos``, each of them (JSON already) on a line of its own."""
    # A lone surrogate (out of a file name that is not UTF-8) becomes its JSON escape.
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", encoding="utf-8", errors="backslashreplace") as stream,
    ):
        stream.write(_json(manifest, indent=1).removesuffix("\n}") + ',\n "videos": [')
        for number, video in enumerate(videos):
            stream.write((",\n  " if number else "\n  ") + video)
        stream.write("\n ]\n}\n")


class _Unfit(Exception):
    """A stored part that is not what is asked for: its file, and why."""


def _part(asked: Asked, key: str, wanted: Slice) -> Part:
    """Raises ``_Unfit`` where what is stored of a video cannot be used."""
    evidence = _evidence(asked, key, wanted)
    return Part(evidence, *_features(asked, key, evidence))


def _evidence(asked: Asked, key: str, wanted: Slice) -> Evidence:
    path = asked.results.evidence(asked.geometry, key)
    expected = sample_key(wanted, alignment=asked.alignment, geometry=asked.geometry, decoder=asked.decoder)
    try:
        evidence: Evidence = stored.read_record(path)
        reasons = differences(evidence["key"], expected)
        if not reasons and len(evidence["rows"]["status"]) != wanted["rows"]:
            reasons = [f"it has {len(evidence['rows']['status'])} rows for {wanted['rows']}"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _Unfit(f"{str(path)!r} cannot be used: {error!r}") from None
    if reasons:
        raise _Unfit(f"{str(path)!r}: {'; '.join(reasons)}")
    return evidence


def _features(asked: Asked, key: str, evidence: Evidence) -> tuple[FeatureRecord, np.ndarray]:
    """The record and the features (float32 [T, D]) of one video."""
    path = asked.folder.features(key)
    try:
        record: FeatureRecord = stored.read_record(path)
        reasons = differences(record["key"], features_key(asked.request, evidence))
        features = stored.read_array(path, "features")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _Unfit(f"{str(path)!r} cannot be used: {error!r}") from None
    if reasons:
        raise _Unfit(f"{str(path)!r}: {'; '.join(reasons)}")
    shape = (len(evidence["rows"]["status"]), asked.dim)
    whole = features.dtype == np.float32 and features.shape == shape
    if not whole or _rows_sha256(features, np.arange(shape[0])) != record["features_sha256"]:
        raise _Unfit(
            f"{str(path)!r} is not what it was when it was made: it was edited, or the disk damaged it"
        )
    return record, features


def seen(part: Part) -> Columns:
    """The rows of the slice, those that could not be embedded among the bad ones."""
    rows = part.evidence["rows"]
    native = np.asarray(rows["native_idx"], dtype=np.int64)
    pts = np.asarray([np.nan if time is None else time for time in rows["pts_sec"]], dtype=float)
    status = np.asarray(rows["status"], dtype=object)
    lost = np.asarray(part.record.get("bad_rows", []), dtype=np.int64)
    native[lost], pts[lost], status[lost] = -1, np.nan, "bad"
    return Columns(native, pts, status)


def _finding(entry: VideoEntry, bad_rows: np.ndarray) -> str:
    """What is wrong with a video, in a line: which rows of the index are bad, and the first reason."""
    reason = entry["problems"][0] if entry["problems"] else "no reason is on record"
    if len(bad_rows) == entry["rows"]:
        which = many(entry["rows"], "row") if entry["rows"] == 1 else f"all {entry['rows']} rows"
    else:
        named = ", ".join(map(str, bad_rows[:_ROWS_NAMED])) + ", ..." * (len(bad_rows) > _ROWS_NAMED)
        which = f"{len(bad_rows)} of its {entry['rows']} rows ({named})"
    return f"{entry['video_id']!r}: {which}: {reason}"


def _with_file(finding: str, merged: Merged, key: str) -> str:
    try:
        path = merged.record(key)["path"]
    except UserError:  # a merge that was taken away must not hide what is wrong with the videos
        return finding
    return finding if path in finding else f"{finding} ({path})"


class Matrix:
    """A .npy file of float32 [N, D] in C order, whose rows come in any order. ``stream``: open for writing,
    unbuffered."""

    def __init__(self, stream: FileIO, rows: int, dim: int) -> None:
        npy.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (rows, dim)})
        self._stream, self._start, self._row_bytes = stream, stream.tell(), 4 * dim
        stream.truncate(self._start + rows * self._row_bytes)

    def write(self, rows: np.ndarray, features: np.ndarray, places: np.ndarray) -> None:
        """``features[places]`` become the rows ``rows`` (ascending): one system call per run of neighbouring rows."""
        breaks = np.flatnonzero(np.diff(rows) != 1) + 1
        per_chunk = max(1, _CHUNK_BYTES // self._row_bytes)
        for run_start, run_end in zip(np.r_[0, breaks], np.r_[breaks, len(rows)], strict=True):
            for first in range(run_start, run_end, per_chunk):
                last = min(first + per_chunk, run_end)
                block = np.ascontiguousarray(features[places[first:last]], dtype="<f4")
                self._put(memoryview(block.view(np.uint8).reshape(-1)), int(rows[first]))  # type: ignore[arg-type]

    def _put(self, view: memoryview, row: int) -> None:
        offset = self._start + row * self._row_bytes
        while len(view):
            written = os.pwrite(self._stream.fileno(), view, offset)
            view, offset = view[written:], offset + written


def video_entry(rows: np.ndarray, places: np.ndarray, part: Part, mine: Columns) -> VideoEntry:
    """What the manifest says of a video. ``rows``: of the matrix; ``places``: of its slice; ``mine``: the columns of
    ``rows``."""
    evidence, record = part.evidence, part.record
    counts = mine.counts
    times = np.asarray(evidence["rows"]["timestamp_sec"], dtype=float)[places]
    # a clamped row's frame only stands in
    offsets = np.abs(mine.pts - times)[mine.status == "ok"]
    sound = bool(record["verified"]) and not counts["bad"]
    doubts = verdict.doubts(evidence)
    reordered = not np.array_equal(places, np.arange(len(part.features)))
    return {
        "video_id": evidence["video_id"],
        "rows": len(rows),
        **_span(rows),
        "fingerprint": evidence["key"]["fingerprint"],
        "fps": evidence["key"]["fps"],
        "alignment": evidence["key"]["alignment"],
        "container": evidence["video"],
        "decoder": evidence["decoder"],
        "decoder_reason": evidence["decoder_reason"],
        "max_abs_offset_sec": float(offsets.max()) if len(offsets) else None,
        "counts": counts,
        "features_sha256": _rows_sha256(part.features, places) if reordered else record["features_sha256"],
        "verified": sound and not verdict.undecided(evidence),
        "verdict": verdict.of_video(sound, doubts),
        "doubts": doubts,
        "recheck": {"pixels": evidence["recheck"], "features": record["recheck"]},
        "batch_size": record["batch_size"],
        "batch_halved": record["batch_halved"],
        "device": record["device"],
        "warnings": [*evidence["warnings"], *verdict.cautions(evidence), *record["warnings"]],
        "problems": [*evidence["problems"], *record.get("problems", [])],
    }


def _span(rows: np.ndarray) -> Span:
    if len(rows) == rows[-1] - rows[0] + 1:
        return {"first_row": int(rows[0]), "last_row": int(rows[-1])}
    return {"row_numbers": rows.tolist()}


def _rows_sha256(features: np.ndarray, places: np.ndarray) -> str:
    """sha256 of the video's rows as they stand in the matrix, in the order of the matrix."""
    digest = hashlib.sha256()
    per_chunk = max(1, _CHUNK_BYTES // max(1, 4 * features.shape[1]))
    for first in range(0, len(places), per_chunk):
        digest.update(
            np.ascontiguousarray(features[places[first : first + per_chunk]], dtype="<f4").tobytes()
        )
    return digest.hexdigest()


def _write_frame_index(path: Path, index: pa.Table, columns: Columns) -> None:
    metadata = dict(index.schema.metadata or {})
    names = json.loads(metadata.pop(COLUMNS))
    table = index.select(names)
    times = table.column("timestamp_sec").cast(pa.float64()).to_numpy()
    table = table.append_column("native_idx", pa.array(columns.native))
    table = table.append_column("pts_sec", pa.array(columns.pts))
    table = table.append_column("offset_sec", pa.array(columns.pts - times))
    table = table.append_column("status", pa.array(columns.status.tolist(), pa.string()))
    metadata.pop(b"pandas", None)  # written for fewer columns; readers rebuild it
    with atomic_path(path) as temporary:
        pq.write_table(table.replace_schema_metadata(metadata or None), temporary)
