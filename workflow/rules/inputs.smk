# Input functions, and functions of parameters that need the inputs.
import json
import os
import shlex
from pathlib import Path

from snakemake.exceptions import WorkflowError

from framefeat.files import is_remote
from framefeat.index import stamp
from framefeat.results.origin import origin


def matrices():
    """The three files of each backbone's results."""
    return [
        path
        for result in map(RESULTS.backbone, BACKBONES)
        for path in result.assembled_files(SETTINGS.dataset)
    ]


def index_files(wildcards):
    without_rate_limit()
    return [] if SETTINGS.from_folder else [not_moved(SETTINGS.frame_index), not_moved(SETTINGS.video_index)]


def export_sources(wildcards):
    """Files that are gone are not named here, so that the export runs and complains of them."""
    from framefeat.summaries.annotations import files_of_summe

    named = [SETTINGS.annotations, SETTINGS.export_segments_from, SETTINGS.export_labels_from]
    paths = [Path(name) for name in named if name]
    files = [files_of_summe(path) if path.is_dir() else [path] for path in paths if path.exists()]
    return [not_moved(str(file)) for some in files for file in some]


def content_of_export_sources(wildcards):
    """Tells a replaced file even where its time is older than the export."""
    return stamp.contents(map(str, export_sources(wildcards)))


def collection(wildcards):
    """Tells a replaced file even where its time is older than the results."""
    return stamp.stat_digest(SETTINGS, MOVED_RESULTS.root)


def weights_to_come():
    """Published weights that are not there and that a run of what was merged last needs: without them no video is
    decoded."""
    lacking = {
        folder: chosen.weights_file
        for folder, chosen in BACKBONES.items()
        if not chosen.is_local and not os.path.isfile(moved(chosen.weights_file))
    }
    if not lacking:
        return []
    from framefeat.run import plan

    due = checked(plan.backbones_due, SETTINGS, MOVED_RESULTS)
    return [path for folder, path in lacking.items() if folder in due]


def parts_of_backbone(wildcards):
    """What tells that everything is there that assemble reads.

    Where weights or files of the merge are to come, no more than they: a change of inputs, so that Snakemake makes them;
    and then it asks again, because checkpoints make them. An unfinished checkpoint (checkpoints.fetch_weights.get) would
    not do: where a matrix is there already, Snakemake then looks at nothing else of it, neither at its parameters, and
    has nothing to do."""
    lacking = [path for path in RESULTS.of_the_merge if not os.path.exists(moved(path))]
    if lacking := lacking + weights_to_come():
        return lacking
    checkpoint_of("merge_index", RESULTS.index).get()
    names = MOVED_RESULTS.shard_names()
    geometry, result = BACKBONES[wildcards.backbone].geometry, RESULTS.backbone(wildcards.backbone)
    parts = [RESULTS.sampled(geometry, shard) for shard in names] + [
        result.extracted(shard) for shard in names
    ]
    forget_failed_jobs(parts)
    return parts


def origin_json(backbone):
    """What the manifest says of where a matrix came from."""
    return json.dumps(origin(SETTINGS, BACKBONES[backbone].spec), ensure_ascii=False)


def remote_videos(wildcards):
    """The shard's videos that lie behind an address: fetched for the job by a storage plugin, and not kept."""
    record = MOVED_RESULTS.videos_of(wildcards.shard)
    videos = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    return [fetched(video) for video in videos.values() if is_remote(video["path"])]


def fetched(video):
    try:
        return storage(video["path"])
    except WorkflowError:
        raise WorkflowError(
            f"{video['video_id']}: no storage plugin for {video['path']!r} is installed in this environment; "
            "'make env-slurm' makes one that has http(s); docs/cluster.md says how to add others."
        ) from None


def frames_of(wildcards):
    geometry = BACKBONES[wildcards.backbone].geometry
    return {
        "sampled": RESULTS.sampled(geometry, wildcards.shard),
        "frames": RESULTS.frames_ready(geometry, wildcards.shard),
    }


def weights_of(wildcards):
    # Replaced weights are told by their digest (a parameter), not by their time.
    chosen = BACKBONES[wildcards.backbone]
    return ancient(not_moved(chosen.weights_file) if chosen.is_local else chosen.weights_file)


def kept_if_asked(path):
    return path if SETTINGS.keep_frames else temp(path)


def sample_options(wildcards):
    """Jobs do what a video needs; who forces them wants all their videos done again. To embed again takes frames."""
    again = is_forced(SAMPLE_FRAMES) or is_forced(EXTRACT_FEATURES)
    return KEEP_FRAMES + ("--again " if again else "")


def extract_options(wildcards):
    return KEEP_FRAMES + ("--again " if is_forced(EXTRACT_FEATURES) else "")


def weights_source(wildcards):
    """Options of fetch-weights for one file of resources/weights."""
    spec = FETCHED[wildcards.file].spec
    weights = spec["weights"] if spec["kind"] == "enum" else None
    return f"{shlex.quote(spec['name'])} {options(weights=weights)}"
