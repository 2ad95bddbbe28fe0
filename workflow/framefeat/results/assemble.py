"""The assemble stage: per-video features and evidence in; one matrix in index order, its index and its manifest out."""

import hashlib
import importlib.metadata
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib import format as npy

from framefeat.errors import UserError, complain
from framefeat.extract import stage as extract_stage
from framefeat.files import atomic_path, file_sha256, read_json
from framefeat.identity import differences
from framefeat.index.merge import COLUMNS, KEY, SLICE_ROW
from framefeat.results import verdict
from framefeat.sample import stage as sample_stage

#: A change of the numbers that this stage gives must change it.
ALGORITHM = 2
MANIFEST_SCHEMA = 1
#: As the notebook says it: row i of the matrix is row i of the frame index.
ORDER = "sequential_per_frame_index"
_CHUNK_BYTES = 8 << 20


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
) -> None:
    """Write ``{dataset}_features.npy``, ``frame_index.parquet`` and ``feature_manifest.json`` of one backbone.

    ``results`` is ``results/{dataset}``; ``spec`` describes the backbone. One video's features are in memory at a time; of
    each row stay its few columns of the index, of each video its line of the manifest.

    What else is given says what the stored parts must have been made with, whatever their files' times say. Raises
    ``UserError`` listing every part that was not, or that is not what it was when it was made; and, where
    ``on_bad_frames`` is ``fail``, listing every video that has bad rows. Nothing is written then.
    """
    asked = extract_stage.request_key(
        json.dumps(extract_stage.identifying(spec)), weights_identity, precision
    )
    folder = results / str(spec["folder"])
    index = pq.read_table(results / "index.parquet")
    keys = index.column(KEY).combine_chunks()
    slice_rows = index.column(SLICE_ROW).to_numpy()
    encoded = keys.dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(len(encoded.dictionary) + 1))

    count = len(codes)
    native = np.full(count, -1, dtype=np.int64)
    pts = np.full(count, np.nan)
    status = np.empty(count, dtype=object)
    videos: list[str] = []
    verified = True
    states: Counter[str] = Counter()
    doubtful: list[float | None] = []  # of each video with doubts, how far its farthest row is
    bad_videos: list[str] = []
    unfit: list[str] = []
    weights_sha256: set[str] = set()
    versions: dict[str, set[str]] = {}
    networks: set[str] = set()
    matrix_path = folder / f"{dataset}_features.npy"
    with atomic_path(matrix_path) as temporary:
        with open(temporary, "wb", buffering=0) as stream:
            npy.write_array_header_1_0(
                stream, {"descr": "<f4", "fortran_order": False, "shape": (count, int(spec["dim"]))}
            )
            start = stream.tell()
            row_bytes = 4 * int(spec["dim"])
            stream.truncate(start + count * row_bytes)
            for code, key in enumerate(encoded.dictionary.to_pylist()):
                rows = order[starts[code] : starts[code + 1]]
                places = slice_rows[rows]
                slice_path = results / "slices" / f"{key}.json"
                if not slice_path.is_file():
                    raise UserError(
                        f"{str(slice_path)!r} is gone; run Snakemake with --forcerun merge_index."
                    )
                wanted = read_json(slice_path)
                sampled = sample_stage.sample_key(
                    wanted, alignment=alignment, geometry=geometry, decoder=decoder
                )
                try:
                    evidence = _evidence(
                        results / "evidence" / geometry / f"{key}.json", sampled, wanted["rows"]
                    )
                    record, features = _features(
                        folder / "features" / f"{key}.npy", asked, evidence, int(spec["dim"])
                    )
                except _Unfit as reason:
                    unfit.append(str(reason))
                if unfit:
                    continue
                _write_rows(stream, start, row_bytes, rows, places, features)
                seen = _seen(evidence, record)
                native[rows], pts[rows], status[rows] = (column[places] for column in seen)
                entry = _video_entry(rows, places, evidence, record, features, pts, status)
                videos.append(_json(entry))  # a tenth of the memory of what it describes
                verified = verified and entry["verified"]
                states[entry["verdict"]] += 1
                if entry["doubts"]:
                    doubtful.append(entry["max_abs_offset_sec"])
                weights_sha256.add(record["weights_sha256"])
                if "network" in record:  # of earlier editions' records it is not known
                    networks.add(json.dumps(record["network"], sort_keys=True))
                for name, number in (evidence["versions"] | record["versions"]).items():
                    versions.setdefault(name, set()).add(number)
                if entry["counts"]["bad"]:
                    bad_videos.append(finding(entry))
        if unfit:
            raise complain(
                "Stored parts do not fit what the index and the configuration ask for:",
                unfit,
                "Delete these files and run again: they are made anew.",
            )
        if bad_videos and on_bad_frames == "fail":
            raise complain(
                f"{len(bad_videos)} of {len(videos)} videos have bad rows, and on_bad_frames is 'fail':",
                bad_videos,
                "Replace these files (or correct their rows in the index) and run again: nothing else is computed anew. Or set "
                "on_bad_frames: mask, and run again: these rows are NaN then, marked 'bad'.",
                most=len(bad_videos),
            )
        if len(weights_sha256) > 1:
            raise UserError(
                f"{folder}: the stored features come from different weights ({', '.join(sorted(weights_sha256))}); run "
                "Snakemake with --forcerun extract_features."
            )
        matrix_sha256 = file_sha256(temporary)
    frame_index_path = folder / "frame_index.parquet"
    _write_frame_index(frame_index_path, index, native, pts, status)
    counts = {name: int((status == name).sum()) for name in ("ok", "clamped", "bad")}
    notes = [f"{counts['bad']} rows are bad (NaN in the matrix)"] if counts["bad"] else []
    if counts["clamped"]:
        notes.append(f"{counts['clamped']} rows are clamped (the video's last frame stands in)")
    if unproven := states[verdict.NOT_VERIFIED]:
        notes.append(
            f"{unproven} video(s) not verified (rows are bad, or a second decode or embedding did not agree)"
        )
    farthest = max((far for far in doubtful if far is not None), default=None)
    if doubtful:
        distance = "" if farthest is None else f", rows up to {farthest:.3f} s from their frames"
        notes.append(f"{len(doubtful)} video(s) doubtful{distance}: 'doubts' says why")
    computed_by = [json.loads(network) for network in sorted(networks)]
    notes += sorted({warning for network in computed_by for warning in network["warnings"]})
    manifest = {
        "backbone": spec["display"],
        "weights": spec["weights"],
        "feature_dim": int(spec["dim"]),
        "total_frames": count,
        "alignment_verified": bool(videos) and verified and not counts["bad"],
        "order": ORDER,
        "verdict": verdict.of_all(states),
        "doubtful": {"videos": len(doubtful), "max_abs_offset_sec": farthest},
        "schema_version": MANIFEST_SCHEMA,
        "dataset": dataset,
        "backbone_name": spec["name"],
        "preprocessing": {name: spec[name] for name in ("geometry", "mean", "std")},
        "spec": spec,
        "alignment": alignment,
        "precision": precision,
        "decoder": decoder,
        "on_bad_frames": on_bad_frames,
        "weights_sha256": weights_sha256.pop(),
        "matrix_sha256": matrix_sha256,
        "frame_index_sha256": file_sha256(frame_index_path),
        "counts": counts,
        "notes": notes,
        # Several, where results of earlier devices or environments stand beside new ones.
        "computed_by": computed_by,
        "versions": {
            "framefeat": importlib.metadata.version("framefeat"),
            **{name: ", ".join(sorted(numbers)) for name, numbers in sorted(versions.items())},
        },
    }
    _write_manifest(folder / "feature_manifest.json", manifest, videos)
    print(f"{matrix_path}: float32 ({count}, {spec['dim']})", file=sys.stderr)


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)


