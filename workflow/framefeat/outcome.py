"""The last lines of a run: what came out, or what failed and how to go on."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from framefeat import verdict
from framefeat.files import read_json

_LISTED = 20


def lines(results: Path, backbones: Sequence[str]) -> Iterator[str]:
    """For each backbone its verdict, then the videos that speak against it (the first 20 of a kind); files left out."""
    for folder in backbones:
        path = results / folder / "feature_manifest.json"
        if not path.is_file():
            continue
        manifest = read_json(path)
        yield (
            f"{path.parent}/{manifest['dataset']}_features.npy: float32 ({manifest['total_frames']}, "
            f"{manifest['feature_dim']}), {len(manifest['videos'])} videos, alignment {verdict.of_manifest(manifest)}"
        )
        yield from _against(manifest)
    left = left_out(results)
    if left.files:
        yield f"{len(left.files)} file(s) left out, no row is of them:"
        yield from _listed(left.files, lambda file: f"{file['path']}: {file['reason']}", "files")
    if left.counts:
        yield f"left out as no videos: {left.counted}"


@dataclass(frozen=True)
class LeftOut:
    """What the merge did not take of a folder of videos: ``path`` and ``reason`` of each; by kind, what needs no naming."""

    files: list[dict[str, str]]
    counts: dict[str, int]

    @property
    def counted(self) -> str:
        return ", ".join(f"{count} {kind}" for kind, count in self.counts.items())


def left_out(results: Path) -> LeftOut:
    path = results / "left_out.json"
    if not path.is_file():
        return LeftOut([], {})
    found = read_json(path)
    return LeftOut([*found["dropped"], *found["files"]], found["counts"])


def _against(manifest: Mapping[str, Any]) -> Iterator[str]:
    videos = manifest["videos"]
    bad = [video for video in videos if video["counts"]["bad"]]
    if bad:
        yield f"{manifest['counts']['bad']} rows of {len(bad)} video(s) are bad (NaN in the matrix, 'bad' in the index):"
        yield from _listed(
            bad, lambda video: f"{_rows_of(video)}{'; '.join(video['problems'][:1])}", "videos"
        )
    unproven = [
        video
        for video in videos
        if verdict.of_manifest(video) == verdict.NOT_VERIFIED and not video["counts"]["bad"]
    ]
    if unproven:
        yield f"{len(unproven)} video(s) not verified (a second decode or embedding did not agree, or is missing):"
        yield from _listed(
            unproven, lambda video: f"{video['video_id']}: {'; '.join(video['warnings'][:1])}", "videos"
        )
    doubtful = [video for video in videos if video.get("doubts")]
    if doubtful:
        far = (manifest.get("doubtful") or {}).get("max_abs_offset_sec")
        distance = "" if far is None else f" (rows up to {far:.3f} s from their frames)"
        yield f"{len(doubtful)} video(s) doubtful{distance}:"
        yield from _listed(
            doubtful, lambda video: f"{video['video_id']}: {'; '.join(video['doubts'])}", "videos"
        )


def _rows_of(video: Mapping[str, Any]) -> str:
    return f"{video['video_id']}: {video['counts']['bad']} of {video['rows']} rows; "


def _listed(things: Sequence[Any], words: Callable[[Any], str], noun: str) -> Iterator[str]:
    for thing in things[:_LISTED]:
        yield f"  {words(thing)}".rstrip(" :;")
    if len(things) > _LISTED:
        yield f"  ... and {len(things) - _LISTED} more {noun}; framefeat show lists them all"


def failures(logs: Path, since: float, command: str) -> Iterator[str]:
    """For each job that failed since ``since`` (seconds since the epoch): its log's last sentence and where it lies;
    then ``command``, which goes on from there."""
    found = []
    for path in sorted(logs.rglob("*.log")) if logs.is_dir() else ():
        try:
            if path.stat().st_mtime < since:
                continue
            text = path.read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            continue
        place = text.rfind("framefeat ")
        if place >= 0 and (place == 0 or text[place - 1] == "\n") and ": " in text[place:]:
            found.append((path, text[place:].partition(": ")[2]))
    if not found:
        return
    yield f"{len(found)} job(s) failed:"
    for path, sentence in found[:20]:
        first, *more = sentence.splitlines()
        yield f"  {first} {more[0].strip()}" if more and first.endswith(":") else f"  {first}"
        yield f"    log: {path}"
    if len(found) > 20:
        yield f"  ... and {len(found) - 20} more"
    yield (
        "What is done stays done. Mend the cause and go on (with --keep-going the other videos finish first; "
        "on_bad_frames: mask marks the rows of damaged videos instead):"
    )
    yield f"  {command}"
