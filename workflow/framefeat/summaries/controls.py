"""Control twins of a feature matrix: same layout, no (or no aligned) information in the features.

A summariser that scores as well on a control as on the features has learned nothing from the features.

- ``zero``: every value 0.
- ``row_shuffled``: the rows of each video permuted among themselves: the content stays, its order in time is gone.
- ``cross_video_shuffled``: all rows permuted over the whole data set: content and order are gone, the distribution
  stays.

Bad rows (NaN) stay where they are, so that ``status`` in the frame index stays true.
"""

import copy
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from framefeat.errors import UserError
from framefeat.files import atomic_path, read_json, write_json
from framefeat.layout import FRAME_INDEX, MANIFEST
from framefeat.results import verdict
from framefeat.results.dataset import Features, load

KINDS = ("zero", "row_shuffled", "cross_video_shuffled")
_CHUNK_BYTES = 8 << 20


def make_controls(
    features_dir: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    seed: int = 0,
    kinds: Sequence[str] = KINDS,
) -> dict[str, Path]:
    """Write ``out_dir/{kind}/`` for each kind: matrix, frame index (copied) and manifest (with a ``control`` entry).

    Deterministic in ``seed``, kind and the order of the rows, whatever the version of numpy. A few MB of the matrix and
    two integers per row are in memory at a time. Returns the folders by kind.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise UserError(
            f"controls: unknown kind {', '.join(map(repr, unknown)) or '(none given)'}; choose among {', '.join(KINDS)}."
        )
    if seed < 0:
        raise UserError(f"controls: the seed is {seed}; give a whole number from 0 on.")
    features = load(features_dir)
    if "control" in features.manifest:
        raise UserError(
            f"{features.folder} is itself a control ({features.manifest['control']['kind']}); give the original."
        )
    if Path(out_dir).resolve() in (features.folder.resolve(), features.folder.resolve().parent):
        raise UserError(
            f"controls: {str(out_dir)!r} holds the results themselves, and controls would pass for more of them; write them to "
            "another folder."
        )
    folders = {}
    for kind in kinds:
        folder = Path(out_dir) / kind
        _refuse_others_results(folder)
        _write_twin(features, folder, kind, seed)
        folders[kind] = folder
    return folders


def _refuse_others_results(folder: Path) -> None:
    try:
        mine = "control" in read_json(folder / MANIFEST)
    except FileNotFoundError:
        mine = not folder.is_dir() or not any(folder.iterdir())
    except (OSError, ValueError, TypeError):
        mine = False
    if not mine:
        raise UserError(
            f"controls: {folder} holds other files than a control; write the controls to another folder."
        )


def run(
    features_dir: str | os.PathLike[str],
    out: str | os.PathLike[str],
    seed: int = 0,
    kinds: Sequence[str] = KINDS,
) -> dict[str, Path]:
    """The subcommand ``controls``: write the twins and say where they are."""
    folders = make_controls(features_dir, out, seed, kinds)
    for kind, folder in folders.items():
        print(f"{kind}: {folder}", file=sys.stderr)
    return folders


def source_rows(features: Features, kind: str, seed: int) -> np.ndarray | None:
    """int64 ``[N]``: which row of the source stands in each row of the twin; None for ``zero``."""
    if kind == "zero":
        return None
    good = (features.index["status"] != "bad").to_numpy()
    source = np.arange(len(features), dtype=np.int64)
    bits = np.random.PCG64(np.random.SeedSequence([seed, KINDS.index(kind)]))
    groups = (
        [np.arange(len(features))]
        if kind == "cross_video_shuffled"
        else map(features.rows_of, features.video_ids)
    )
    for rows in groups:
        rows = rows[good[rows]]
        # sorting raw random numbers is a permutation that no version of numpy changes
        source[rows] = rows[np.argsort(bits.random_raw(len(rows)), kind="stable")]
    return source


def _write_twin(features: Features, folder: Path, kind: str, seed: int) -> None:
    source = source_rows(features, kind, seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(
        missing_ok=True
    )  # a manifest never describes another matrix, not even for a moment
    shape = features.matrix.shape
    digest = hashlib.sha256()
    with atomic_path(folder / features.matrix_path.name) as temporary, temporary.open("wb") as stream:
        npy.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
        stream.flush()
        digest.update(temporary.read_bytes())
        for block in _blocks(features, source, np.arange(shape[0])):
            stream.write(block)
            digest.update(block)
    with atomic_path(folder / FRAME_INDEX) as temporary:
        shutil.copyfile(features.index_path, temporary)

    manifest: dict[str, Any] = dict(copy.deepcopy(features.manifest))
    manifest["alignment_verified"] = False
    manifest["verdict"] = verdict.NOT_VERIFIED
    manifest["control"] = {
        "kind": kind,
        "seed": seed,
        "source_matrix_sha256": features.manifest["matrix_sha256"],
    }
    manifest["matrix_sha256"] = digest.hexdigest()
    manifest["notes"] = [
        *manifest.get("notes", []),
        f"This is a control ({kind}): its rows are not the features of their frames.",
    ]
    for video in manifest["videos"]:
        video["verified"] = False
        video["verdict"] = verdict.NOT_VERIFIED
        video["features_sha256"] = _digest_of_rows(features, source, features.rows_of(video["video_id"]))
        video.pop("recheck", None)  # it is evidence about the source
    write_json(folder / MANIFEST, manifest, indent=1)


def _blocks(features: Features, source: np.ndarray | None, rows: np.ndarray) -> Iterator[bytes]:
    """The bytes of the twin's ``rows``, in blocks of a few MB."""
    per_block = max(1, _CHUNK_BYTES // max(1, 4 * features.dim))
    bad = (features.index["status"] == "bad").to_numpy()
    for first in range(0, len(rows), per_block):
        mine = rows[first : first + per_block]
        if source is None:
            block = np.zeros((len(mine), features.dim), dtype="<f4")
            block[bad[mine]] = np.nan
        else:
            block = np.ascontiguousarray(features.matrix[source[mine]], dtype="<f4")
        yield block.tobytes()


def _digest_of_rows(features: Features, source: np.ndarray | None, rows: np.ndarray) -> str:
    digest = hashlib.sha256()
    for block in _blocks(features, source, rows):
        digest.update(block)
    return digest.hexdigest()
