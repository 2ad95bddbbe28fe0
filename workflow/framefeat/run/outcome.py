"""The last lines of a run: what came out, or what failed and how to go on."""

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from framefeat.files import read_json
from framefeat.index.folder import counted
from framefeat.layout import ResultsFolder
from framefeat.records import Manifest, VideoEntry
from framefeat.results import verdict
from framefeat.results.drawn import draws_again
from framefeat.results.finished import read_manifest
from framefeat.terminal import printable
from framefeat.words import many

#: How the sentence begins with which a command ends in its log, as the command line prints it.
_LAST_WORDS = re.compile(r"^framefeat [a-z0-9-]+: ", re.M)
_MOST = 20


def lines(results: Path, backbones: Sequence[str], at: Path = Path()) -> Iterator[str]:
    """For each backbone its verdict, then the videos that speak against it (the first 20 of a kind); files left out.
    ``at``: where Snakemake works, seen from where it was called."""
    for folder in backbones:
        files = ResultsFolder(results).backbone(folder)
        if not files.manifest.is_file():
            continue
        manifest = read_manifest(files.manifest)
        yield (
            f"{at / files.matrix(manifest['dataset'])}: float32 ({manifest['total_frames']}, "
            f"{manifest['feature_dim']}), {many(len(manifest['videos']), 'video')}, alignment {verdict.of_manifest(manifest)}"
        )
        computed_by = manifest.get("computed_by", [])
        yield from sorted({warning for network in computed_by for warning in network["warnings"]})
        yield from _against(manifest)
    left = left_out(results)
    if left.files:
        yield f"{many(len(left.files), 'file')} left out, without a row:"
        yield from _listed(left.files, lambda file: f"{file['path']}: {file['reason']}", "files")
    if left.counts:
        yield f"ignored, being no videos: {left.counted}"


def next_steps(
    results: ResultsFolder, dataset: str, backbones: Sequence[str], at: Path = Path()
) -> Iterator[str]:
    """Where to look at what came out; ``at`` as for ``lines``. An older report is none of these results."""
    files = [path for name in backbones for path in results.backbone(name).assembled_files(dataset)]
    if all(path.is_file() for path in files):
        if results.report.is_file() and not draws_again(results, dataset, backbones):
            yield f"report: {at / results.report}"
        yield f"next: framefeat show {shlex.quote(str(at / results.root))}"


@dataclass(frozen=True)
class LeftOutFiles:
    """What the merge did not take of a folder of videos: ``path`` and ``reason`` of each; by kind, what needs no
    naming."""

    files: list[dict[str, str]]
    counts: dict[str, int]
    examples: dict[str, list[str]]

    @property
    def counted(self) -> str:
        return counted(self.counts, self.examples)


def left_out(results: Path) -> LeftOutFiles:
    path = ResultsFolder(results).left_out
    if not path.is_file():
        return LeftOutFiles([], {}, {})
    found = read_json(path)
    return LeftOutFiles([*found["dropped"], *found["files"]], found["counts"], found.get("examples", {}))


def _against(manifest: Manifest) -> Iterator[str]:
    videos = manifest["videos"]
    bad = [video for video in videos if video["counts"]["bad"]]
    if bad:
        yield f"{many(manifest['counts']['bad'], 'bad row')} in {many(len(bad), 'video')} (NaN in the matrix, 'bad' in the index):"
        yield from _listed(
            bad, lambda video: f"{_bad_rows(video)}{'; '.join(video['problems'][:1])}", "videos"
        )
    unproven = [
        video
        for video in videos
        if verdict.of_manifest(video) == verdict.NOT_VERIFIED and not video["counts"]["bad"]
    ]
    if unproven:
        yield f"{many(len(unproven), 'video')} not verified (a second decode or embedding did not agree, or is missing):"
        yield from _listed(
            unproven, lambda video: f"{video['video_id']}: {'; '.join(video['warnings'][:1])}", "videos"
        )
    doubtful = [video for video in videos if video.get("doubts")]
    if doubtful:
        distance = verdict.distance((manifest.get("doubtful") or {}).get("max_abs_offset_sec"))
        yield f"{many(len(doubtful), 'video')} doubtful{f' ({distance})' if distance else ''}:"
        yield from _listed(
            doubtful, lambda video: f"{video['video_id']}: {'; '.join(video['doubts'])}", "videos"
        )


def _bad_rows(video: VideoEntry) -> str:
    return f"{video['video_id']}: {video['counts']['bad']} of {video['rows']} rows; "


def _listed(things: Sequence[Any], words: Callable[[Any], str], noun: str) -> Iterator[str]:
    for thing in things[:_MOST]:
        yield "  " + printable(words(thing)).rstrip(" :;")
    if len(things) > _MOST:
        yield f"  ... and {len(things) - _MOST} more {noun}; framefeat show lists them all"


def failures(logs: Iterable[Path], since: float, command: str, at: Path = Path()) -> Iterator[str]:
    """For each job that failed since ``since`` (seconds since the epoch): what its log, somewhere in ``logs``, says
    last and where it lies; then ``command``, which goes on from there. What several jobs say is said once. ``at`` as
    for ``lines``."""
    found: dict[str, list[Path]] = {}
    for path in (path for folder in logs if folder.is_dir() for path in sorted(folder.rglob("*.log"))):
        try:
            if path.stat().st_mtime < since:
                continue
            text = path.read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            continue
        if said := list(_LAST_WORDS.finditer(text)):
            found.setdefault(text[said[-1].end() :], []).append(path)
    if not found:
        return
    yield f"{many(sum(map(len, found.values())), 'job')} failed:"
    for sentence, paths in list(found.items())[:_MOST]:
        yield from (f"  {line}" for line in _shortened(sentence.splitlines()))
        yield f"    log: {', '.join(str(at / path) for path in paths[:_MOST])}"
    if len(found) > _MOST:
        yield f"  ... and {len(found) - _MOST} more"
    yield "What is done stays done. Mend the cause and go on:"
    yield f"  {command}"


def _shortened(lines: list[str]) -> list[str]:
    """A list's heading, its first items, and what to do."""
    items = [line for line in lines if line.startswith("  - ")]
    if len(items) <= _MOST:
        return lines
    last = lines.index(items[_MOST])
    rest = [line for line in lines[last:] if not line.startswith("  - ")]
    return [*lines[:last], f"  ... and {len(items) - _MOST} more; the log lists them all", *rest]
