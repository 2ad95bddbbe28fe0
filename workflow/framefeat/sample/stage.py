"""The sampling stage: the videos of one shard, one after the other, as far as they are needed.

What is wrong with a file is a finding about its video, and no error. Trouble that is not a file's fails the job, after
the other videos are safe; the next run takes up what is missing."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from framefeat import needs, shard_files
from framefeat.errors import UserError, complain
from framefeat.files import file_sha256, is_remote, write_json
from framefeat.identity import evidence_digest
from framefeat.layout import ResultsFolder
from framefeat.records import Evidence, Slice, VideoRecord
from framefeat.settings import DEFAULTS


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
    sampled for want of room, memory or the like."""
    results, geometry = asked.results, asked.geometry
    records = _local(shard_files.read_records(results, asked.shard), asked.fetched)
    digests: dict[str, str] = {}
    sampled: list[int] = []  # rows of each
    troubles: list[str] = []
    for key, record in records.items():
        need = needs.of_video(results, asked.wanted, key, record)
        reasons = need.decode.get(geometry, ["asked for again"] if asked.again else [])
        if not reasons and record.get("content") not in (None, need.evidence[geometry].get("content")):
            reasons = ["the fetched file's content changed"]
        if not reasons:
            digests[key] = evidence_digest(need.evidence[geometry])
            continue
        before_each()
        try:
            digests[key] = evidence_digest(_sample(asked, key, record, reasons))
        except UserError as error:
            print(f"{record['video_id']}: {error}", file=sys.stderr, flush=True)
            troubles.append(str(error))
        else:
            sampled.append(record["rows"])
    print(shard_files.Work(len(sampled), len(records), sum(sampled)), file=sys.stderr, flush=True)
    if not asked.keep_frames:
        remove_spent_frames(results, asked.wanted, geometry, records)
    if len(troubles) == len(records) == 1:
        raise UserError(troubles[0])
    if troubles:
        raise complain(
            f"{len(troubles)} of the {len(records)} videos of this job could not be sampled; the others are done and kept:",
            troubles,
            "Run again when this is mended.",
        )
    rows = sum(record["rows"] for record in records.values())
    write_json(results.sampled(geometry, asked.shard), {"rows": rows, "videos": digests})
    write_json(results.frames_ready(geometry, asked.shard), {"videos": len(digests)})


def _sample(asked: SampleShard, key: str, record: VideoRecord, reasons: Sequence[str]) -> Evidence:
    _prepare()
    from framefeat.sample.video import sample_video

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
    results: ResultsFolder, wanted: needs.Wanted, geometry: str, slices: Mapping[str, Slice]
) -> None:
    """Remove frames that no backbone needs any more. Where two jobs end at once, the one that ends last removes
    them."""
    for key, entry in slices.items():
        paths = (results.frames(geometry, key), results.recheck(geometry, key))
        if any(path.is_file() for path in paths):
            need = needs.of_video(results, wanted, key, entry)
            if not need.frames_are_wanted(wanted, geometry):
                for path in paths:
                    path.unlink(missing_ok=True)


def _prepare() -> None:
    """Import once what every child needs. Linear algebra is not among it, so numpy's library starts no threads."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def _local(records: Mapping[str, VideoRecord], fetched: tuple[Path, ...]) -> dict[str, VideoRecord]:
    """``records`` with the places of files that were fetched for this job, each of them checked."""
    if not fetched:
        return dict(records)
    places: Iterator[Path] = iter(fetched)
    local = {}
    for key, record in records.items():
        if is_remote(record["path"]):
            # FFmpeg takes what stands before a colon for a protocol.
            record = _fetched({**record, "path": os.path.abspath(next(places))})
        local[key] = record
    return local


def _fetched(record: VideoRecord) -> VideoRecord:
    """``record`` of a file fetched for this job. It is what the index's column sha256 says; where that says nothing,
    the record tells its content from now on."""
    wanted, found = record["fingerprint"], file_sha256(record["path"])
    if wanted.startswith("address:"):
        return {**record, "content": found}
    if found != wanted:
        raise UserError(
            f"{record['video_id']!r}: the index says sha256 {wanted}, but {record['path']!r} has {found}; fetch it again."
        )
    return record
