"""What is to be done for a video, and why: the one answer that ``framefeat plan`` prints and that jobs obey.

A video's stored results are compared with what the index and the configuration ask for now. It does not matter which
shard the video is in, or was in when they were made. A file that was renamed is a new video; where results of the same
content lie under its former name and are what is asked for, they are taken over.
"""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from framefeat import stored
from framefeat.errors import UserError
from framefeat.identity import (
    RequestKey,
    SampleKey,
    differences,
    evidence_digest,
    features_key,
    request_key,
    sample_key,
)
from framefeat.layout import ResultsFolder
from framefeat.records import Evidence, FeatureRecord, Slice

SAMPLED_AGAIN = "its frames are sampled again"
_ABSOLUTE_PATH = re.compile(r"(?<![^\s'\"(])/")


@dataclass(frozen=True)
class WantedBackbone:
    """A backbone of the configuration: its folder of results, how its frames are resized, and what decides its
    features."""

    folder: str
    geometry: str
    request: RequestKey


@dataclass(frozen=True)
class Wanted:
    """What the configuration asks of each video."""

    alignment: str
    decoder: str
    backbones: tuple[WantedBackbone, ...]

    @classmethod
    def of(
        cls, alignment: str, decoder: str, precision: str, backbones: Sequence[Mapping[str, str]]
    ) -> "Wanted":
        """``backbones``: of each ``folder``, ``geometry``, ``spec`` (JSON) and ``weights`` (their identity)."""
        return cls(
            alignment,
            decoder,
            tuple(
                WantedBackbone(
                    one["folder"], one["geometry"], request_key(one["spec"], one["weights"], precision)
                )
                for one in backbones
            ),
        )

    @classmethod
    def from_json(cls, text: str) -> "Wanted":
        """As ``to_json`` wrote it. Raises ``UserError`` where it is something else."""
        try:
            found = json.loads(text)
            backbones = tuple(WantedBackbone(**one) for one in found["backbones"])
            return cls(found["alignment"], found["decoder"], backbones)
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"--wanted: {text[:60]!r} is not what 'framefeat plan --wanted' prints."
            ) from None

    def to_json(self) -> str:
        return json.dumps(
            {
                "alignment": self.alignment,
                "decoder": self.decoder,
                "backbones": [vars(backbone) for backbone in self.backbones],
            }
        )

    @property
    def geometries(self) -> list[str]:
        return sorted({backbone.geometry for backbone in self.backbones})


@dataclass(frozen=True)
class Stored:
    """What is stored of a video, and where; ``video_id``: of the video that it was made of."""

    path: Path
    video_id: str


@dataclass(frozen=True)
class Needs:
    """Reasons to decode a video, by geometry, and to embed it, by backbone folder; an entry without reasons is not
    there.

    ``evidence``: by geometry, what is stored and still holds. ``problems``: of what is stored and stays. ``gone``: by
    backbone folder, files that are not there, or not whole, where nothing else speaks against its features.
    ``evidence_from``, by geometry, and ``features_from``, by backbone folder: what is stored of the same content
    under another name, and is taken over.
    """

    decode: Mapping[str, list[str]]
    embed: Mapping[str, list[str]]
    evidence: Mapping[str, Evidence]
    problems: Sequence[str]
    gone: Mapping[str, list[str]]
    evidence_from: Mapping[str, Stored]
    features_from: Mapping[str, Stored]

    def frames_are_wanted(self, wanted: Wanted, geometry: str) -> bool:
        """Whether features are still to be computed from frames of this ``geometry``."""
        return any(
            backbone.geometry == geometry and backbone.folder in self.embed for backbone in wanted.backbones
        )


