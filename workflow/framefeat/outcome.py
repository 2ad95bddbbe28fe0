"""The last lines of a run: what came out, or what failed and how to go on."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from framefeat.files import read_json

_MOST = 20


def lines(results: Path, backbones: Sequence[str]) -> Iterator[str]:
    """One line per backbone and one for each video with bad rows (the first 20)."""
    for folder in backbones:
        path = results / folder / "feature_manifest.json"
        if not path.is_file():
            continue
        manifest = read_json(path)
        verified = "verified" if manifest["alignment_verified"] else "NOT verified"
        yield (
            f"{path.parent}/{manifest['dataset']}_features.npy: float32 ({manifest['total_frames']}, "
            f"{manifest['feature_dim']}), {len(manifest['videos'])} videos, alignment {verified}"
        )
        bad = [video for video in manifest["videos"] if video["counts"]["bad"]]
        if bad:
            yield f"{manifest['counts']['bad']} rows of {len(bad)} videos are bad (NaN in the matrix, 'bad' in the index):"
        for video in bad[:20]:
            yield f"  {video['video_id']}: {video['counts']['bad']} of {video['rows']} rows; {'; '.join(video['problems'][:1])}"
        if len(bad) > 20:
            yield f"  ... and {len(bad) - 20} more videos; the report lists them all"


def failures(logs: Iterable[Path], since: float, command: str) -> Iterator[str]:
    """For each job that failed since ``since`` (seconds since the epoch): what its log, somewhere in ``logs``, says last and
    where it lies; then ``command``, which goes on from there. What several jobs say is said once."""
    found: dict[str, list[Path]] = {}
    for path in (path for folder in logs if folder.is_dir() for path in sorted(folder.rglob("*.log"))):
        try:
            if path.stat().st_mtime < since:
                continue
            text = path.read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            continue
        place = text.rfind("framefeat ")
        if place >= 0 and (place == 0 or text[place - 1] == "\n") and ": " in text[place:]:
            found.setdefault(text[place:].partition(": ")[2], []).append(path)
    if not found:
        return
    yield f"{sum(map(len, found.values()))} job(s) failed:"
    for sentence, paths in list(found.items())[:_MOST]:
        yield from (f"  {line}" for line in _shortened(sentence.splitlines()))
        yield f"    log: {', '.join(map(str, paths[:_MOST]))}"
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
