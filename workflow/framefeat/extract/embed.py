"""One video's frames to features: what of the extract stage needs torch, in the embedder or in the job itself."""

import hashlib
import json
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from framefeat import tolerances
from framefeat.backbone.device_errors import is_lost
from framefeat.errors import UserError
from framefeat.files import atomic_path, file_sha256, read_json, write_json
from framefeat.records import Embedded, EmbedRequest, Evidence, ModelRequest, PixelCheck
from framefeat.vectors import cosine

SCHEMA = 1
_VERSIONED = ("torch", "torchvision", "timm", "numpy")


class Models:
    """Loaded backbones by everything that decides them, so that a changed configuration never meets a stale one."""

    def __init__(self, load: Callable[[ModelRequest, Path], tuple[Any, str]]) -> None:
        """``load``: a network and the sha256 of its weights, from a message and the path in it."""
        self._load = load
        self._models: dict[str, tuple[Any, str]] = {}
        self._guard = threading.Lock()

    def get(self, message: ModelRequest) -> tuple[Any, str]:
        """The network and the sha256 of its weights file. The first to ask loads it; others wait."""
        path = Path(message["weights"])
        try:
            found = path.stat()
        except OSError as error:
            raise UserError(f"weights: {str(path)!r} cannot be read: {error.strerror}.") from error
        key = json.dumps(
            [
                message["spec"],
                message["precision"],
                str(path),
                found.st_size,
                found.st_mtime_ns,
                message["weights_identity"],
            ]
        )
        with self._guard:
            if key not in self._models:
                self._models[key] = self._load(message, path)
            return self._models[key]


def load_network(message: ModelRequest, path: Path, device: str) -> tuple[Any, str]:
    """The network that ``message`` describes, with the weights at ``path``, and their sha256.

    Raises ``UserError`` where they are not those that the run was begun with.
    """
    from framefeat.backbone.network import load_model
    from framefeat.backbone.spec import BackboneSpec
    from framefeat.backbone.weights import published_digest

    spec = BackboneSpec.from_json(json.loads(message["spec"]))
    sha256 = file_sha256(path)
    identity = message["weights_identity"]
    if spec.kind == "file":
        if len(identity) == 64 and sha256 != identity:
            raise UserError(f"weights: {str(path)!r} has changed since the run began; run again.")
    else:
        digest = published_digest(path.name)
        if digest and not sha256.startswith(digest):
            raise UserError(
                f"weights: the content of {str(path)!r} is not what its name says; delete it and run again."
            )
    return load_model(spec, str(path), device=device, precision=message["precision"]), sha256


def embed_video(
    message: EmbedRequest,
    network: Any,
    weights_sha256: str,
    turn: Callable[[], AbstractContextManager[None]] = nullcontext,
    beat: Callable[[], None] = lambda: None,
) -> Embedded:
    """``_embed``; what nobody foresaw is a finding about this video, and the answer's ``trace`` says where it happened.

    Trouble of the machine, the device or the weights is raised: it is no video's.
    """
    try:
        return _embed(message, network, weights_sha256, turn, beat)
    except Exception as error:
        if not _is_the_video_s(error, network):
            raise
        problem = f"its frames could not be embedded ({type(error).__name__}: {error})"
        trace = traceback.format_exc()
    return {**_embed(message, network, weights_sha256, turn, beat, problem), "trace": trace}


def _is_the_video_s(error: Exception, network: Any) -> bool:
    """torch tells of a device that is lost in the same words as of frames that it cannot take: other frames decide."""
    from framefeat.backbone.network import embed

    if isinstance(error, UserError | OSError | MemoryError) or is_lost(error):
        return False
    try:
        embed(network, np.zeros((1, *network.size, 3), np.uint8), 1)
    except Exception:
        return False
    return True


