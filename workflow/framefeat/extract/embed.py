"""Frames to features: what of the extract stage needs torch, in the embedder or in the job itself."""

import hashlib
import json
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from framefeat import stored, tolerances
from framefeat.backbone.device_errors import is_lost
from framefeat.errors import UserError, machine_trouble
from framefeat.files import file_sha256
from framefeat.records import (
    Embedded,
    EmbedRequest,
    Evidence,
    FeatureRecord,
    ModelRequest,
    PixelCheck,
    Rows,
    VideoToEmbed,
)
from framefeat.vectors import cosine
from framefeat.words import many

SCHEMA = 2
#: Rows that small videos are gathered to before they are embedded: the last batch alone has repetitions.
_PACK_ROWS = 256
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


@dataclass(frozen=True, eq=False)
class _Opened:
    """A video to embed: its frames (uint8 [T, h, w, 3]), those decoded again (uint8 [K, h, w, 3]), its evidence, and
    which rows are bad (bool [T])."""

    asked: VideoToEmbed
    evidence: Evidence
    frames: np.ndarray
    again: np.ndarray
    bad: np.ndarray


@dataclass(frozen=True)
class _Computed:
    """Features of a video's frames (float32 [T, D], NaN in bad rows) and of those decoded again (float32 [K, D]), and
    the batch size that was used."""

    features: np.ndarray
    second: np.ndarray
    batch: int


def embed_videos(
    message: EmbedRequest,
    network: Any,
    weights_sha256: str,
    tell: Callable[[Embedded], None],
    turn: Callable[[], AbstractContextManager[None]] = nullcontext,
    beat: Callable[[], None] = lambda: None,
) -> None:
    """Embed the videos of ``message`` with ``network`` (a ``framefeat.backbone.network.Network``) and write a file of
    features for each: ``features`` (float32 [T, D], NaN in bad rows) and their record (see ``stored``).

    Small videos share batches where the network gives a row the same bytes whatever its neighbours are. ``tell`` is
    called for each video, in order, once its file is written, and from a thread that writes while the next videos are
    computed. What nobody foresaw about a video is a finding about it,
    and the answer's ``trace`` says where it happened; what keeps one video alone from being embedded is its
    ``failure``. Trouble of the machine, the device or the weights is raised: it is no video's.

    The forward passes alone happen in ``turn``, so that others compute while this reads and writes; ``beat`` is called
    after each batch.
    """
    work = _Work(message, network, weights_sha256, tell, turn, beat)
    together = work.fill_together()
    written: Future[None] | None = None
    with ThreadPoolExecutor(1, "store") as writer:
        try:
            for pack in _packs(message["videos"], together):
                found = [work.open(video) for video in pack]
                computed = work.compute([one for one in found if isinstance(one, _Opened)])
                if written is not None:
                    written.result()
                written = writer.submit(work.finish, found, computed)
        finally:
            if written is not None:
                written.result()


def _packs(videos: Sequence[VideoToEmbed], together: bool) -> Iterator[list[VideoToEmbed]]:
    """Videos whose batches are filled together: neighbours, until they have enough rows."""
    pack: list[VideoToEmbed] = []
    for video in videos:
        pack.append(video)
        if not together or sum(one["rows"] for one in pack) >= _PACK_ROWS:
            yield pack
            pack = []
    if pack:
        yield pack


