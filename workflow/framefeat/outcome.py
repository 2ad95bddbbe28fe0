"""The last lines of a run: what came out, or what failed and how to go on."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from framefeat.files import read_json


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
        computed_by = manifest.get("computed_by", [])
        yield from sorted({warning for network in computed_by for warning in network["warnings"]})
        bad = [video for video in manifest["videos"] if video["counts"]["bad"]]
        if bad:
            yield f"{manifest['counts']['bad']} rows of {len(bad)} videos are bad (NaN in the matrix, 'bad' in the index):"
        for video in bad[:20]:
            yield f"  {video['video_id']}: {video['counts']['bad']} of {video['rows']} rows; {'; '.join(video['problems'][:1])}"
        if len(bad) > 20:
            yield f"  ... and {len(bad) - 20} more videos; the report lists them all"


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
