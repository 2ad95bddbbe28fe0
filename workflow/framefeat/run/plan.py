"""``framefeat plan``: which videos the next run will recompute, and why, in words.

After an edit of the index ``snakemake -n`` shows the merge and the assembly alone, because it cannot see past a
checkpoint. This does the merge aside and compares what each stored result was computed from with what it would be now.
"""

import contextlib
import io
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from framefeat import layout, settings
from framefeat.backbone.chosen import ChosenBackbone, chosen_backbones
from framefeat.errors import UserError
from framefeat.files import read_json
from framefeat.identity import differences, features_key, request_key, sample_key
from framefeat.index import merge
from framefeat.records import Evidence, FeatureRecord, Slice
from framefeat.results.finished import read_manifest_head


@dataclass(frozen=True)
class Changes:
    """What the next run does: video ids -> reasons, for each kind of job.

    ``extract``: by backbone folder. ``assemble``: backbone folders whose matrix is missing, or was made under another
    rule for bad rows. ``refused``: the problems of videos for which assemble refuses, where on_bad_frames is fail.
    """

    sample: dict[str, list[str]]
    extract: dict[str, dict[str, list[str]]]
    removed: list[str]
    videos: int
    rows_changed: bool
    assemble: list[str]
    refused: dict[str, list[str]]

    @property
    def nothing(self) -> bool:
        return not (
            self.sample or any(self.extract.values()) or self.removed or self.rows_changed or self.assemble
        )


def configuration(configfile: Path | None) -> dict[str, Any]:
    """config/config.yaml with ``configfile`` laid over it, the way Snakemake does: maps are merged, the rest
    replaced."""
    config = _mapping(Path("config/config.yaml"), "run this in the folder from which Snakemake is run")
    if configfile is not None:
        _lay_over(config, _mapping(configfile, "name the file that Snakemake is given"))
    return config


def _mapping(path: Path, advice: str) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{str(path)!r} is no configuration that can be read ({error}); {advice}.") from None
    if not isinstance(found, dict):
        raise UserError(f"{str(path)!r} is no configuration: it holds no keys with values; {advice}.")
    return found


def _lay_over(base: dict[str, Any], top: Mapping[str, Any]) -> None:
    for name, value in top.items():
        if isinstance(value, Mapping) and isinstance(base.get(name), dict):
            _lay_over(base[name], value)
        else:
            base[name] = value


def find(config: Mapping[str, Any], results_root: Path = Path("results")) -> Changes:
    """Compare what a run with ``config`` would compute with what lies in ``results_root``."""
    wanted = settings.resolve(config)
    backbones = chosen_backbones(wanted)
    results = layout.results_of(wanted.dataset, results_root)
    slices, rows_changed = _merge_aside(wanted, results)
    videos = [_changes_of(results, wanted, backbones, key, entry) for key, entry in slices.items()]
    return Changes(
        sample={video.video_id: video.sample for video in videos if video.sample},
        extract={
            chosen.folder: {
                video.video_id: video.extract[chosen.folder]
                for video in videos
                if chosen.folder in video.extract
            }
            for chosen in backbones
        },
        removed=sorted(set(results.video_keys()) - set(slices)),
        videos=len(videos),
        rows_changed=rows_changed,
        assemble=[
            chosen.folder
            for chosen in backbones
            if not _is_assembled(results.backbone(chosen.folder), wanted.on_bad_frames)
        ],
        refused={
            video.video_id: video.problems
            for video in videos
            if wanted.on_bad_frames == "fail" and video.problems and not video.sample
        },
    )


def _merge_aside(wanted: settings.Settings, results: layout.ResultsFolder) -> tuple[dict[str, Slice], bool]:
    """The slices that a merge writes now, by key, and whether the index differs from the one that lies there."""
    with tempfile.TemporaryDirectory(prefix="framefeat-plan-") as folder:
        aside = layout.ResultsFolder(Path(folder))
        if results.fingerprints.is_file():
            shutil.copy(results.fingerprints, aside.fingerprints)
        with contextlib.redirect_stderr(io.StringIO()):
            merge.merge(wanted, aside.root, workers=4)
        slices: dict[str, Slice] = {key: read_json(aside.slice(key)) for key in aside.video_keys()}
        return slices, _differs(aside.index, results.index)


