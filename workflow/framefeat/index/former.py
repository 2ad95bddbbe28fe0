"""Which videos were here before under another name: of a file that was renamed, or copied, nothing need be decoded.

What is found is a hint. What may be taken over is decided from what is stored then (``needs.of_video``).
"""

from collections.abc import Mapping

from framefeat import stored
from framefeat.identity import evidence_digest
from framefeat.layout import ResultsFolder
from framefeat.records import VideoRecord

_Content = tuple[str, str]


def find(results: ResultsFolder, records: Mapping[str, VideoRecord]) -> dict[str, dict[str, list[str]]]:
    """See ``records.Former``. ``results``: what is stored; ``records``: those of this merge, by key.

    Evidence of videos that are no longer there is read, and that of videos of one content, where there are several.
    """
    by_content: dict[_Content, list[str]] = {}
    for key, record in records.items():
        if content := _content(record):
            by_content.setdefault(content, []).append(key)
    found: dict[str, dict[str, list[str]]] = {}
    for geometry in results.geometries():
        there = results.with_evidence(geometry)
        copies = [keys for keys in by_content.values() if len(keys) > 1]
        sources = there.difference(records).union(*(there.intersection(keys) for keys in copies))
        for other in sorted(sources):
            content, digest = _evidence(results, geometry, other)
            if content is None or (other in records and _content(records[other]) != content):
                continue  # of no use, or about to be replaced: the order of the jobs would decide
            for key in by_content.get(content, ()):
                if key not in there or _evidence(results, geometry, key)[0] != content:
                    found.setdefault(key, {}).setdefault(other, []).append(digest)
    features = {other: _features(results, other) for others in found.values() for other in others}
    for others in found.values():
        for other, digests in others.items():
            digests.extend(features[other])
    return found


def _content(record: VideoRecord) -> _Content | None:
    """What a file holds, and how FFmpeg takes it, which its name may decide; None of a file that is damaged or that the
    merge does not read."""
    if record["facts"] is None or record["error"]:
        return None
    return record["fingerprint"], record["facts"]["format"]


def _features(results: ResultsFolder, key: str) -> list[str]:
    """The digests of a video's features, of each backbone that it has some of."""
    records = (stored.record_or_none(folder.features(key)) for folder in results.with_features())
    return [record["features_sha256"] for record in records if record and "features_sha256" in record]


def _evidence(results: ResultsFolder, geometry: str, key: str) -> tuple[_Content | None, str]:
    """The content that stored evidence is of, and its digest; None where it is of no use."""
    found = stored.record_or_none(results.evidence(geometry, key))
    try:
        return (found["key"]["fingerprint"], found["video"]["format"]), evidence_digest(found)
    except (KeyError, TypeError):
        return None, ""