def _embed(
    message: EmbedRequest,
    network: Any,
    weights_sha256: str,
    turn: Callable[[], AbstractContextManager[None]],
    beat: Callable[[], None],
    problem: str = "",
) -> Embedded:
    """Write one video's features (float32 [T, D], NaN in bad rows) and their record; returns the record.

    ``message`` names the files (``frames`` uint8 [T, h, w, 3], ``recheck`` uint8 [K, h, w, 3], ``evidence``) and what
    else decides the result; ``network`` is a ``framefeat.backbone.network.Network``. The rows of ``recheck`` are
    embedded too and compared with the features as they were written. Rows whose features are not finite are
    ``bad_rows`` of the record; all are, where there is a ``problem``. The forward passes alone happen in ``turn``, so
    that others compute while this reads and writes; ``beat`` is called after each batch.
    """
    from framefeat.backbone.network import AUTO_BATCH

    evidence, frames, again, bad = _opened(message)
    kind = network.device.type
    batch = AUTO_BATCH[kind] if message["batch_size"] == "auto" else int(message["batch_size"])
    unwanted = np.ones_like(bad) if problem else bad
    with turn():
        features, second, used = _features(
            network, frames, again, unwanted, batch, int(message["threads"]), beat
        )
    rechecked = evidence["recheck"]["rows"] if len(again) else []
    lost = _lost(features, second, rechecked, bad)
    features[lost] = np.nan
    problem = problem or _not_finite(lost)
    bad |= lost
    with atomic_path(message["features"]) as temporary, open(temporary, "wb") as stream:
        np.save(stream, features, allow_pickle=False)
    written = np.load(message["features"])
    kept = [place for place, row in enumerate(rechecked) if not lost[row]]
    compared = _compare(message["precision"], evidence["recheck"], kept, second, written)
    record: Embedded = {
        "schema": SCHEMA,
        "video_id": evidence["video_id"],
        "key": message["key"],
        "weights_sha256": weights_sha256,
        "features_sha256": hashlib.sha256(written.tobytes()).hexdigest(),
        "file_sha256": file_sha256(message["features"]),
        "rows": len(frames),
        "dim": int(features.shape[1]),
        "device": kind,
        "batch_size": used,
        "batch_halved": used != batch,
        "network": {
            **network.about,
            "warnings": [*network.about["warnings"], *message.get("warnings", [])],
        },
        "recheck": {
            "rows": compared.rows,
            "cosine": [round(value, 7) for value in compared.cosines],
            "agrees": compared.agrees,
        },
        "verified": compared.agrees and bool(evidence["recheck"]["agrees"]) and not bad.any(),
        "warnings": _warnings(written, evidence, bad) + compared.warnings,
        "versions": dict(_versions()),
        "bad_rows": np.flatnonzero(lost).tolist(),
        "problems": [problem] if problem else [],
    }
    # From other pixels, if near ones, other features can come: a verdict. From the same pixels they cannot.
    if compared.impossible:
        raise UserError(
            f"{message['video']}: {compared.warnings[0]}; the frames or the model cannot be trusted. Run Snakemake with "
            "--forcerun sample_frames; if it stays so, this machine computes wrongly."
        )
    write_json(message["record"], record)
    return record


def _opened(message: EmbedRequest) -> tuple[Evidence, np.ndarray, np.ndarray, np.ndarray]:
    """Evidence, frames, frames decoded again, and which rows are bad (bool [T])."""
    evidence: Evidence = read_json(message["evidence"])
    frames = np.load(message["frames"], mmap_mode="r")
    again = np.load(message["recheck"])
    bad = np.asarray(evidence["rows"]["status"], dtype=object) == "bad"
    if len(bad) != len(frames):
        raise UserError(
            f"{message['video']}: {len(frames)} frames, but evidence for {len(bad)} rows; sample it again."
        )
    return evidence, frames, again, bad


def _lost(features: np.ndarray, second: np.ndarray, rechecked: Sequence[int], bad: np.ndarray) -> np.ndarray:
    """bool [T]: rows that have a frame and no finite features, the first time or the second."""
    lost = ~bad & ~_finite(features)
    lost[[row for row, well in zip(rechecked, _finite(second), strict=False) if not well]] = True
    return lost


