"""``framefeat plan``: which videos the next run will recompute, and why, in words.

After an edit of the index ``snakemake -n`` shows the merge and the assembly alone, because it cannot see past a
checkpoint. This does the merge aside and compares what each stored result was computed from with what it would be now.
"""

import contextlib
import io
import itertools
import json
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from framefeat import layout, needs, settings
from framefeat.backbone.chosen import ChosenBackbone, chosen_backbones, wanted_of
from framefeat.errors import UserError
from framefeat.files import read_json
from framefeat.index import merge
from framefeat.index.folder import unread_files
from framefeat.index.stamp import asked_of_merge, stat_digest
from framefeat.needs import Needs, Wanted
from framefeat.parquet import read_parquet
from framefeat.records import Former, Slice
from framefeat.results.drawn import SNAKEMAKE_COMPARES_CONTENT, draws_again
from framefeat.results.finished import FinishedRun, read_manifest, read_manifest_head
from framefeat.results.origin import origin
from framefeat.shard_files import MERGE_AGAIN, Merged, lacks_shards, read_former, read_records
from framefeat.words import many

if TYPE_CHECKING:
    import pyarrow as pa

_FILES_NAMED = 5


@dataclass(frozen=True)
class Changes:
    """What the next run does: video ids -> reasons, for each kind of job.

    ``results``: the data set's folder. ``merges``: why the index is merged again, whether or not that changes a row;
    empty where it is not. ``redraws``: the report is not of the results that lie there. ``extract``: by backbone
    folder. ``taken_over``: the other name of videos whose results lie under one. ``assemble``: backbone folders of
    whose results a file is missing, or which say something else of themselves than they would now (the rule for bad
    rows, where the rows come from), or whose shards or large index are others. ``refused``: the problems of videos for
    which assemble refuses, where on_bad_frames is fail. ``missing``: results that are not there and are made again.
    ``lost``: what they were made from and is not there: Snakemake makes it again with the next matrix, and not before.
    ``weights``: published weights that are not there and with which videos are embedded: they are fetched first.
    ``damaged``: sentences about results that are there and are not whole, which Snakemake does not see.
    """

    dataset: str
    results: str
    merges: list[str]
    redraws: bool
    sample: dict[str, list[str]]
    extract: dict[str, dict[str, list[str]]]
    taken_over: dict[str, str]
    removed: list[str]
    videos: int
    rows_changed: bool
    assemble: list[str]
    refused: dict[str, list[str]]
    missing: list[str]
    lost: list[str]
    weights: list[str]
    damaged: list[str]

    @property
    def assembles(self) -> bool:
        return bool(
            self.sample
            or any(self.extract.values())
            or self.taken_over
            or self.removed
            or self.rows_changed
            or self.assemble
        )

    @property
    def nothing(self) -> bool:
        return not (self.merges or self.assembles or self.missing or self.redraws)


def configuration(configfiles: Sequence[Path] = (), entries: Sequence[str] = ()) -> dict[str, Any]:
    """config/config.yaml where there is one, ``configfiles`` and then ``entries`` (KEY=VALUE) laid over it, the way
    Snakemake does: maps are merged, the rest replaced. What nobody names has its default."""
    usual = Path("config/config.yaml")
    config: dict[str, Any] = {}
    if usual.exists():
        _lay_over(config, _mapping(usual, "run this in the folder from which Snakemake is run"))
    for path in configfiles:
        _lay_over(config, _mapping(path, "name the file that Snakemake is given"))
    _lay_over(config, _read_entries(entries))
    return config


def _read_entries(entries: Sequence[str]) -> dict[str, Any]:
    """What Snakemake makes of ``--config KEY=VALUE ...``."""
    config: dict[str, Any] = {}
    for entry in entries:
        key, equals, text = entry.partition("=")
        if not equals or not re.fullmatch(r"[a-zA-Z_][\w-]*\w", key):
            raise UserError(f"--config {entry!r}: write KEY=VALUE, as in dataset=mine.")
        _lay_over(config, {key: _read_value(text.strip("'\""))})
    return config