class _Work:
    """What holds for all videos of a request."""

    def __init__(
        self,
        message: EmbedRequest,
        network: Any,
        weights_sha256: str,
        tell: Callable[[Embedded], None],
        turn: Callable[[], AbstractContextManager[None]],
        beat: Callable[[], None],
    ) -> None:
        from framefeat.backbone.network import AUTO_BATCH

        self._message, self._network, self._weights_sha256 = message, network, weights_sha256
        self._tell, self._turn, self._beat = tell, turn, beat
        given = message["batch_size"]
        self._batch = AUTO_BATCH[network.device.type] if given == "auto" else int(given)

    def fill_together(self) -> bool:
        """Whether the videos may share batches."""
        from framefeat.backbone.network import rows_stand_alone

        if not self._message["together"] or len(self._message["videos"]) < 2:
            return False
        with self._turn():
            return rows_stand_alone(self._network, self._batch)

    def open(self, video: VideoToEmbed) -> _Opened | Embedded:
        """The video, or the answer that it cannot be opened."""
        try:
            return _opened(video)
        except Exception as error:
            return _failure(video, error)

    def compute(self, opened: Sequence[_Opened]) -> list[_Computed | tuple[str, str]]:
        """For each video its features, or a problem and its trace."""
        if not opened:
            return []
        try:
            return list(self._features(opened))
        except Exception as error:
            if not self._is_a_video_s(error):
                trouble = machine_trouble(error)
                if trouble is None or trouble is error:
                    raise
                raise trouble from error
            if len(opened) > 1:  # each alone: the others are not to blame
                return [outcome for one in opened for outcome in self.compute([one])]
            return [
                (
                    f"its frames could not be embedded ({type(error).__name__}: {error})",
                    traceback.format_exc(),
                )
            ]

    def _features(self, opened: Sequence[_Opened]) -> Iterator[_Computed]:
        some = [one for one in opened if not one.bad.all()]
        computed = iter(self._forward(some) if some else [])
        for one in opened:
            if one.bad.all():
                nothing = np.full((len(one.frames), self._network.spec.dim), np.nan, np.float32)
                yield _Computed(nothing, nothing[:0], self._batch)
            else:
                yield next(computed)

    def _forward(self, some: Sequence[_Opened]) -> list[_Computed]:
        """The features of videos that have a frame each; they share batches."""
        from framefeat.backbone.network import Stacked, embed

        network, beat, workers = self._network, self._beat, int(self._message["threads"])
        # Every batch is full, the last one with repetitions: where a video's own leave room, the second look is free.
        # Whether they do is the video's own affair: its neighbours must not decide a byte.
        fits = [len(one.again) <= -len(one.frames) % self._batch for one in some]
        # A CUDA device has other kernels for other batch sizes, which round differently: in half precision too much so.
        cuda = network.device.type == "cuda"
        parts = [one.frames for one in some] + [one.again for one, fit in zip(some, fits, strict=True) if fit]
        with self._turn():
            together, used = embed(network, Stacked(parts), self._batch, workers, beat)
            apart = [
                None
                if fit
                else embed(network, one.again, self._batch if cuda else len(one.again), beat=beat)[0]
                for one, fit in zip(some, fits, strict=True)
            ]
        cut = np.split(together, np.cumsum([len(part) for part in parts])[:-1])
        beside = iter(cut[len(some) :])
        computed = []
        for one, features, second in zip(some, cut, apart, strict=False):
            features = features.copy()
            features[one.bad] = np.nan
            computed.append(_Computed(features, next(beside) if second is None else second, used))
        return computed

    def _is_a_video_s(self, error: Exception) -> bool:
        """torch tells of a device that is lost in the same words as of frames that it cannot take: as many other
        frames, embedded the same way, decide."""
        from framefeat.backbone.network import embed

        if isinstance(error, UserError | OSError) or machine_trouble(error) or is_lost(error):
            return False
        workers = int(self._message["threads"])
        others = np.zeros((workers * self._batch, *self._network.size, 3), np.uint8)
        try:
            with self._turn():
                embed(self._network, others, self._batch, workers)
        except Exception:
            return False
        return True

    def finish(
        self, found: Sequence[_Opened | Embedded], outcomes: Sequence[_Computed | tuple[str, str]]
    ) -> None:
        """Write the file of each video that was opened, and tell of all, in order. ``outcomes``: of those opened."""
        left = iter(outcomes)
        for one in found:
            self._tell(self._stored(one, next(left)) if isinstance(one, _Opened) else one)

    def _stored(self, one: _Opened, outcome: _Computed | tuple[str, str]) -> Embedded:
        try:
            return self._store(one, outcome)
        except Exception as error:
            return _failure(one.asked, error)

    def _store(self, one: _Opened, outcome: _Computed | tuple[str, str]) -> Embedded:
        network, evidence, bad = self._network, one.evidence, one.bad
        problem, trace = "", ""
        if isinstance(outcome, tuple):
            problem, trace = outcome
            nothing = np.full((len(one.frames), network.spec.dim), np.nan, np.float32)
            outcome = _Computed(nothing, nothing[:0], self._batch)
        features, second = outcome.features, outcome.second
        rechecked = evidence["recheck"]["rows"] if len(second) else []
        lost = _lost(features, second, rechecked, bad)
        features[lost] = np.nan
        problem = problem or _not_finite(lost, evidence["rows"])
        bad = bad | lost
        kept = [place for place, row in enumerate(rechecked) if not lost[row]]
        compared = _compare(self._message["precision"], evidence["recheck"], kept, second, features)
        about = network.about
        record: FeatureRecord = {
            "schema": SCHEMA,
            "video_id": evidence["video_id"],
            "key": one.asked["key"],
            "weights_sha256": self._weights_sha256,
            "features_sha256": hashlib.sha256(features.tobytes()).hexdigest(),
            "rows": len(features),
            "dim": int(features.shape[1]),
            "device": network.device.type,
            "batch_size": outcome.batch,
            "batch_halved": outcome.batch != self._batch,
            "network": {**about, "warnings": [*about["warnings"], *self._message.get("warnings", [])]},
            "recheck": {
                "rows": compared.rows,
                "cosine": [round(value, 7) for value in compared.cosines],
                "agrees": compared.agrees,
            },
            "verified": compared.agrees and bool(evidence["recheck"]["agrees"]) and not bad.any(),
            "warnings": _warnings(features, evidence, bad) + compared.warnings,
            "versions": dict(_versions()),
            "bad_rows": np.flatnonzero(lost).tolist(),
            "problems": [problem] if problem else [],
        }
        # From other pixels, if near ones, other features can come: a verdict. From the same pixels they cannot.
        if compared.impossible:
            raise UserError(
                f"{one.asked['video']}: {compared.warnings[0]}; the frames or the model cannot be trusted. Run Snakemake with "
                "--forcerun sample_frames; if it stays so, this machine computes wrongly."
            )
        stored.write(one.asked["features"], record, {"features": features})
        answer: Embedded = {"place": one.asked["place"], "record": record}
        return {**answer, "trace": trace} if trace else answer


