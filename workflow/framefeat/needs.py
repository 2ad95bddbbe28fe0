"""What is to be done for a video, and why: the one answer that ``framefeat plan`` prints and that jobs obey.

A video's stored results are compared with what the index and the configuration ask for now. It does not matter which
shard the video is in, or was in when they were made.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from framefeat import stored
from framefeat.errors import UserError
from framefeat.identity import RequestKey, differences, features_key, request_key, sample_key
from framefeat.layout import ResultsFolder
from framefeat.records import Evidence, FeatureRecord, Slice

SAMPLED_AGAIN = "its frames are sampled again"


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
class Needs:
    """Reasons to decode a video, by geometry, and to embed it, by backbone folder; an entry without reasons is not
    there.

    ``evidence``: by geometry, what is stored and still holds. ``problems``: of what is stored and stays. ``gone``: by
    backbone folder, files that are not there where nothing else speaks against its features.
    """

    decode: Mapping[str, list[str]]
    embed: Mapping[str, list[str]]
    evidence: Mapping[str, Evidence]
    problems: Sequence[str]
    gone: Mapping[str, list[str]]

    def frames_are_wanted(self, wanted: Wanted, geometry: str) -> bool:
        """Whether features are still to be computed from frames of this ``geometry``."""
        return any(
            backbone.geometry == geometry and backbone.folder in self.embed for backbone in wanted.backbones
        )


def of_video(results: ResultsFolder, wanted: Wanted, key: str, entry: Slice) -> Needs:
    """What is to be done for the video of ``key``, whose slice ``entry`` is."""
    decode: dict[str, list[str]] = {}
    valid: dict[str, Evidence] = {}
    changed = False
    problems: list[str] = []
    for geometry in wanted.geometries:
        evidence: Evidence | None = stored.record_or_none(results.evidence(geometry, key))
        expected = sample_key(entry, alignment=wanted.alignment, geometry=geometry, decoder=wanted.decoder)
        if evidence is None:
            decode[geometry] = ["new: no frames were sampled yet"]
        elif reasons := differences(evidence["key"], expected):
            decode[geometry], changed = reasons, True
        else:
            valid[geometry] = evidence
            problems = evidence["problems"] or problems
    embed: dict[str, list[str]] = {}
    gone: dict[str, list[str]] = {}
    for backbone in wanted.backbones:
        path = results.backbone(backbone.folder).features(key)
        record: FeatureRecord | None = stored.record_or_none(path)
        evidence = valid.get(backbone.geometry)
        reasons = _reasons_to_embed(record, backbone, evidence)
        if not reasons and record is not None:
            problems = problems or record.get("problems") or []
            continue
        embed[backbone.folder] = reasons
        if not changed and (record is None or reasons == [SAMPLED_AGAIN]):
            needed = (results.evidence(backbone.geometry, key), path)
            if lost := [str(file) for file in needed if not file.is_file()]:
                gone[backbone.folder] = lost
        kept = (results.frames(backbone.geometry, key), results.recheck(backbone.geometry, key))
        if backbone.geometry not in decode and not all(file.is_file() for file in kept):
            decode[backbone.geometry] = [f"its frames are needed again for {backbone.folder}"]
    return Needs(decode, embed, valid, problems, gone)


def _reasons_to_embed(
    record: FeatureRecord | None, backbone: WantedBackbone, evidence: Evidence | None
) -> list[str]:
    """``record``: of the features that lie there; ``evidence``: of the frames, None where they are sampled again."""
    if record is None:
        return ["no features yet"]
    if evidence is None:
        return differences(record["key"], backbone.request) or [SAMPLED_AGAIN]
    return differences(record["key"], features_key(backbone.request, evidence))
