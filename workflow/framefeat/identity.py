"""What decided a stored result, beside what decides it now: the differences, in words."""

from collections.abc import Mapping
from typing import Any

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


def differences(stored: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """One phrase for each entry of ``expected`` that ``stored`` does not have as it is."""
    return [
        _WORDS.get(name, f"{name} changed")
        + (f" from {stored.get(name)} to {value}" if name in _SHOWN else "")
        for name, value in expected.items()
        if stored.get(name) != value
    ]