def _write_manifest(path: Path, manifest: Mapping[str, Any], videos: Iterable[str]) -> None:
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


def _evidence(path: Path, asked: Mapping[str, Any], rows: int) -> dict[str, Any]:
    try:
        evidence = read_json(path)
        reasons = differences(evidence["key"], asked)
        if not reasons and len(evidence["rows"]["status"]) != rows:
            reasons = [f"it has {len(evidence['rows']['status'])} rows for {rows}"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _Unfit(f"{str(path)!r} cannot be used: {error!r}") from None
    if reasons:
        raise _Unfit(f"{str(path)!r}: {'; '.join(reasons)}")
    return evidence


def _features(
    path: Path, asked: Mapping[str, Any], evidence: Mapping[str, Any], dim: int
) -> tuple[dict[str, Any], np.ndarray]:
    """The record and the features (float32 [T, D], memory-mapped) of one video."""
    record_path = path.with_name(f"{path.stem}.json")
    try:
        record = read_json(record_path)
        reasons = differences(
            record["key"], {**asked, "evidence_sha256": extract_stage.evidence_digest(evidence)}
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _Unfit(f"{str(record_path)!r} cannot be used: {error!r}") from None
    if reasons:
        raise _Unfit(f"{str(record_path)!r}: {'; '.join(reasons)}")
    try:
        features = np.load(path, mmap_mode="r")
        shape = (len(evidence["rows"]["status"]), dim)
        whole = features.dtype == np.float32 and features.shape == shape
        if not whole or _rows_sha256(features, np.arange(shape[0])) != record["features_sha256"]:
            raise _Unfit(
                f"{str(path)!r} is not what it was when it was made: it was edited, or the disk damaged it"
            )
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise _Unfit(f"{str(path)!r} cannot be used: {error!r}") from None
    return record, features


def _seen(
    evidence: Mapping[str, Any], record: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frame number, presentation time and status of each row, those that could not be embedded among the bad ones."""
    rows = evidence["rows"]
    native = np.asarray(rows["native_idx"], dtype=np.int64)
    pts = np.asarray([np.nan if time is None else time for time in rows["pts_sec"]], dtype=float)
    status = np.asarray(rows["status"], dtype=object)
    lost = np.asarray(record.get("bad_rows", []), dtype=np.int64)
    native[lost], pts[lost], status[lost] = -1, np.nan, "bad"
    return native, pts, status


def finding(entry: Mapping[str, Any]) -> str:
    """What is wrong with a video of the manifest, in a line: how many rows are bad, and the first reason."""
    reason = entry["problems"][0] if entry["problems"] else "no reason is on record"
    return f"{entry['video_id']!r}: {entry['counts']['bad']} of {entry['rows']} rows: {reason}"


def _write_rows(
    stream: Any, start: int, row_bytes: int, rows: np.ndarray, places: np.ndarray, features: np.ndarray
) -> None:
    """Write ``features[places]`` to matrix rows ``rows`` (ascending), one system call per run of neighbouring rows."""
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    per_chunk = max(1, _CHUNK_BYTES // row_bytes)
    for run_start, run_end in zip(np.r_[0, breaks], np.r_[breaks, len(rows)], strict=True):
        for first in range(run_start, run_end, per_chunk):
            last = min(first + per_chunk, run_end)
            block = np.ascontiguousarray(features[places[first:last]], dtype="<f4")
            view = memoryview(block.view(np.uint8).reshape(-1))  # type: ignore[arg-type]
            offset = start + int(rows[first]) * row_bytes
            while len(view):
                written = os.pwrite(stream.fileno(), view, offset)
                view, offset = view[written:], offset + written


def _video_entry(
    rows: np.ndarray,
    places: np.ndarray,
    evidence: Mapping[str, Any],
    record: Mapping[str, Any],
    features: np.ndarray,
    pts: np.ndarray,
    status: np.ndarray,
) -> dict[str, Any]:
    mine = status[rows]
    counts = {name: int((mine == name).sum()) for name in ("ok", "clamped", "bad")}
    times = np.asarray(evidence["rows"]["timestamp_sec"], dtype=float)[places]
    offsets = np.abs(pts[rows] - times)[mine == "ok"]  # a clamped row's frame only stands in
    sound = bool(record["verified"]) and not counts["bad"]
    doubts = verdict.doubts(evidence)
    reordered = not np.array_equal(places, np.arange(len(features)))
    contiguous = bool(len(rows) == rows[-1] - rows[0] + 1)
    return {
        "video_id": evidence["video_id"],
        "rows": len(rows),
        **(
            {"first_row": int(rows[0]), "last_row": int(rows[-1])}
            if contiguous
            else {"row_numbers": rows.tolist()}
        ),
        "fingerprint": evidence["key"]["fingerprint"],
        "fps": evidence["key"]["fps"],
        "alignment": evidence["key"]["alignment"],
        "container": evidence["video"],
        "decoder": evidence["decoder"],
        "decoder_reason": evidence["decoder_reason"],
        "max_abs_offset_sec": float(offsets.max()) if len(offsets) else None,
        "counts": counts,
        "features_sha256": _rows_sha256(features, places) if reordered else record["features_sha256"],
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


def _rows_sha256(features: np.ndarray, places: np.ndarray) -> str:
    """sha256 of the video's rows as they stand in the matrix, in the order of the matrix."""
    digest = hashlib.sha256()
    per_chunk = max(1, _CHUNK_BYTES // max(1, 4 * features.shape[1]))
    for first in range(0, len(places), per_chunk):
        digest.update(
            np.ascontiguousarray(features[places[first : first + per_chunk]], dtype="<f4").tobytes()
        )
    return digest.hexdigest()


def _write_frame_index(
    path: Path, index: pa.Table, native: np.ndarray, pts: np.ndarray, status: np.ndarray
) -> None:
    metadata = dict(index.schema.metadata or {})
    names = json.loads(metadata.pop(COLUMNS))
    table = index.select(names)
    times = table.column("timestamp_sec").cast(pa.float64()).to_numpy()
    table = table.append_column("native_idx", pa.array(native))
    table = table.append_column("pts_sec", pa.array(pts))
    table = table.append_column("offset_sec", pa.array(pts - times))
    table = table.append_column("status", pa.array(status.tolist(), pa.string()))
    metadata.pop(b"pandas", None)  # written for fewer columns; readers rebuild it
    with atomic_path(path) as temporary:
        pq.write_table(table.replace_schema_metadata(metadata or None), temporary)
