"""The sampling stage: the videos of one shard, one after the other, as far as they are needed.

What is wrong with a file is a finding about its video, and no error. Trouble that is not a file's fails the job, after
the other videos are safe; the next run takes up what is missing.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from framefeat import needs, shard_files
from framefeat.errors import UserError, complain
from framefeat.files import file_sha256, is_remote, remove_half_made, write_json
from framefeat.identity import evidence_digest
from framefeat.layout import ResultsFolder
from framefeat.records import Evidence, Former, SampleJob, Slice, VideoRecord
from framefeat.sample.child import Child
from framefeat.sample.video import sample_video, sampling_child, tell_at_once
from framefeat.settings import DEFAULTS
from framefeat.words import many


@dataclass(frozen=True)
class SampleShard:
    """What a sampling job is asked for. ``wanted``: everything that the configuration asks of a video; frames are made
    of one ``geometry``.

    ``fetched``: files of the remote videos, in the order of their keys. ``again``: sample even what is sampled already.
    ``keep_frames``: whether frames that no backbone needs any more stay.
    """

    results: ResultsFolder
    shard: str
    geometry: str
    wanted: needs.Wanted
    timeout: float = DEFAULTS["decoder_timeout"]
    fetched: tuple[Path, ...] = ()
    again: bool = False
    keep_frames: bool = False


def run(asked: SampleShard, before_each: Callable[[], None] = lambda: None) -> None:
    """Sample what is to be sampled, and write down that the shard is done.

    ``before_each`` is called before a video is decoded. Raises ``UserError`` naming the videos that could not be
    sampled for want of room, memory or the like.
    """
    results, geometry = asked.results, asked.geometry
    records = shard_files.read_records(results, asked.shard)
    places = _places(records, asked.fetched)
    for folder in (results.frames(geometry, "any").parent, results.recheck(geometry, "any").parent):
        remove_half_made(folder, [f"{key}{end}" for key in records for end in (".npy", ".jpg")])
    former = {} if asked.again else shard_files.read_former(results)
    digests: dict[str, str] = {}
    sampled: list[int] = []  # rows of each
    taken_over: list[str] = []  # ids
    troubles: dict[str, UserError] = {}  # by id
    with sampling_child() as child:
        for key, record in records.items():
            try:
                evidence = _evidence(asked, key, record, former.get(key), places.get(key), before_each, child)
            except UserError as error:
                print(f"{record['video_id']}: {error}", file=sys.stderr, flush=True)
                troubles[record["video_id"]] = error
                continue
            digests[key] = evidence_digest(evidence.found)
            if evidence.is_new:
                sampled.append(record["rows"])
            if evidence.is_taken_over:
                taken_over.append(record["video_id"])
    if taken_over:
        tell_at_once(f"{_some(taken_over)}: as under another name before, nothing is decoded")
    print(shard_files.Work(len(sampled), len(records), sum(sampled)), file=sys.stderr, flush=True)
    if not (asked.keep_frames or asked.again):  # who asks again may want to embed again
        remove_spent_frames(results, asked.wanted, geometry, records, former)
    if len(troubles) == len(records) == 1:
        raise next(iter(troubles.values()))
    if troubles:
        raise complain(
            f"{len(troubles)} of the {len(records)} videos of this job could not be sampled; the others are done and kept:",
            [f"{video!r}: {error}" for video, error in troubles.items()],
            "Run again when this is mended.",
        )
    rows = sum(record["rows"] for record in records.values())
    write_json(results.sampled(geometry, asked.shard), {"rows": rows, "videos": digests})
    write_json(results.frames_ready(geometry, asked.shard), {"videos": len(digests)})


def _some(videos: Sequence[str]) -> str:
    return ", ".join(videos[:3]) + (f" and {many(len(videos) - 3, 'more video')}" if len(videos) > 3 else "")


@dataclass(frozen=True)
class _Known:
    """A video's evidence, and whether this job made it."""

    found: Evidence
    is_new: bool
    is_taken_over: bool = False


