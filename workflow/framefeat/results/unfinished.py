"""What is known of the videos of a run that made no matrix."""

from collections.abc import Iterator

from framefeat import stored
from framefeat.errors import UserError, complain
from framefeat.layout import ResultsFolder
from framefeat.records import Evidence, FeatureRecord, Slice
from framefeat.shard_files import Merged
from framefeat.words import many

_ADVICE = (
    "'framefeat plan' with the run's configuration says what is missing; run Snakemake again for the rest."
)
_MEND = (
    "Replace these files and run again, or run with on_bad_frames=mask as well; 'framefeat plan' with the run's configuration "
    "says what else is missing."
)


def no_matrix(results: ResultsFolder, video_id: str | None = None) -> UserError:
    """The error for a person who asks for the results of ``results``, or for those of one video: which videos are the
    reason, as far as they were decoded."""
    heading = f"{results.root}: the last run of this data set made no matrix."
    slices = {
        key: entry
        for key, entry in Merged(results).slices.items()
        if video_id is None or entry["video_id"] == video_id
    }
    if video_id is not None and not slices:
        return complain(heading, [], f"It knows no video {video_id!r}. {_ADVICE}")
    found = {
        entry["video_id"]: problems
        for key, entry in slices.items()
        if (problems := list(dict.fromkeys(_problems(results, key, entry))))
    }
    if not found:
        said = "" if video_id is None else f"So far nothing speaks against {video_id!r}. "
        return complain(heading, [], said + _ADVICE)
    if video_id is not None:
        return complain(f"{heading} {video_id!r} has bad rows:", found[video_id], _MEND)
    have = "has" if len(found) == 1 else "have"
    return complain(
        f"{heading} {many(len(found), 'video')} {have} bad rows:",
        [f"{name!r}: {problems[0]}" for name, problems in found.items()],
        _MEND,
    )


def _problems(results: ResultsFolder, key: str, entry: Slice) -> Iterator[str]:
    """What is wrong with a video's rows, of the file that the last merge met."""
    for geometry in results.geometries():
        evidence: Evidence | None = stored.record_or_none(results.evidence(geometry, key))
        if evidence is not None and evidence["key"]["fingerprint"] == entry["fingerprint"]:
            yield from evidence["problems"]
            for backbone in results.with_features():
                record: FeatureRecord | None = stored.record_or_none(backbone.features(key))
                yield from (record.get("problems") or []) if record else []
