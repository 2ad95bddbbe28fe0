# Input functions, and functions of parameters that need the inputs.
import json
import os
import shlex
from pathlib import Path

from snakemake.exceptions import WorkflowError

from framefeat.index import collection as index


def matrices():
    """The three files of each backbone's results."""
    return [
        path
        for result in map(RESULTS.backbone, BACKBONES)
        for path in (result.matrix(SETTINGS.dataset), result.frame_index, result.manifest)
    ]


def index_files(wildcards):
    without_rate_limit()
    return [] if SETTINGS.from_folder else [not_moved(SETTINGS.frame_index), not_moved(SETTINGS.video_index)]


def export_sources(wildcards):
    """Files that are gone are not named here, so that the export runs and complains of them."""
    named = [SETTINGS.annotations, SETTINGS.export_segments_from, SETTINGS.export_labels_from]
    paths = [Path(name) for name in named if name]
    files = [[path] if path.is_file() else sorted(path.glob("*.mat")) for path in paths]
    return [not_moved(str(file)) for some in files for file in some]


def collection(wildcards):
    """Tells a replaced file even where its time is older than the results."""
    return index.stat_digest(SETTINGS, MOVED_RESULTS.root)


def video_keys():
    """The videos that have rows, once merge_index has run and the weights are there: without them no video is
    decoded."""
    for file, chosen in FETCHED.items():
        # Only where it is missing: each checkpoint costs a look at the jobs of all videos.
        if not os.path.isfile(moved(chosen.weights_file)):
            checkpoints.fetch_weights.get(file=file)
    merged = checkpoints.merge_index.get().output
    return layout.ResultsFolder(Path(merged.slices).parent).video_keys()


def parts_of_backbone(wildcards):
    """Everything that assemble reads of each video."""
    keys = video_keys()
    geometry, result = BACKBONES[wildcards.backbone].geometry, RESULTS.backbone(wildcards.backbone)
    return (
        [RESULTS.evidence(geometry, key) for key in keys]
        + [result.features(key) for key in keys]
        + [result.record(key) for key in keys]
    )


def features_of_part(wildcards):
    """The features of every parts-th video."""
    part, parts = int(wildcards.part), int(wildcards.parts)
    if not 1 <= part <= parts:
        raise WorkflowError(f"There is no part {part} of {parts}: count from 1 to {parts}.")
    keys = video_keys()[part - 1 :: parts]
    return [result.features(key) for result in map(RESULTS.backbone, BACKBONES) for key in keys]


def remote_video(wildcards):
    """The video itself where it lies behind an address: fetched for the job by a storage plugin, and not kept."""
    leave_the_others_their_turn()
    record = MOVED_RESULTS.video(wildcards.video)
    address = json.loads(record.read_text(encoding="utf-8"))["path"] if record.is_file() else ""
    if not index.is_remote(address):
        return []
    try:
        return storage(address)
    except WorkflowError:
        raise WorkflowError(
            f"{wildcards.video}: no storage plugin for {address!r} is installed in this environment; "
            "'make env-slurm' makes one that has http(s); docs/cluster.md says how to add others."
        ) from None


def frames_of(wildcards):
    leave_the_others_their_turn()
    geometry = BACKBONES[wildcards.backbone].geometry
    return {
        "frames": RESULTS.frames(geometry, wildcards.video),
        "recheck": RESULTS.recheck(geometry, wildcards.video),
        "evidence": RESULTS.evidence(geometry, wildcards.video),
    }


def weights_of(wildcards):
    # Replaced weights are told by their digest (a parameter), not by their time.
    chosen = BACKBONES[wildcards.backbone]
    return ancient(not_moved(chosen.weights_file) if chosen.is_local else chosen.weights_file)


def kept_if_asked(path):
    return path if SETTINGS.keep_frames else temp(path)


def weights_source(wildcards):
    """Options of fetch-weights for one file of resources/weights."""
    spec = FETCHED[wildcards.file].spec
    weights = spec["weights"] if spec["kind"] == "enum" else None
    return f"{shlex.quote(spec['name'])} {options(weights=weights)}"
