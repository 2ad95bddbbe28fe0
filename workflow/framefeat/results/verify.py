"""``framefeat verify``: finished results against their own manifest, their source index and the videos themselves."""

import hashlib
import json
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from framefeat import tolerances
from framefeat.errors import UserError
from framefeat.files import file_sha256, read_json
from framefeat.layout import FRAME_INDEX, MANIFEST, BackboneFolder, ResultsFolder
from framefeat.names import video_key
from framefeat.vectors import cosine

#: A decoder that has not given a video's few frames again by then hangs.
DECODING_SECONDS = 600


@dataclass
class Video:
    """One line of the table: what was found wrong (``failures``) and what merely looks odd (``warnings``)."""

    video_id: str
    rows: int
    counts: Mapping[str, int]
    decoder: str
    redecoded: int = 0
    pixel_difference: float = 0.0
    cosine: float = 1.0
    failures: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass
class Verdict:
    """What ``verify_folder`` found of one backbone's results."""

    folder: Path
    failures: list[str]
    warnings: list[str]
    videos: list[Video]

    @property
    def ok(self) -> bool:
        return not self.failures and not any(video.failures for video in self.videos)


def result_folders(path: Path) -> list[Path]:
    """The backbone folders of results/{dataset}, or the one that was named."""
    if BackboneFolder(path).manifest.is_file():
        return [path]
    found = [folder.root for folder in ResultsFolder(path).assembled()]
    if not found:
        raise UserError(
            f"{str(path)!r} holds no {MANIFEST}; name results/{{dataset}} or a backbone's folder in it."
        )
    return found


def verify_folder(
    folder: Path, *, rows_per_video: int, weights: Sequence[Path], redecode: bool = True
) -> Verdict:
    """Check one backbone's results; ``rows_per_video`` rows of each video are decoded and embedded again (0: all)."""
    files = BackboneFolder(folder)
    manifest = read_json(files.manifest)
    failures: list[str] = []
    warnings: list[str] = []
    matrix_path = files.matrix(manifest["dataset"])
    matrix = np.load(matrix_path, mmap_mode="r")
    shape = (manifest["total_frames"], manifest["feature_dim"])
    if matrix.dtype != np.dtype("<f4") or matrix.shape != shape or not matrix.flags.c_contiguous:
        failures.append(
            f"{matrix_path.name} is {matrix.dtype} {matrix.shape}; the manifest says float32 {shape} in C order"
        )
        return Verdict(folder, failures, warnings, [])
    if file_sha256(matrix_path) != manifest["matrix_sha256"]:
        failures.append(f"{matrix_path.name}: its sha256 is not the manifest's matrix_sha256")
    if file_sha256(files.frame_index) != manifest["frame_index_sha256"]:
        failures.append(f"{FRAME_INDEX}: its sha256 is not the manifest's frame_index_sha256")
    index = pq.read_table(files.frame_index)
    if index.num_rows != len(matrix):
        failures.append(f"{FRAME_INDEX} has {index.num_rows} rows, the matrix {len(matrix)}")
        return Verdict(folder, failures, warnings, [])
    failures += _compare_with_source(folder, index)
    status = np.asarray(index.column("status").to_pylist(), dtype=object)
    if manifest["counts"] != {name: int((status == name).sum()) for name in ("ok", "clamped", "bad")}:
        failures.append(f"the manifest's counts are not those of {FRAME_INDEX}")

    model = _Model(manifest, weights) if redecode else None
    videos = []
    covered = np.zeros(len(matrix), dtype=bool)
    try:
        for entry in manifest["videos"]:
            rows = rows_of(entry)
            covered[rows] = True
            videos.append(
                _verify_video(folder, manifest, entry, rows, index, status, matrix, model, rows_per_video)
            )
    finally:
        if model is not None:
            model.end()
    if not covered.all():
        failures.append(f"{int((~covered).sum())} rows belong to no video of the manifest")
    if doubtful := (manifest.get("doubtful") or {}).get("videos"):
        warnings.append(
            f"{doubtful} video(s) doubtful: the rule does not fit the file ('doubts' in the manifest says why)"
        )
    spread = _spread(matrix, status)
    if spread is not None and (spread == 0).any():
        warnings.append(
            f"{int((spread == 0).sum())} of {len(spread)} feature dimensions are constant over the sampled rows"
        )
    return Verdict(folder, failures, warnings, videos)


def rows_of(entry: Mapping[str, Any]) -> np.ndarray:
    """Matrix rows (int64, ascending) of one video of the manifest."""
    if "row_numbers" in entry:
        return np.asarray(entry["row_numbers"], dtype=np.int64)
    return np.arange(entry["first_row"], entry["last_row"] + 1)


