"""What one stage leaves for the next, as types: JSON with these members, in this order.

Members that results of earlier editions lack are read with ``get``. Standard library only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

from framefeat.identity import FeaturesKey, Sampled, SampleKey

# --- merge_index


class Facts(TypedDict):
    """A container as it was read: sizes in pixels, times in seconds. ``frames``: as it declares, ``frames_found``: as
    they come."""

    format: str
    codec: str
    pix_fmt: str | None
    width: int
    height: int
    sample_aspect: str
    rotation: int
    frames: int
    frames_found: int
    key_frames: int
    fps: float
    duration_sec: float
    last_sec: float
    last_duration_sec: float
    interval_sec: float
    start_sec: float
    vfr: bool
    index_source: str
    warnings: list[str]
    doubts: list[str]


class Slice(Sampled):
    """What decides a video's frames. ``rows``: how many distinct times are asked for."""

    video_id: str
    rows: int


class Shard(TypedDict):
    """``shards/{shard}.json``: the slices of its videos, by key, sorted."""

    schema: int
    videos: dict[str, Slice]


class VideoRecord(Slice):
    """A member of ``videos/{shard}.json``, by key: ``timestamps`` in seconds from the first presented frame, ascending;
    ``error``: why a file is damaged. ``stamp``: of the file as the merge read it (see ``files.file_stamp``); none where
    it did not, or not to its end. ``content``: in a job, sha256 of a fetched file that the index does not identify."""

    path: str
    timestamps: list[float]
    facts: Facts | None
    error: str | None
    doubts: list[str]
    stamp: NotRequired[list[int] | None]
    content: NotRequired[str]


def slice_of(record: VideoRecord) -> Slice:
    """What of a video's record decides its frames."""
    return {
        "video_id": record["video_id"],
        "fingerprint": record["fingerprint"],
        "fps": record["fps"],
        "alignment": record["alignment"],
        "rows": record["rows"],
        "times_sha256": record["times_sha256"],
    }


#: ``former.json``, by a video's key: the keys under which results of its content lay at the merge, and the digests of
#: that evidence and of the values of those features.
Former = Mapping[str, Mapping[str, Sequence[str]]]


# --- sample_frames


@dataclass(frozen=True)
class SampleJob:
    """What the decoding child is asked for. ``paths``: of frames, recheck and thumbnails, as they are written.

    ``hopeless``: why no frame is to be tried; ``not_decord``: why decord is not. Empty where there is no reason.
    """

    record: VideoRecord
    geometry: str
    alignment: str
    decoder: str
    rechecks: int
    key: SampleKey
    paths: Mapping[str, str]
    hopeless: str = ""
    not_decord: str = ""


class Rows(TypedDict):
    """One entry for each row of a slice. ``status``: ``ok``, ``clamped`` or ``bad``; a bad row is -1 and None."""

    timestamp_sec: list[float]
    native_idx: list[int]
    pts_sec: list[float | None]
    status: list[str]


class PixelCheck(TypedDict):
    """The second decode. ``rows`` and ``mean_abs_diff`` (of 255): frames that are embedded again; ``compared``: all of
    them."""

    reader: str | None
    rows: list[int]
    mean_abs_diff: list[float]
    compared: int
    agrees: bool


class Thumbnails(TypedDict):
    """The strip's images: the row of each, and their size in pixels."""

    rows: list[int]
    height: int
    width: int


class Findings(TypedDict):
    """What came out of a video. ``problems``: why rows are bad; ``doubts``: why no one can tell which frame is
    which."""

    video: Facts | None
    decoder: str | None
    decoder_reason: str
    rows: Rows
    recheck: PixelCheck
    warnings: list[str]
    doubts: list[str]
    problems: list[str]


#: Of an evidence's problems, those that are the index's doing and not the file's have these words.
PAST_END = "is past the end"


class Evidence(Findings):
    """``evidence/{geometry}/{key}.safetensors``. ``frame_size``: height and width as decoded; ``content``: of the
    record that was decoded; ``frames_checksum``: see ``sample.rowfile``."""

    schema: int
    video_id: str
    key: SampleKey
    versions: dict[str, str]
    frame_size: list[int] | None
    thumbnails: Thumbnails
    frames_checksum: NotRequired[int]
    content: NotRequired[str]


# --- extract_features


class ModelRequest(TypedDict):
    """What decides which network an embedder loads; ``spec`` is JSON, ``weights`` a path."""

    spec: str
    weights: str
    weights_identity: str
    precision: str