def _evidence(
    asked: SampleShard,
    key: str,
    record: VideoRecord,
    former: Mapping[str, Sequence[str]] | None,
    place: Path | None,
    before_each: Callable[[], None],
    child: Child[SampleJob],
) -> _Known:
    """``former``: the video's entry of ``records.Former``; ``place``: where its file was fetched to, if remote."""
    need = needs.of_video(asked.results, asked.wanted, key, record, former)
    reasons = need.decode.get(asked.geometry, ["asked for again"] if asked.again else [])
    if place is not None and not _is_identified(record):
        record = _local(record, place)
        if not reasons and record["content"] != need.evidence[asked.geometry].get("content"):
            reasons = ["the fetched file's content changed"]
    if not reasons:
        if source := need.evidence_from.get(asked.geometry):
            return _Known(_take_over(asked, key, record, source), is_new=False, is_taken_over=True)
        return _Known(need.evidence[asked.geometry], is_new=False)
    before_each()
    return _Known(_sample(asked, key, _local(record, place), reasons, child), is_new=True)


def _take_over(asked: SampleShard, key: str, record: VideoRecord, source: needs.Stored) -> Evidence:
    # Frames of another sampling would be taken for those of this evidence.
    for path in (asked.results.frames(asked.geometry, key), asked.results.recheck(asked.geometry, key)):
        path.unlink(missing_ok=True)
    return needs.take_over(source, asked.results.evidence(asked.geometry, key), record["video_id"])


def _sample(
    asked: SampleShard, key: str, record: VideoRecord, reasons: Sequence[str], child: Child[SampleJob]
) -> Evidence:
    _prepare()
    print(f"--- {record['video_id']}: {'; '.join(reasons)}", file=sys.stderr, flush=True)
    evidence = sample_video(
        record,
        geometry=asked.geometry,
        alignment=asked.wanted.alignment,
        decoder=asked.wanted.decoder,
        frames_path=asked.results.frames(asked.geometry, key),
        recheck_path=asked.results.recheck(asked.geometry, key),
        evidence_path=asked.results.evidence(asked.geometry, key),
        timeout=asked.timeout,
        child=child,
    )
    bad = evidence["rows"]["status"].count("bad")
    told = f", {bad} of them bad" if bad else ""
    print(
        f"{record['video_id']}: {record['rows']} rows by {evidence['decoder'] or 'no decoder'}{told}",
        file=sys.stderr,
        flush=True,
    )
    return evidence


def remove_spent_frames(
    results: ResultsFolder,
    wanted: needs.Wanted,
    geometry: str,
    slices: Mapping[str, Slice],
    former: Former,
) -> None:
    """Remove frames that no backbone needs any more. Where two jobs end at once, the one that ends last removes
    them."""
    for key, entry in slices.items():
        paths = (results.frames(geometry, key), results.recheck(geometry, key))
        if any(path.is_file() for path in paths):
            need = needs.of_video(results, wanted, key, entry, former.get(key))
            if not need.frames_are_wanted(wanted, geometry):
                for path in paths:
                    path.unlink(missing_ok=True)


def _prepare() -> None:
    """Import once what every child needs. None of it starts a thread, which a fork would lose."""
    # Nothing here needs linear algebra, and numpy's library would start a thread for each core.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    import av  # noqa: F401
    import PIL.JpegImagePlugin  # noqa: F401

    from framefeat.sample import attempt  # noqa: F401
    from framefeat.video.decord import import_decord

    import_decord()


def _places(records: Mapping[str, VideoRecord], fetched: Sequence[Path]) -> dict[str, Path]:
    """Where the files lie that were fetched for this job, by key."""
    remote = [key for key, record in records.items() if is_remote(record["path"])]
    if fetched and len(fetched) != len(remote):
        raise UserError(
            f"--fetched names {len(fetched)} files, and {len(remote)} videos of this shard are remote."
        )
    return dict(zip(remote, fetched, strict=False))


def _is_identified(record: VideoRecord) -> bool:
    """Whether the index says what the content of a remote file is."""
    return not record["fingerprint"].startswith("address:")


def _local(record: VideoRecord, place: Path | None) -> VideoRecord:
    """``record`` with the place of its file here, and with its content where the index says nothing of it. Raises
    ``UserError`` where a remote file is not here, or is not what the index's column sha256 says."""
    address, wanted = record["path"], record["fingerprint"]
    if not is_remote(address):
        return record
    if place is None:
        raise UserError(
            f"{address!r} was not fetched for this job; run Snakemake with --forcerun sample_frames."
        )
    # FFmpeg takes what stands before a colon for a protocol.
    path = os.path.abspath(place)
    found = file_sha256(path)
    if not _is_identified(record):
        return {**record, "path": path, "content": found}
    if found != wanted:
        raise UserError(
            f"the index says sha256 {wanted} of {address!r}, but {path!r} has {found}; fetch it again."
        )
    return {**record, "path": path}