def _compare_with_source(folder: Path, index: pa.Table) -> list[str]:
    source_path = BackboneFolder(folder).results.index
    if not source_path.is_file():
        return [
            f"{source_path}: the merged index is not there, so the order of the rows cannot be compared with it"
        ]
    source = pq.read_table(source_path)
    for name in ("video_id", "timestamp_sec"):
        if source.num_rows != index.num_rows or not source.column(name).combine_chunks().equals(
            index.column(name).combine_chunks()
        ):
            return [f"{FRAME_INDEX}: the column {name} is not that of {source_path}, row by row"]
    return []


def _verify_video(
    folder: Path,
    manifest: Mapping[str, Any],
    entry: Mapping[str, Any],
    rows: np.ndarray,
    index: pa.Table,
    status: np.ndarray,
    matrix: np.ndarray,
    model: "_Model | None",
    rows_per_video: int,
) -> Video:
    video = Video(entry["video_id"], len(rows), entry["counts"], entry["decoder"] or "-")
    features = np.ascontiguousarray(matrix[rows])
    mine = status[rows]
    good = mine != "bad"
    if hashlib.sha256(features.tobytes()).hexdigest() != entry["features_sha256"]:
        video.failures.append(
            "its rows of the matrix are not the features that were computed (features_sha256)"
        )
    if not np.isfinite(features[good]).all():
        video.failures.append("rows that are not marked 'bad' hold values that are not finite")
    if not np.isnan(features[~good]).all():
        video.failures.append("rows marked 'bad' are not NaN")
    ids = index.column("video_id").take(pa.array(rows)).to_pylist()
    if set(ids) != {entry["video_id"]}:
        video.failures.append("the manifest gives it rows of other videos")
    times = index.column("timestamp_sec").take(pa.array(rows)).cast(pa.float64()).to_numpy()
    native = index.column("native_idx").take(pa.array(rows)).to_numpy()
    pts = index.column("pts_sec").take(pa.array(rows)).to_numpy()
    if len(rows) > 1 and good.sum() > 1:
        same = (np.diff(features, axis=0) == 0).all(axis=1) & (np.diff(native) != 0) & good[1:] & good[:-1]
        if same.any():
            video.warnings.append(
                f"{int(same.sum())} neighbouring rows of different frames have equal features"
            )
        if np.ptp(features[good], axis=0).max() == 0 and len(np.unique(native[good])) > 1:
            video.warnings.append("all its rows have the same features")
    if model is not None and good.any():
        try:
            _redecode(
                folder,
                manifest,
                entry,
                rows,
                times,
                native,
                pts,
                mine,
                features,
                model,
                rows_per_video,
                video,
            )
        except UserError as error:
            video.failures.append(str(error))
    return video


def _redecode(
    folder: Path,
    manifest: Mapping[str, Any],
    entry: Mapping[str, Any],
    rows: np.ndarray,
    times: np.ndarray,
    native: np.ndarray,
    pts: np.ndarray,
    status: np.ndarray,
    features: np.ndarray,
    model: "_Model",
    rows_per_video: int,
    video: Video,
) -> None:
    from framefeat.video.alignment import align

    record = read_json(BackboneFolder(folder).results.video(video_key(entry["video_id"])))
    path = record["path"]
    if not Path(path).is_file():
        raise UserError(f"its file {path!r} is gone, so no frame can be decoded again")
    if file_sha256(path) != entry["fingerprint"]:
        raise UserError(f"its file {path!r} is no longer the one that the features were computed from")
    index_source = entry["container"]["index_source"]
    container = container_of(path, index_source)
    aligned = align(container, times, entry["fps"], record.get("alignment", manifest["alignment"]))
    good = status != "bad"
    if not np.array_equal(aligned.native[good], native[good]):
        wrong = rows[good][np.flatnonzero(aligned.native[good] != native[good])[0]]
        video.failures.append(f"native_idx of row {wrong} is not the frame that its time means")
        return
    expected = container.times()[native[good]]
    if not np.allclose(expected, pts[good], rtol=0, atol=1e-6):
        wrong = rows[good][int(np.abs(expected - pts[good]).argmax())]
        video.failures.append(f"pts_sec of row {wrong} is not the presentation time of its frame")
        return
    chosen = choose_rows(np.flatnonzero(good), rows_per_video, entry["fingerprint"])
    video.redecoded = len(chosen)
    wanted = sorted({int(native[place]) for place in chosen})
    differences, other, unproved = model.decode_again(path, wanted, entry["decoder"], index_source)
    video.pixel_difference = max(differences.values(), default=0.0)
    video.failures += [
        f"frame {number} {why}, decoded again in order" for number, why in sorted(unproved.items())
    ]
    if not set(wanted) <= set(other):
        return
    again = model.embed(np.stack([other[int(native[place])] for place in chosen]))
    for place, vector in zip(chosen, again, strict=True):
        found = cosine(vector, features[place])
        video.cosine = min(video.cosine, found)
        same = differences.get(int(native[place]), 0.0) == 0
        if found < (tolerances.COSINE_OF_SAME_PIXELS_LATER if same else tolerances.COSINE_OF_NEAR_PIXELS):
            video.failures.append(
                f"row {rows[place]}: the frame embedded again has cosine {found:.4f} with the stored row"
            )


