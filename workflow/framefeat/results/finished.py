"""The one reader of finished runs: which folders they are, one backbone's three files, and which rows are a video's."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from framefeat.errors import UserError, first_line
from framefeat.files import read_json
from framefeat.layout import FRAME_INDEX, MANIFEST, BackboneFolder, ResultsFolder
from framefeat.parquet import read_parquet
from framefeat.records import Manifest, ManifestHead, Span
from framefeat.results.shape import misfit
from framefeat.results.unfinished import no_matrix

if TYPE_CHECKING:
    import pyarrow as pa


def result_folders(path: Path, video_id: str | None = None) -> list[Path]:
    """The backbone folders of ``results/{dataset}``, or ``path`` itself where it is one; by name. Raises ``UserError``
    where there is none, which says why, of ``video_id`` where it is given."""
    if BackboneFolder(path).manifest.is_file():
        return [path]
    found = [folder.root for folder in ResultsFolder(path).assembled()]
    if not found and ResultsFolder(path).shards.is_dir():
        raise no_matrix(ResultsFolder(path), video_id)
    if not found:
        raise UserError(
            f"{path}: no {MANIFEST} here or one folder below. Give results/DATASET or results/DATASET/BACKBONE of a finished run."
        )
    return found


def rows_of(entry: Span) -> np.ndarray:
    """int64: the rows of a video of the manifest, ascending."""
    if "row_numbers" in entry:
        return np.asarray(entry["row_numbers"], dtype=np.int64)
    return np.arange(int(entry["first_row"]), int(entry["last_row"]) + 1)


def read_manifest(path: Path, *needed: str) -> Manifest:
    """Raises ``UserError`` where it is not whole, or a member that is ``needed`` is not there."""
    try:
        manifest: Manifest = read_json(path)
        missing = sorted({"total_frames", "feature_dim", *needed} - manifest.keys())
    except (ValueError, AttributeError, RecursionError) as error:
        raise not_whole(path, "manifest", error) from error
    if wrong := misfit(manifest):
        raise UserError(f"{str(path)!r} is not a manifest as it was written: {wrong}; {ASSEMBLE_AGAIN}")
    if missing:
        raise UserError(f"{path}: {', '.join(missing)} is missing; this is not a manifest of a run.")
    return manifest


def read_manifest_head(path: Path) -> ManifestHead | None:
    """All but the videos, without reading these; None where there is no whole manifest."""
    try:
        with open(path, encoding="utf-8") as stream:
            lines = "".join(itertools.takewhile(lambda line: not line.startswith(' "videos"'), stream))
        head: ManifestHead = json.loads(lines.rstrip().removesuffix(",") + "}")
        return head
    except (OSError, ValueError):
        return None


ASSEMBLE_AGAIN = "run Snakemake with --forcerun assemble."


def not_whole(path: Path, kind: str, error: Exception) -> UserError:
    return UserError(f"{str(path)!r} is not a whole {kind} ({first_line(error)}); {ASSEMBLE_AGAIN}")


@dataclass(frozen=True)
class FinishedRun:
    """One backbone's results: where its files lie, and its manifest. Matrix and index are opened when they are asked
    for."""

    matrix_path: Path
    index_path: Path
    manifest_path: Path
    manifest: Manifest

    @classmethod
    def of(
        cls,
        folder: Path,
        matrix: Path | None = None,
        index: Path | None = None,
        manifest: Path | None = None,
        *,
        needed: Sequence[str] = (),
    ) -> "FinishedRun":
        """The files in ``folder``, or those that are named. ``needed``: members of the manifest.

        Raises ``UserError`` where one is missing, or the manifest is not whole.
        """
        files = BackboneFolder(folder)
        index, manifest = index or files.frame_index, manifest or files.manifest
        for file in (manifest, index):
            if not file.is_file():
                raise UserError(
                    f"{folder}: there is no {file.name}; give the folder results/DATASET/BACKBONE of a finished run "
                    "(or finish the run)."
                )
        content = read_manifest(manifest, *needed)
        return cls(matrix or _matrix_in(files, content), index, manifest, content)

    @property
    def shape(self) -> tuple[int, int]:
        """Of the matrix, as the manifest says it."""
        return int(self.manifest["total_frames"]), int(self.manifest["feature_dim"])

    def map_matrix(self) -> np.ndarray:
        """The matrix, float32 [N, D], memory-mapped and read-only."""
        try:
            matrix = np.load(self.matrix_path, mmap_mode="r")
        except MemoryError:
            raise
        except (
            Exception
        ) as error:  # numpy reads a header as Python, and a file that begins like one as a ZIP archive
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise not_whole(self.matrix_path, ".npy file", error) from error
        if not isinstance(matrix, np.ndarray) or matrix.ndim != 2:
            raise UserError(
                f"{self.matrix_path}: a .npy file of [rows, features] was expected, found another array."
            )
        return matrix

    def read_index(self, columns: list[str] | None = None) -> "pa.Table":
        return read_parquet(self.index_path, columns, advice=ASSEMBLE_AGAIN)

    def check(self, matrix: np.ndarray, index_rows: int) -> None:
        """Raise ``UserError`` where the files are not of one run."""
        if matrix.dtype != np.float32 or matrix.shape != self.shape or index_rows != self.shape[0]:
            raise UserError(
                f"{self.matrix_path.parent}: the matrix has {len(matrix)} rows ({matrix.dtype} {matrix.shape}), {FRAME_INDEX} has "
                f"{index_rows}, and {MANIFEST} says float32 {self.shape}: the files are of different runs; run Snakemake with "
                "--forcerun assemble."
            )


def _matrix_in(files: BackboneFolder, manifest: Manifest) -> Path:
    path = files.matrix(manifest.get("dataset", ""))
    if path.is_file():
        return path
    found = files.matrices()
    if len(found) != 1:
        raise UserError(f"{files.root}: {path.name} is missing; run the workflow again to assemble it.")
    return found[0]