def _read_value(text: str) -> Any:
    if not text:
        return None
    if text in ("True", "False"):
        return text == "True"
    for read in (int, float):
        with contextlib.suppress(ValueError):
            return read(text)
    with contextlib.suppress(yaml.YAMLError):
        return yaml.load(text, Loader=yaml.BaseLoader)
    return text


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
    """Compare what a run with ``config`` would compute with what lies in ``results_root``. Raises ``UserError`` where
    the run would be refused."""
    wanted = settings.resolve(config)
    settings.check_inputs(wanted)
    backbones = chosen_backbones(wanted)
    results = layout.results_of(wanted.dataset, results_root)
    slices, unread, former, rows_changed, dealt_anew = _merge_aside(wanted, results)
    before = Merged(results).slices
    if slices == before and not rows_changed:
        former = read_former(results)  # nothing is merged: the jobs know what they were told then
    found = _compare(results, wanted_of(wanted, backbones), slices, former)
    removed = sorted(_ids_before(before, results) - {entry["video_id"] for entry in slices.values()})
    merges = _merges_again(wanted, results)
    # Other shards are other inputs of a matrix. Of a large file Snakemake does not compare the content: a new one is
    # another.
    other_inputs = dealt_anew or (bool(merges) and _is_large(results.index))
    assemble = [
        chosen.folder
        for chosen in backbones
        if other_inputs or not _is_assembled(results.backbone(chosen.folder), wanted, chosen)
    ]
    remade = {
        chosen.folder
        for chosen in backbones
        if rows_changed or removed or chosen.folder in assemble
        or not _holds_all(results.backbone(chosen.folder), found)
        or any(
            chosen.folder in (*video.extract, *video.taken) and chosen.folder not in video.lost
            for video in found
        )
    }  # fmt: skip
    videos = [video if video.is_due(remade) else video.as_it_lies() for video in found]
    finals = [
        path
        for chosen in backbones
        for path in results.backbone(chosen.folder).assembled_files(wanted.dataset)
    ]
    return Changes(
        dataset=wanted.dataset,
        results=str(results.root),
        merges=merges,
        redraws=results.report.is_file()
        and all(path.is_file() for path in finals)
        and draws_again(results, wanted.dataset, [chosen.folder for chosen in backbones]),
        sample={video.video_id: video.sample for video in videos if video.sample},
        extract={
            chosen.folder: {
                video.video_id: video.extract[chosen.folder]
                for video in videos
                if chosen.folder in video.extract
            }
            for chosen in backbones
        },
        taken_over={video.video_id: video.same_as for video in videos if video.same_as},
        removed=removed,
        videos=len(videos),
        rows_changed=rows_changed,
        assemble=assemble,
        refused={
            video.video_id: problems
            for video in videos
            if wanted.on_bad_frames == "fail"
            and (problems := unread.get(video.video_id) or ([] if video.sample else list(video.problems)))
        },
        missing=[str(path) for path in (*results.of_the_merge, *finals, results.report) if not path.exists()],
        lost=[
            words
            for video in found
            if not video.is_due(remade)
            for words in dict.fromkeys(itertools.chain(*video.lost.values()))
        ],
        weights=[
            str(file)
            for chosen in backbones
            if not chosen.is_local
            and not (file := results_root.parent / chosen.weights_file).is_file()
            and any(chosen.folder in video.extract for video in videos)
        ],
        damaged=[
            sentence
            for chosen in backbones
            for sentence in _damaged(results.backbone(chosen.folder), wanted.dataset)
        ],
    )


def _compare(
    results: layout.ResultsFolder, asked: Wanted, slices: Mapping[str, Slice], former: Former
) -> list["_VideoChanges"]:
    """Of each video what is to be done."""
    return [
        _VideoChanges.of(entry, asked, needs.of_video(results, asked, key, entry, former.get(key)))
        for key, entry in slices.items()
    ]