def of_video(
    results: ResultsFolder,
    wanted: Wanted,
    key: str,
    entry: Slice,
    former: Mapping[str, Sequence[str]] | None = None,
) -> Needs:
    """What is to be done for the video of ``key``, whose slice ``entry`` is. ``former``: its entry of
    ``records.Former``."""
    former = former or {}
    decode: dict[str, list[str]] = {}
    valid: dict[str, Evidence] = {}
    evidence_from: dict[str, Stored] = {}
    changed = False
    problems: list[str] = []
    whole: dict[str, bool] = {}
    for geometry in wanted.geometries:
        evidence: Evidence | None = stored.record_or_none(results.evidence(geometry, key))
        whole[geometry] = evidence is not None
        expected = sample_key(entry, alignment=wanted.alignment, geometry=geometry, decoder=wanted.decoder)
        reasons = ["new: no frames were sampled yet"]
        if evidence is not None:
            reasons = differences(evidence["key"], expected)
            changed = changed or bool(reasons)
        if reasons:
            found = _evidence_elsewhere(results, geometry, expected, entry["rows"], former)
            if found is None:
                decode[geometry] = reasons
                continue
            evidence, evidence_from[geometry] = found
        assert evidence is not None
        valid[geometry] = evidence
        problems = evidence["problems"] or problems
    embed: dict[str, list[str]] = {}
    gone: dict[str, list[str]] = {}
    features_from: dict[str, Stored] = {}
    for backbone in wanted.backbones:
        path = results.backbone(backbone.folder).features(key)
        record: FeatureRecord | None = stored.record_or_none(path)
        evidence = valid.get(backbone.geometry)
        reasons = _reasons_to_embed(record, backbone, evidence)
        if not changed and (
            record is None or reasons == [SAMPLED_AGAIN] or backbone.geometry in evidence_from
        ):
            needed = {
                results.evidence(backbone.geometry, key): whole[backbone.geometry],
                path: record is not None,
            }
            if lost := [str(file) for file, is_whole in needed.items() if not is_whole]:
                gone[backbone.folder] = lost
        if reasons and evidence and (taken := _features_elsewhere(results, backbone, evidence, former)):
            record, features_from[backbone.folder] = taken
            reasons = []
        if not reasons:
            if record is not None:
                problems = problems or record.get("problems") or []
            continue
        embed[backbone.folder] = reasons
        kept = (results.frames(backbone.geometry, key), results.recheck(backbone.geometry, key))
        # Frames that lie here are not of the evidence that lies elsewhere.
        there = backbone.geometry not in evidence_from and all(file.is_file() for file in kept)
        if backbone.geometry not in decode and not there:
            decode[backbone.geometry] = [f"its frames are needed again for {backbone.folder}"]
    for geometry in decode:
        evidence_from.pop(geometry, None)
    return Needs(decode, embed, valid, problems, gone, evidence_from, features_from)


def take_over(source: Stored, path: Path, video_id: str) -> Any:
    """Put what lies at ``source`` to ``path`` as that of ``video_id``, and say so; returns its record. Raises
    ``MachineError`` where it cannot be written."""
    record = stored.copy(source.path, path, {"video_id": video_id})
    print(f"{video_id}: as {source.video_id}, the same content: taken over", file=sys.stderr, flush=True)
    return record


def _evidence_elsewhere(
    results: ResultsFolder,
    geometry: str,
    expected: SampleKey,
    rows: int,
    former: Mapping[str, Sequence[str]],
) -> tuple[Evidence, Stored] | None:
    """Evidence of ``expected`` that lies under another name and has not changed since the merge."""
    for other, digests in former.items():
        path = results.evidence(geometry, other)
        found: Evidence | None = stored.record_or_none(path)
        if (
            found is not None
            and evidence_digest(found) in digests
            and not differences(found["key"], expected)
            and len(found["rows"]["status"]) == rows
            and not _may_name_its_file(found)
        ):
            return found, Stored(path, found["video_id"])
    return None


def _may_name_its_file(evidence: Evidence) -> bool:
    """Of a renamed file such a text would be another one: it must be decoded again."""
    texts = [evidence["decoder_reason"], *evidence["warnings"], *evidence["doubts"], *evidence["problems"]]
    return any(_ABSOLUTE_PATH.search(text) for text in texts)


def _features_elsewhere(
    results: ResultsFolder,
    backbone: WantedBackbone,
    evidence: Evidence,
    former: Mapping[str, Sequence[str]],
) -> tuple[FeatureRecord, Stored] | None:
    """Features from the frames of ``evidence`` that lie under another name and have not changed since the merge."""
    for other, digests in former.items():
        path = results.backbone(backbone.folder).features(other)
        record: FeatureRecord | None = stored.record_or_none(path)
        if (
            record is not None
            and record.get("features_sha256") in digests
            and not _reasons_to_embed(record, backbone, evidence)
            and stored.arrays_sha256(path) == record["features_sha256"]
        ):
            return record, Stored(path, record["video_id"])
    return None


def _reasons_to_embed(
    record: FeatureRecord | None, backbone: WantedBackbone, evidence: Evidence | None
) -> list[str]:
    """``record``: of the features that lie there; ``evidence``: of the frames, None where they are sampled again."""
    if record is None:
        return ["no features yet"]
    if evidence is None:
        return differences(record["key"], backbone.request) or [SAMPLED_AGAIN]
    return differences(record["key"], features_key(backbone.request, evidence))