class VideoToEmbed(TypedDict):
    """``evidence``, ``frames``, ``recheck``: files that are read; ``features``: the file that is written. ``place``: by
    which the answer names the video."""

    place: int
    video: str
    rows: int
    key: FeaturesKey
    evidence: str
    frames: str
    recheck: str
    features: str


class EmbedRequest(ModelRequest):
    """What an embedder is asked for, as JSON. ``scratch``: the folder of what is half-made. ``together``: whether
    videos may share a batch."""

    videos: list[VideoToEmbed]
    batch_size: int | str
    threads: int
    scratch: str
    together: bool
    warnings: list[str]


class FeatureCheck(TypedDict):
    """The second embedding: rows, and the cosine of each with the features that were written."""

    rows: list[int]
    cosine: list[float]
    agrees: bool


class FeatureRecord(TypedDict):
    """``{backbone}/features/{key}.safetensors``. ``features_sha256``: of the values."""

    schema: int
    video_id: str
    key: FeaturesKey
    weights_sha256: str
    features_sha256: str
    rows: int
    dim: int
    device: str
    batch_size: int
    batch_halved: bool
    network: NotRequired[dict[str, Any]]
    recheck: FeatureCheck
    verified: bool
    warnings: list[str]
    versions: dict[str, str]
    bad_rows: NotRequired[list[int]]
    problems: NotRequired[list[str]]


class Embedded(TypedDict):
    """An embedder's answer about the ``place``-th video: its ``record``, which is stored, or the ``failure`` that kept
    it from being embedded. ``trace``: where something happened that nobody foresaw."""

    place: int
    record: NotRequired[FeatureRecord]
    failure: NotRequired[str]
    trace: NotRequired[str]


# --- assemble


class Counts(TypedDict):
    """Rows by their status."""

    ok: int
    clamped: int
    bad: int


class Checks(TypedDict):
    """What the second look found."""

    pixels: PixelCheck
    features: FeatureCheck


class Span(TypedDict):
    """A video's rows of the matrix: from ``first_row`` to ``last_row``, or ``row_numbers``, ascending."""

    first_row: NotRequired[int]
    last_row: NotRequired[int]
    row_numbers: NotRequired[list[int]]


class VideoEntry(Span):
    """A video of the manifest."""

    video_id: str
    rows: int
    fingerprint: str
    fps: float
    alignment: str
    container: Facts | None
    decoder: str | None
    decoder_reason: str
    max_abs_offset_sec: float | None
    counts: Counts
    features_sha256: str
    verified: bool
    verdict: str
    doubts: list[str]
    recheck: Checks
    batch_size: int
    batch_halved: bool
    device: str
    warnings: list[str]
    problems: list[str]


class Doubtful(TypedDict):
    """How many videos have doubts, and how far in seconds their farthest row is from its frame."""

    videos: int
    max_abs_offset_sec: float | None


class Origin(TypedDict):
    """What a matrix was made from, as the configuration says it: no clock, no host, no folder of one machine.

    ``source``: the folder or glob ``videos``, or the names of ``frame_index`` and ``video_index``. ``sampling``:
    ``sample_fps`` (rows per second), ``sample_every`` (native frames), or ``times``: those of the frame index.
    """

    source: dict[str, str]
    sampling: dict[str, float | int | str]
    command: str


class ManifestHead(TypedDict):
    """``feature_manifest.json`` but for its videos. The first six members are the notebook's. The members of ``Origin``
    are left out where a matrix was assembled by hand."""

    backbone: str
    weights: str
    feature_dim: int
    total_frames: int
    alignment_verified: bool
    order: str
    verdict: str
    doubtful: Doubtful
    schema_version: int
    dataset: str
    source: NotRequired[dict[str, str]]
    sampling: NotRequired[dict[str, float | int | str]]
    command: NotRequired[str]
    backbone_name: str
    preprocessing: dict[str, Any]
    spec: dict[str, Any]
    alignment: str
    precision: str
    decoder: str
    on_bad_frames: str
    weights_sha256: str
    matrix_sha256: str
    frame_index_sha256: str
    counts: Counts
    notes: list[str]
    computed_by: list[dict[str, Any]]
    versions: dict[str, str]


class Control(TypedDict):
    """How a matrix that is no set of features was made of one that is."""

    kind: str
    seed: int
    source_matrix_sha256: str


class Manifest(ManifestHead):
    """``feature_manifest.json``. ``control``: of a matrix that only stands in for features, in a summariser's test."""

    videos: list[VideoEntry]
    control: NotRequired[Control]