def _ids_before(before: Mapping[str, Slice], results: layout.ResultsFolder) -> set[str]:
    """The videos of the last merge; where its results are lost (a merge that failed), those of the matrices."""
    if before:
        return {entry["video_id"] for entry in before.values()}
    found: set[str] = set()
    for folder in results.assembled():
        with contextlib.suppress(UserError):  # one that is not whole is made again, and tells nothing
            found |= {entry["video_id"] for entry in read_manifest(folder.manifest)["videos"]}
    return found


def _holds_all(folder: layout.BackboneFolder, videos: Sequence["_VideoChanges"]) -> bool:
    """Whether the matrix has rows of each of the videos of which a file is lost: else they are new."""
    lost = {video.video_id for video in videos if folder.root.name in video.lost}
    return not lost or lost <= {entry["video_id"] for entry in read_manifest(folder.manifest)["videos"]}


def videos_done(wanted: settings.Settings, results: layout.ResultsFolder) -> tuple[int, int]:
    """How many of the videos that were merged last have their features of every backbone, and how many there are."""
    asked = wanted_of(wanted, chosen_backbones(wanted))
    slices = Merged(results).slices
    todo = sum(bool(needs.of_video(results, asked, key, entry).embed) for key, entry in slices.items())
    return len(slices) - todo, len(slices)


def backbones_due(wanted: settings.Settings, results: layout.ResultsFolder) -> set[str]:
    """The folders of the backbones with which a run embeds one of the videos that were merged last; before the first
    merge, those whose matrix is to be made."""
    backbones = chosen_backbones(wanted)
    found = _compare(results, wanted_of(wanted, backbones), Merged(results).slices, read_former(results))
    remade = {
        chosen.folder
        for chosen in backbones
        if not all(path.is_file() for path in results.backbone(chosen.folder).assembled_files(wanted.dataset))
        or not _holds_all(results.backbone(chosen.folder), found)
    }
    if not found:
        return remade
    return {
        folder for video in found for folder in video.folders if folder in remade or folder not in video.lost
    }


def _merge_aside(
    wanted: settings.Settings, results: layout.ResultsFolder
) -> tuple[dict[str, Slice], dict[str, list[str]], Former, bool, bool]:
    """What a merge writes now: the slices, by key; why files cannot be read, by id; and which videos had other names.
    And whether its index differs from the one that lies there, and whether its shards have other videos."""
    with tempfile.TemporaryDirectory(prefix="framefeat-plan-") as folder:
        aside = layout.ResultsFolder(Path(folder))
        if results.fingerprints.is_file():
            shutil.copy(results.fingerprints, aside.fingerprints)
        with contextlib.redirect_stderr(io.StringIO()):
            merge.merge(wanted, aside.root, workers=4, stored_in=results)
        unread = {
            record["video_id"]: [record["error"]]
            for shard in aside.shard_names()
            for record in read_records(aside, shard).values()
            if record["error"]
        }
        merged, before = Merged(aside), Merged(results)
        dealt_anew = bool(before.shard_of) and merged.shard_of != before.shard_of
        return merged.slices, unread, read_former(aside), _rows_differ(aside.index, results), dealt_anew


@dataclass(frozen=True)
class _VideoChanges:
    """Reasons to sample a video and, by backbone folder, to embed it; ``problems``: of what lies there and stays.
    ``lost``: by backbone folder, the files that are not there, where nothing else speaks against its features.
    ``same_as``: the video whose results are taken over, if there is one, for the backbones ``taken``."""

    video_id: str
    sample: list[str]
    extract: Mapping[str, list[str]]
    problems: Sequence[str]
    lost: Mapping[str, list[str]]
    same_as: str
    taken: Collection[str]

    @classmethod
    def of(cls, entry: Slice, asked: Wanted, found: Needs) -> "_VideoChanges":
        decode = list(dict.fromkeys(itertools.chain(*found.decode.values())))
        sources = [*found.evidence_from.values(), *found.features_from.values()]
        taken = {
            backbone.folder
            for backbone in asked.backbones
            if backbone.folder in found.features_from or backbone.geometry in found.evidence_from
        }
        return cls(
            entry["video_id"],
            decode,
            found.embed,
            found.problems,
            found.gone,
            sources[0].video_id if sources else "",
            taken,
        )

    @property
    def folders(self) -> set[str]:
        """The backbones whose features it lacks."""
        return {*self.extract, *self.taken}

    def is_due(self, remade: Collection[str]) -> bool:
        """Whether this is to be done in a run that makes the matrices ``remade``: files alone that are not there are
        no reason for Snakemake."""
        return any(folder in remade or folder not in self.lost for folder in self.folders)

    def as_it_lies(self) -> "_VideoChanges":
        return replace(self, sample=[], extract={}, same_as="", taken=())