@dataclass(frozen=True)
class _VideoChanges:
    """Reasons to sample a video and, by backbone folder, to embed it; ``problems``: of what lies there and stays."""

    video_id: str
    sample: list[str]
    extract: dict[str, list[str]]
    problems: list[str]


def _changes_of(
    results: layout.ResultsFolder,
    wanted: settings.Settings,
    backbones: Sequence[ChosenBackbone],
    key: str,
    entry: Slice,
) -> _VideoChanges:
    """What is to be done for one video: ``entry`` is its slice."""
    sample: list[str] = []
    extract: dict[str, list[str]] = {}
    problems: list[str] = []
    valid: dict[str, Evidence] = {}  # by geometry: the evidence of frames that need no new sampling
    for geometry in sorted({chosen.geometry for chosen in backbones}):
        evidence: Evidence | None = _read(results.evidence(geometry, key))
        expected = sample_key(entry, alignment=wanted.alignment, geometry=geometry, decoder=wanted.decoder)
        if evidence is None:
            sample = ["new: no frames were sampled yet"]
        elif reasons := differences(evidence["key"], expected):
            sample = reasons
        else:
            valid[geometry] = evidence
            problems = evidence["problems"] or problems
    for chosen in backbones:
        record: FeatureRecord | None = _read(results.backbone(chosen.folder).record(key))
        reasons = _extract_reasons(record, chosen, wanted.precision, valid.get(chosen.geometry))
        if not reasons and record is not None:
            problems = problems or record.get("problems") or []
            continue
        extract[chosen.folder] = reasons
        kept = (results.frames(chosen.geometry, key), results.recheck(chosen.geometry, key))
        if not sample and not all(path.is_file() for path in kept):
            sample = [f"its frames are needed again for {chosen.folder}"]
    return _VideoChanges(entry["video_id"], sample, extract, problems)


def _is_assembled(folder: layout.BackboneFolder, on_bad_frames: str) -> bool:
    """Whether a matrix lies there that was made under this rule."""
    head = read_manifest_head(folder.manifest)
    return head is not None and head.get("on_bad_frames") == on_bad_frames


def _extract_reasons(
    record: FeatureRecord | None, chosen: ChosenBackbone, precision: str, evidence: Evidence | None
) -> list[str]:
    """``record``: of the features that lie there; ``evidence``: of the frames, None where they are sampled again."""
    if record is None:
        return ["no features yet"]
    expected = request_key(chosen.spec_json, chosen.weights_identity, precision)
    if evidence is None:
        return differences(record["key"], expected) or ["its frames are sampled again"]
    return differences(record["key"], features_key(expected, evidence))


def _read(path: Path) -> Any:
    return read_json(path) if path.is_file() else None


def _differs(new: Path, old: Path) -> bool:
    import pyarrow.parquet as pq

    return not old.is_file() or not pq.read_table(new).equals(pq.read_table(old))


def sentences(changes: Changes) -> Iterator[str]:
    """The changes as lines of text, the costly ones first."""
    if changes.nothing:
        yield f"Nothing to be done: the results of all {changes.videos} videos are up to date."
        return
    yield f"{len(changes.sample)} of {changes.videos} videos will be decoded:"
    for video_id, reasons in sorted(changes.sample.items()):
        yield f"  {video_id}: {'; '.join(reasons)}"
    for folder, videos in changes.extract.items():
        yield f"{len(videos)} of {changes.videos} videos will be embedded with {folder}:"
        for video_id, reasons in sorted(videos.items()):
            yield f"  {video_id}: {'; '.join(reasons)}"
    if changes.removed:
        yield f"{len(changes.removed)} videos leave the matrix: {', '.join(changes.removed)}"
        yield "  their files stay until 'framefeat stale RESULTS --delete'"
    if changes.refused:
        yield f"on_bad_frames is fail, and {len(changes.refused)} videos have bad rows: no matrix will be assembled."
        for video_id, problems in sorted(changes.refused.items()):
            yield f"  {video_id}: {problems[0]}"
        yield "  replace these files, or set on_bad_frames: mask"
    else:
        yield "The matrix and its manifest will be assembled again."


def run(configfile: Path | None, as_json: bool = False) -> None:
    changes = find(configuration(configfile))
    if as_json:
        print(json.dumps(vars(changes), indent=1))
        return
    for line in sentences(changes):
        print(line)