def choose_rows(candidates: np.ndarray, count: int, seed: str) -> np.ndarray:
    """``count`` of ``candidates`` (0: all), the last among them, drawn by a seed that depends on the content alone."""
    if count == 0 or count >= len(candidates):
        return candidates
    random = np.random.default_rng(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "little"))
    drawn = random.choice(candidates[:-1], size=count - 1, replace=False)
    return np.sort(np.append(drawn, candidates[-1]))


def _decode_again(
    path: str, wanted: Sequence[int], decoder: str, geometry: str, index_source: str
) -> tuple[dict[int, float], dict[int, np.ndarray], dict[int, str]]:
    """Frames through the reader that served them and through the reference, a decode of everything in order: mean pixel
    differences, the reference's frames, resized, and why each frame that is not proved is not."""
    from framefeat.video.choice import own_reader
    from framefeat.video.geometry import Geometry
    from framefeat.video.pyav import in_order_reader
    from framefeat.video.reader import Contradiction, ReaderMistake
    from framefeat.video.second_look import look_again

    container = container_of(path, index_source)
    shape = Geometry.from_name(geometry)
    own: dict[int, np.ndarray] = {}
    size: tuple[int, ...] = ()
    try:
        reader = own_reader(container, decoder)
        for frame in reader.frames(wanted):
            own[frame.native], size = shape.apply(frame.rgb), frame.rgb.shape[:2]
        for number, reason in reader.problems.items():
            if decoder != "decord":
                own.update(_strictly(container, [number], shape))
            if number not in own:
                raise UserError(f"{path!r}: frame {number} cannot be decoded again ({reason}).")
        look = look_again(
            lambda: in_order_reader(container),
            wanted,
            own=own.__getitem__,
            frame_size=size,
            geometry=shape,
            kept=wanted,
            count=container.n_presented,
        )
    except (Contradiction, ReaderMistake, KeyError) as mistake:
        raise UserError(f"{path!r}: its frames cannot be decoded again as they were ({mistake}).") from None
    return look.differences, look.pixels, look.unproved


def _strictly(container: Any, wanted: Sequence[int], shape: Any) -> dict[int, np.ndarray]:
    from framefeat.video.choice import take
    from framefeat.video.pyav import in_order_reader

    return {number: shape.apply(rgb) for number, rgb in take(in_order_reader(container), wanted)[0].items()}


def container_of(path: str, index_source: str) -> Any:
    """The container as sampling saw it: counted in a decode of everything, where its packets had turned out not to tell."""
    from framefeat.video.container import read_container

    return read_container(
        path, contradiction=None if index_source == "packets" else "found when it was sampled"
    )


def _serve(requests: Any) -> None:
    """The decoding process: one answer, or the sentence why there is none, for each request."""
    while True:
        try:
            request = requests.recv()
        except EOFError:
            os._exit(0)  # a decoder's own threads cannot hold up the end
        try:
            requests.send((_decode_again(*request), None))
        except UserError as error:
            requests.send((None, str(error)))
        except Exception as error:
            traceback.print_exc()
            requests.send((None, f"{request[0]!r} cannot be decoded again ({error!r})"))


class _Decoding:
    """The decoders, in a process of their own: they do not share one with torch in peace, and may crash or hang."""

    def __init__(self) -> None:
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def __call__(self, *request: Any) -> tuple[dict[int, float], dict[int, np.ndarray], dict[int, str]]:
        """``_decode_again``'s answer. Raises ``UserError`` where the process fails, which then is of no further use."""
        try:
            self._pipe.send(request)
            if not self._pipe.poll(DECODING_SECONDS):
                raise UserError(f"decoding {request[0]!r} again gave nothing for {DECODING_SECONDS} s")
            answer, problem = self._pipe.recv()
        except (EOFError, ConnectionError) as error:
            raise UserError(f"decoding {request[0]!r} again killed the decoder") from error
        if problem is not None:
            raise UserError(problem)
        return answer

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()


