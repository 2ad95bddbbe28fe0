"""What decides a stored result: keys, digests, versions of the algorithms; and differences, in words.

Standard library only: the rules and short jobs import it.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

if TYPE_CHECKING:
    import numpy as np

#: A new number makes every earlier result of the stage stale: it changes with the numbers that the stage gives.
SAMPLE_ALGORITHM = 2
ASSEMBLE_ALGORITHM = 2
_EXTRACT_ALGORITHM = 1
#: In the half precisions, BatchNorm that could not be folded keeps float32 since 2.
_EXTRACT_ALGORITHM_HALF = 2

#: How the fingerprint of a file begins whose content could not be read: when it can be, it is another.
UNREAD = "unread:"

_WORDS = {
    "fingerprint": "the file's content changed",
    "times_sha256": "its times changed",
    "fps": "its fps in the index changed",
    "alignment": "alignment changed",
    "geometry": "the frames' geometry changed",
    "decoder": "decoder changed",
    "algorithm": "the algorithm has a new version",
    "weights": "other weights",
    "spec": "the backbone's description changed",
    "precision": "precision changed",
    "evidence_sha256": "its frames were sampled again since",
}
_SHOWN = ("alignment", "decoder", "precision", "fps", "algorithm")
#: Not told beside a changed file: of a folder's videos they are read from it.
_FROM_THE_FILE = ("times_sha256", "fps", "alignment")


class Sampled(TypedDict):
    """What of a video decides its frames; ``alignment``: the one that holds for it, where it is known."""

    fingerprint: str
    fps: float
    alignment: NotRequired[str]
    times_sha256: str


class SampleKey(TypedDict):
    """What a sampling was made of, and how."""

    algorithm: int
    fingerprint: str
    times_sha256: str
    fps: float
    alignment: str
    geometry: str
    decoder: str


class RequestKey(TypedDict):
    """What decides the features of given frames."""

    spec: dict[str, Any]
    weights: str
    precision: str
    algorithm: int


class FeaturesKey(RequestKey):
    """What a video's features were made of, and how."""

    evidence_sha256: str


def extract_algorithm(precision: str) -> int:
    return _EXTRACT_ALGORITHM if precision == "float32" else _EXTRACT_ALGORITHM_HALF


def times_digest(times: "np.ndarray") -> str:
    """sha256 of a slice's times: little-endian float64, ascending."""
    return hashlib.sha256(times.astype("<f8").tobytes()).hexdigest()


def sample_key(record: Sampled, *, alignment: str, geometry: str, decoder: str) -> SampleKey:
    """Exactly what decides a sampling's result. ``alignment``: of the configuration."""
    return {
        "algorithm": SAMPLE_ALGORITHM,
        "fingerprint": record["fingerprint"],
        "times_sha256": record["times_sha256"],
        "fps": record["fps"],
        "alignment": record.get("alignment", alignment),
        "geometry": geometry,
        "decoder": decoder,
    }


def request_key(spec_json: str, weights_identity: str, precision: str) -> RequestKey:
    """``spec_json``: of a backbone, without what does not decide its features."""
    return {
        "spec": json.loads(spec_json),
        "weights": weights_identity,
        "precision": precision,
        "algorithm": extract_algorithm(precision),
    }


def features_key(request: RequestKey, evidence: Mapping[str, Any]) -> FeaturesKey:
    """What decides a video's features: the request, and the frames that ``evidence`` tells of."""
    return {**request, "evidence_sha256": evidence_digest(evidence)}


def identifying(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A backbone's description without what does not decide its features: path and name of a weights file."""
    return {**spec} | ({"weights": "", "file": "", "sha256": None} if spec["kind"] == "file" else {})


def evidence_digest(evidence: Mapping[str, Any]) -> str:
    """Ties features to the frames they were computed from: what was asked of the sampling, and what came out."""
    kept = [evidence["key"], evidence["rows"], evidence["recheck"], evidence["decoder"]]
    kept += [evidence[name] for name in ("content", "frames_checksum") if name in evidence]
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def differences(stored: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """One phrase for each entry of ``expected`` that ``stored`` does not have as it is, or for what explains it."""
    changed = {name: value for name, value in expected.items() if stored.get(name) != value}
    if "precision" in changed and stored.get("algorithm") == extract_algorithm(stored["precision"]):
        changed.pop("algorithm", None)  # each precision has one of its own
    if "fingerprint" in changed:
        if str(stored.get("fingerprint")).startswith(UNREAD):
            return ["its file could not be read before"]
        changed = {name: value for name, value in changed.items() if name not in _FROM_THE_FILE}
    return [
        _WORDS.get(name, f"{name} changed")
        + (f" from {stored.get(name)} to {value}" if name in _SHOWN else "")
        for name, value in changed.items()
    ]