def _damaged(folder: layout.BackboneFolder, dataset: str) -> Iterator[str]:
    """What is wrong with a matrix, its index and manifest, where all are there."""
    if all(path.is_file() for path in folder.assembled_files(dataset)):
        try:
            run = FinishedRun.of(folder.root)
            run.check(run.map_matrix(), run.read_index(["video_id"]).num_rows)
        except UserError as error:
            yield str(error)


def _is_assembled(folder: layout.BackboneFolder, wanted: settings.Settings, chosen: ChosenBackbone) -> bool:
    """Whether a matrix, whole with its index and manifest, lies there that says of itself what one made now would."""
    head = read_manifest_head(folder.manifest)
    files = folder.assembled_files(wanted.dataset)
    if not all(path.is_file() for path in files):
        return False
    if head is None:  # not whole, and there: nothing that Snakemake sees
        return True
    now = {"on_bad_frames": wanted.on_bad_frames, "spec": json.loads(chosen.label_json)}
    if "source" in head:  # not by hand
        now |= origin(wanted, chosen.spec)
    return all(head.get(name) == value for name, value in now.items())


def _is_large(index: Path) -> bool:
    return index.is_file() and index.stat().st_size > SNAKEMAKE_COMPARES_CONTENT


def _merges_again(wanted: settings.Settings, results: layout.ResultsFolder) -> list[str]:
    """Why Snakemake finds that tables, files or keys are others than the last merge met; empty where it does not. Of a
    merge made by hand it is not known."""
    if lacks_shards(results) or not all(path.exists() for path in results.of_the_merge):
        return ["files of the last merge are not there"]
    try:
        asked = read_json(results.merged)
    except (OSError, ValueError):
        return []
    if not isinstance(asked, dict):
        return ["files of the last merge are not whole"]
    now = asked_of_merge(wanted, stat_digest(wanted, results.root))
    changed = [name for name in {**asked, **now} if name not in asked or asked[name] != now.get(name)]
    return [reason for name in changed for reason in _reasons_to_merge(name, results)]


def _reasons_to_merge(name: str, results: layout.ResultsFolder) -> Iterator[str]:
    """``name``: a member of ``asked_of_merge`` that is another."""
    if name == "drop":
        yield "on_bad_frames changed"
    elif name != "collection":
        yield f"{name} changed"
    elif unread := unread_files(results.root):
        more = f" and {len(unread) - _FILES_NAMED} more" if len(unread) > _FILES_NAMED else ""
        named = ", ".join(map(repr, unread[:_FILES_NAMED])) + more
        yield f"files that could not be read are looked at again by each run ({named})"
    else:
        yield "a table or a file came, went or changed (its size, time, permissions or place on the disk)"


def _rows_differ(new: Path, results: layout.ResultsFolder) -> bool:
    """Whether the rows are others than those that were merged last; where that index is lost, than the matrices'."""
    table = read_parquet(new, advice=MERGE_AGAIN)
    if results.index.is_file():
        return not table.equals(read_parquet(results.index, advice=MERGE_AGAIN))
    columns = json.loads(table.schema.metadata[merge.COLUMNS])
    olds = [folder.frame_index for folder in results.assembled() if folder.frame_index.is_file()]
    return not olds or not all(_holds(old, table.select(columns)) for old in olds)