class _Model:
    """The backbone that made the matrix, found by the sha256 of its weights and loaded when first needed."""

    def __init__(self, manifest: Mapping[str, Any], weights: Sequence[Path]) -> None:
        self.manifest = manifest
        self.weights = weights
        self._loaded: Any = None
        self._decoding: _Decoding | None = None

    def decode_again(
        self, path: str, wanted: Sequence[int], decoder: str, index_source: str
    ) -> tuple[dict[int, float], dict[int, np.ndarray], dict[int, str]]:
        if self._decoding is None:
            self._decoding = _Decoding()
        try:
            return self._decoding(
                path, list(wanted), decoder, self.manifest["spec"]["geometry"], index_source
            )
        except UserError:
            self.end()
            raise

    def end(self) -> None:
        if self._decoding is not None:
            self._decoding.end()
            self._decoding = None

    def embed(self, frames: np.ndarray) -> np.ndarray:
        """Features float32 [K, D] of resized frames uint8 [K, h, w, 3]."""
        from framefeat.backbone.network import embed, load_model
        from framefeat.backbone.spec import BackboneSpec

        if self._loaded is None:
            spec = BackboneSpec.from_json(self.manifest["spec"])
            self._loaded = load_model(
                spec, str(self._find_weights()), device="cpu", precision=self.manifest["precision"]
            )
        return embed(self._loaded, frames, 16)[0]

    def _find_weights(self) -> Path:
        wanted = self.manifest["weights_sha256"]
        for path in _weight_files(self.weights):
            if path.is_file() and file_sha256(path) == wanted:
                return path
        raise UserError(
            f"the weights with sha256 {wanted[:16]}... are not in resources/weights nor in torch's cache; "
            "name their file with --weights"
        )


def _weight_files(named: Sequence[Path]) -> Iterator[Path]:
    yield from named
    yield from sorted(Path("resources/weights").glob("*"))
    yield from sorted((Path.home() / ".cache" / "torch" / "hub" / "checkpoints").glob("*"))


def _spread(matrix: np.ndarray, status: np.ndarray, most: int = 2000) -> np.ndarray | None:
    """Range of each dimension over at most ``most`` evenly spaced good rows; None where there are not two."""
    rows = np.flatnonzero(status != "bad")
    rows = rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)] if len(rows) else rows
    return np.ptp(matrix[rows], axis=0) if len(rows) > 1 else None


def run(path: Path, *, rows_per_video: int, weights: Sequence[Path], as_json: bool = False) -> int:
    """Verify everything below ``path``, print a table; returns the exit status (0: all of it holds)."""
    verdicts = [
        verify_folder(folder, rows_per_video=rows_per_video, weights=weights)
        for folder in result_folders(path)
    ]
    if as_json:
        print(json.dumps([_as_json(verdict) for verdict in verdicts], indent=1))
    for verdict in verdicts if not as_json else ():
        print_table(verdict)
    return 0 if all(verdict.ok for verdict in verdicts) else 1


def _as_json(verdict: Verdict) -> dict[str, Any]:
    return {
        "folder": str(verdict.folder),
        "ok": verdict.ok,
        "failures": verdict.failures,
        "warnings": verdict.warnings,
        "videos": [vars(video) for video in verdict.videos],
    }


def print_table(verdict: Verdict) -> None:
    print(f"{verdict.folder}")
    width = min(40, max([len(video.video_id) for video in verdict.videos] or [5]))
    print(f"  {'video':{width}}  rows    ok  clamped  bad  decoder  re-decoded  pixels  cosine    verdict")
    for video in verdict.videos:
        counts = video.counts
        print(
            f"  {video.video_id[:width]:{width}}  {video.rows:4}  {counts['ok']:4}  {counts['clamped']:7}  {counts['bad']:3}  "
            f"{video.decoder[:7]:7}  {video.redecoded:10}  {video.pixel_difference:6.2f}  {video.cosine:.6f}  "
            f"{'FAILED' if video.failures else 'ok'}"
        )
        for text in video.failures:
            print(f"      failed: {text}")
        for text in video.warnings:
            print(f"      warning: {text}")
    for text in verdict.failures:
        print(f"  failed: {text}")
    for text in verdict.warnings:
        print(f"  warning: {text}")
    print(f"  {'everything holds' if verdict.ok else 'not verified'}", file=sys.stdout)