def _failure(video: VideoToEmbed, error: Exception) -> Embedded:
    """The answer where ``error`` kept one video from being embedded; trouble of the machine is raised."""
    if trouble := machine_trouble(error):
        raise trouble from (None if trouble is error else error)
    if isinstance(error, UserError):
        return {"place": video["place"], "failure": str(error)}
    return {
        "place": video["place"],
        "failure": f"{video['video']}: {type(error).__name__}: {error}",
        "trace": traceback.format_exc(),
    }


def _opened(video: VideoToEmbed) -> _Opened:
    evidence: Evidence = stored.read_record(video["evidence"])
    frames = np.load(video["frames"], mmap_mode="r")
    again = np.load(video["recheck"])
    bad = np.asarray(evidence["rows"]["status"], dtype=object) == "bad"
    if len(bad) != len(frames):
        raise UserError(
            f"{video['video']}: {len(frames)} frames, but evidence for {len(bad)} rows; sample it again."
        )
    return _Opened(video, evidence, frames, again, bad)


def _lost(features: np.ndarray, second: np.ndarray, rechecked: Sequence[int], bad: np.ndarray) -> np.ndarray:
    """bool [T]: rows that have a frame and no finite features, the first time or the second."""
    lost = ~bad & ~_finite(features)
    lost[[row for row, well in zip(rechecked, _finite(second), strict=False) if not well]] = True
    return lost


def _not_finite(lost: np.ndarray, rows: Rows) -> str:
    """Why ``lost`` rows are bad; empty where there are none."""
    if not lost.any():
        return ""
    first = rows["timestamp_sec"][int(np.argmax(lost))]
    return (
        f"the features of {many(int(lost.sum()), 'row')} are not finite, the first of them at {first:g} s; "
        "with precision: fp16 try bf16 or float32, else the weights do not fit the backbone"
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