def _not_finite(lost: np.ndarray) -> str:
    """Why ``lost`` rows are bad; empty where there are none."""
    if not lost.any():
        return ""
    return (
        f"the features of {lost.sum()} rows are not finite, the first of them row {np.argmax(lost)}; with precision: "
        "fp16 try bf16 or float32, else the weights do not fit the backbone"
    )


@dataclass(frozen=True)
class _Compared:
    """Rows embedded a second time, and the cosines of their features; ``impossible``: same pixels, other features."""

    rows: list[int]
    cosines: list[float]
    agrees: bool
    impossible: bool

    @property
    def warnings(self) -> list[str]:
        if self.agrees or not self.rows:
            return []
        return [
            f"frames decoded and embedded a second time give other features (cosine {min(self.cosines):.5f})"
        ]


def _compare(
    precision: str, recheck: PixelCheck, kept: Sequence[int], second: np.ndarray, written: np.ndarray
) -> _Compared:
    """``second`` [K, D]: features of the rows of ``recheck``, whose places ``kept`` count; ``written`` [T, D]."""
    rows = [recheck["rows"][place] for place in kept]
    cosines = [cosine(second[place], written[row]) for place, row in zip(kept, rows, strict=True)]
    same_pixels = [recheck["mean_abs_diff"][place] == 0 for place in kept]
    of_same = (
        tolerances.COSINE_OF_SAME_PIXELS if precision == "float32" else tolerances.COSINE_OF_SAME_PIXELS_HALF
    )
    alike = [
        value >= (of_same if same else tolerances.COSINE_OF_NEAR_PIXELS)
        for value, same in zip(cosines, same_pixels, strict=True)
    ]
    impossible = any(same and not well for same, well in zip(same_pixels, alike, strict=True))
    return _Compared(rows, cosines, bool(rows) and all(alike), impossible)


def _finite(features: np.ndarray) -> np.ndarray:
    return np.isfinite(features).all(axis=1)


@cache
def _versions() -> dict[str, str]:
    return {name: version(name) for name in _VERSIONED}


def _features(
    network: Any,
    frames: np.ndarray,
    again: np.ndarray,
    bad: np.ndarray,
    batch: int,
    workers: int,
    beat: Callable[[], None],
) -> tuple[np.ndarray, np.ndarray, int]:
    """Features of ``frames`` (float32 [T, D], NaN where ``bad``) and of ``again`` (float32 [K, D]), and the batch size
    used."""
    from framefeat.backbone.network import Stacked, embed

    if bad.all():
        nothing = np.full((len(frames), network.spec.dim), np.nan, np.float32)
        return nothing, nothing[:0], batch
    # Every batch is full, the last one with repetitions: where these leave room, the second look costs nothing.
    fits = len(again) <= -len(frames) % batch
    features, used = embed(network, Stacked(frames, again) if fits else frames, batch, workers, beat)
    features, second = features[: len(frames)], features[len(frames) :]
    if len(again) and not fits:
        second = embed(network, again, len(again), beat=beat)[0]
    features[bad] = np.nan
    return features, second, used


def _warnings(features: np.ndarray, evidence: Evidence, bad: np.ndarray) -> list[str]:
    """What looks odd and need not be wrong: still scenes and black openings exist."""
    native = np.asarray(evidence["rows"]["native_idx"])
    good = features[~bad]
    warnings = []
    if len(good) > 1 and len(np.unique(native[~bad])) > 1:
        if (good == good[0]).all():
            warnings.append("all rows have the same features")
        else:
            same = (np.diff(features, axis=0) == 0).all(axis=1) & (np.diff(native) != 0)
            if same.any():
                warnings.append(
                    f"{int(same.sum())} neighbouring rows of different frames have equal features"
                )
    if len(good) and np.abs(good).max() == 0:
        warnings.append("all features are zero")
    return warnings