def _holds(index: Path, rows: "pa.Table") -> bool:
    try:
        return bool(read_parquet(index, rows.column_names, advice="").equals(rows))
    except UserError:
        return False


def sentences(changes: Changes, at: Path = Path()) -> Iterator[str]:
    """The changes as lines of text, the costly ones first. ``at``: where the results lie, seen from the reader."""
    if changes.nothing:
        yield (
            f"{changes.dataset}: Nothing to be done: the results of {many(changes.videos, 'video')} are up to date."
        )
        for path in changes.lost:
            how = "not whole; delete it, and it" if Path(path).exists() else "not there; it"
            yield f"  {at / path} is {how} is made again with the next matrix"
        yield from (f"  {sentence}" for sentence in changes.damaged)
        return
    yield f"{changes.dataset}:"
    yield from changes.damaged
    # Before the first run it would be the whole list.
    if len(changes.sample) < changes.videos:
        yield from (f"{at / path} is not there" for path in changes.missing)
        if changes.merges:
            yield f"The index will be merged again: {'; '.join(changes.merges)}."
    if not changes.assembles:
        yield "The report will be drawn; no video is decoded or embedded."
        return
    yield from _listed(changes.sample, changes.videos, "will be decoded")
    for folder, videos in changes.extract.items():
        yield from _listed(videos, changes.videos, f"will be embedded with {folder}")
    if changes.taken_over:
        have = "has" if len(changes.taken_over) == 1 else "have"
        yield f"{len(changes.taken_over)} of {many(changes.videos, 'video')} {have} the content of another, whose results are taken over:"
        for video_id, other in sorted(changes.taken_over.items()):
            yield f"  {video_id}: as {other}"
    if changes.removed:
        results = shlex.quote(str(at / changes.results))
        yield f"leaving the matrix: {', '.join(changes.removed)}"
        yield f"  the files stay until, after that run: framefeat stale {results} --delete"
    for path in changes.weights:
        yield f"{at / path} is not there: it will be copied from the library's own cache, or downloaded"
    if changes.refused:
        have = "has" if len(changes.refused) == 1 else "have"
        yield f"on_bad_frames is fail, and {many(len(changes.refused), 'video')} {have} bad rows: no matrix will be assembled."
        for video_id, problems in sorted(changes.refused.items()):
            yield f"  {video_id}: {problems[0]}"
        yield "  replace these files, or run with on_bad_frames=mask as well (or drop: files without a video are left out)"
    else:
        yield "The matrix and its manifest will be assembled, and the report drawn."


def _listed(videos: Mapping[str, Sequence[str]], of: int, what: str) -> Iterator[str]:
    """``videos``: their reasons."""
    yield f"{len(videos)} of {many(of, 'video')} {what}{':' if videos else ''}"
    for video_id, reasons in sorted(videos.items()):
        yield f"  {video_id}: {'; '.join(reasons)}"


def run(
    configfiles: Sequence[Path] = (),
    entries: Sequence[str] = (),
    *,
    directory: Path | None = None,
    as_json: bool = False,
    wanted_alone: bool = False,
    section: str | None = None,
    prefix: Path = Path(),
) -> None:
    """``directory``: where Snakemake works; files that are named here are meant from where the command is called.
    ``section``: the part of the configuration that is meant; ``prefix``: below which a module's files lie."""
    configfiles = [path.absolute() for path in configfiles]
    if directory is not None:
        try:
            os.chdir(directory)
        except OSError as error:
            raise UserError(f"--directory {str(directory)!r}: {error.strerror}.") from None
    config = configuration(configfiles, entries)
    if section is not None:
        if not isinstance(config.get(section), dict):
            raise UserError(
                f"--section {section!r}: the configuration has no such part; name one of {sorted(config)}."
            )
        config = config[section]
    if wanted_alone:
        resolved = settings.resolve(config)
        print(wanted_of(resolved, chosen_backbones(resolved)).to_json())
        return
    changes = find(config, prefix / "results")
    if as_json:
        print(json.dumps(vars(changes), indent=1))
        return
    for line in sentences(changes, directory or Path()):
        print(line)
