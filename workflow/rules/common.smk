# Configuration and input functions, and nothing else.
import gc
import json
import os
import re
import shlex
import sys
import time
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.io import contains_wildcard
from snakemake.jobs import Job
from snakemake.logging import logger

from framefeat import settings as configuration
from framefeat.backbone.chosen import chosen_backbones
from framefeat.errors import UserError
from framefeat.extract import devices
from framefeat.extract import stage as extract
from framefeat.index import collection as index
from framefeat.index import folder
from framefeat.results import assemble
from framefeat.run.progress import command_again
from framefeat.sample import stage as sampling

# The jobs of ten thousand videos are millions of objects, none of them garbage: looking through them takes a fifth of the time.
gc.set_threshold(100_000, 20, 100)


def checked(function, *arguments):
    """Call ``function``; what a person can mend ends the workflow with its sentence and no traceback."""
    try:
        return function(*arguments)
    except UserError as error:
        raise WorkflowError(str(error)) from None


# Snakemake (9.27) formats the path of a rule's conda file, and takes braces in it for names.
if "{" in str(workflow.basedir) or "}" in str(workflow.basedir):
    raise WorkflowError(
        f"{str(workflow.basedir)!r}: Snakemake cannot run a workflow in a folder with braces in its name; rename it."
    )
SETTINGS = checked(configuration.resolve, config)
# Where an input is gone, Snakemake takes the results that were once made from it for source files: nothing to be done.
if workflow.is_main_process:
    checked(configuration.check_index_files, SETTINGS)
BACKBONES = {chosen.folder: chosen for chosen in checked(chosen_backbones, SETTINGS)}
# What a rule names as a file cannot have braces that Snakemake takes for a wildcard; the videos and their folder can.
for path in (
    SETTINGS.frame_index,
    SETTINGS.video_index,
    SETTINGS.annotations,
    *(plan.weights_file for plan in BACKBONES.values()),
):
    if path and contains_wildcard(path):
        raise WorkflowError(
            f"{path!r}: Snakemake takes what stands in braces for a wildcard; rename the file."
        )

RESULTS = f"results/{SETTINGS.dataset}"
LOGS = f"logs/{SETTINGS.dataset}"
BENCHMARKS = f"benchmarks/{SETTINGS.dataset}"
REPORT = f"{RESULTS}/report.html"

RUN_BEGAN = time.time()
# The executor is not known yet when this is read; only one that hands jobs to others is given a number of them (--jobs).
RUNS_JOBS_HERE = workflow.is_main_process and workflow.global_resources["_nodes"].value is None
# --resources gpu=0: no GPU is touched, nor asked for.
GPUS = workflow.global_resources["gpu"].value if "gpu" in workflow.global_resources else None
DEVICE = "cpu" if GPUS == 0 else SETTINGS.device
# Where this machine runs the jobs torch is asked once, before the first of them, which devices it can use.
if RUNS_JOBS_HERE and (warning := checked(devices.settle, DEVICE)):
    logger.warning(warning)
# Where this machine runs the jobs and has no CUDA device, extraction is CPU work and must not wait for a GPU.
HAS_GPU = not RUNS_JOBS_HERE or bool(checked(devices.wanted, DEVICE))
GPU_PER_JOB = int(DEVICE != "cpu" and HAS_GPU)
if RUNS_JOBS_HERE and "gpu" not in workflow.global_resources:
    workflow.register_resource("gpu", 1)
# Videos whose temporary frames may wait on the disk for the device; 0: any number.
BACKLOG = (
    4 * (workflow.global_resources["_cores"].value or 8) if RUNS_JOBS_HERE and not SETTINGS.keep_frames else 0
)

# Embedders that the jobs of this process share end with it. Slurm's plugin runs one Snakemake for each job of a group inside
# another that lives as long as the Slurm job: there the outer one is the owner, and the group shares one embedder.
CLUSTER_JOB = "" if workflow.is_main_process else os.environ.get("SLURM_JOB_ID", "")
if not CLUSTER_JOB or os.environ.get("FRAMEFEAT_OWNER_JOB") != CLUSTER_JOB:
    os.environ.update(FRAMEFEAT_OWNER=devices.process_identity(os.getpid()), FRAMEFEAT_OWNER_JOB=CLUSTER_JOB)
# The jobs of a group run one after the other there, so that a group needs what one of them needs, for the sum of their times.
if workflow.is_main_process and not RUNS_JOBS_HERE:
    workflow.register_resource("turn", 1)


resource_scopes:
    turn="local",


# Where this process runs the jobs itself, the first of them lets the embedder load while videos are decoded.
if RUNS_JOBS_HERE and SETTINGS.warm_embedder:
    first = next(iter(BACKBONES.values()))
    os.environ.update(
        FRAMEFEAT_PREWARM=json.dumps(
            {
                "device": DEVICE,
                "gpus": GPU_PER_JOB,
                "logs": f"{LOGS}/embedder",
                "spec": first.spec_json,
                "weights": os.path.abspath(first.weights_file),
                "weights_identity": first.weights_identity,
                "precision": SETTINGS.precision,
            }
        )
    )
# The environment's own commands come first, however snakemake itself was found.
os.environ.update(PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


wildcard_constraints:
    video="[^/]+",
    backbone="|".join(map(re.escape, BACKBONES)),
    geometry="[^/]+",


def options(**values):
    """Command line options, quoted; those whose value is None are left out."""
    return " ".join(
        f"--{name.replace('_', '-')} {shlex.quote(str(value))}"
        for name, value in values.items()
        if value is not None
    )


def matrices():
    return expand(
        "{results}/{backbone}/{file}",
        results=RESULTS,
        backbone=BACKBONES,
        file=[f"{SETTINGS.dataset}_features.npy", "frame_index.parquet", "feature_manifest.json"],
    )


def without_rate_limit():
    """Snakemake limits itself to 100 job starts a second by default. Its way to do so (9.27) sets a timer at each look at the
    ready jobs that looks again and sets another: they add up to a core's whole time. Called while the jobs are worked out,
    when the settings are there and the scheduler is not yet."""
    scheduling = workflow.scheduling_settings
    limit = scheduling and scheduling.max_jobs_per_timespan
    if limit and (limit.max_jobs, limit.timespan) == (100, 1):
        scheduling.max_jobs_per_timespan = None


# No rule here has pipes or services. Whether an input is one Snakemake (9.27) asks for each file of a job by going through all
# jobs that it depends on: a minute before assemble begins at 10,000 videos, two hours at 100,000.
Job.is_pipe_or_service_input = lambda job, path: False


def index_files(wildcards):
    without_rate_limit()
    return [] if SETTINGS.from_folder else [SETTINGS.frame_index, SETTINGS.video_index]


def export_sources(wildcards):
    """Files that are gone are not named here, so that the export runs and complains of them."""
    named = [SETTINGS.annotations, SETTINGS.export_segments_from, SETTINGS.export_labels_from]
    paths = [Path(name) for name in named if name]
    files = [[path] if path.is_file() else sorted(path.glob("*.mat")) for path in paths]
    return [str(file) for some in files for file in some]


def collection(wildcards):
    """Tells a replaced file even where its time is older than the results."""
    return index.stat_digest(SETTINGS, Path(RESULTS))


def video_keys():
    """The videos that have rows, once merge_index has run and the weights are there: without them no video is decoded."""
    for file, plan in FETCHED.items():
        # Only where it is missing: each checkpoint costs a look at the jobs of all videos.
        if not os.path.isfile(plan.weights_file):
            checkpoints.fetch_weights.get(file=file)
    slices = Path(checkpoints.merge_index.get().output.slices)
    # Snakemake keeps a time stamp of its own in the folder.
    return sorted(path.stem for path in slices.glob("*.json") if not path.name.startswith("."))


def parts_of_backbone(wildcards):
    """Everything that assemble reads of each video."""
    keys = video_keys()
    geometry = BACKBONES[wildcards.backbone].geometry
    return (
        [f"{RESULTS}/evidence/{geometry}/{key}.json" for key in keys]
        + [f"{RESULTS}/{wildcards.backbone}/features/{key}.npy" for key in keys]
        + [f"{RESULTS}/{wildcards.backbone}/features/{key}.json" for key in keys]
    )


def features_of_part(wildcards):
    """The features of every parts-th video."""
    part, parts = int(wildcards.part), int(wildcards.parts)
    if not 1 <= part <= parts:
        raise WorkflowError(f"There is no part {part} of {parts}: count from 1 to {parts}.")
    return expand(
        "{results}/{backbone}/features/{video}.npy",
        results=RESULTS,
        backbone=BACKBONES,
        video=video_keys()[part - 1 :: parts],
    )


def leave_the_others_their_turn():
    """Inside a cluster job: a video that fails does not end its group (Snakemake hands no --keep-going on to its jobs)."""
    if not workflow.is_main_process and workflow.execution_settings is not None:
        workflow.execution_settings.keep_going = True


def remote_video(wildcards):
    """The video itself where it lies behind an address: fetched for the job by a storage plugin, and not kept."""
    leave_the_others_their_turn()
    record = Path(RESULTS) / "videos" / f"{wildcards.video}.json"
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
        "frames": f"{RESULTS}/frames/{geometry}/{wildcards.video}.npy",
        "recheck": f"{RESULTS}/rechecks/{geometry}/{wildcards.video}.npy",
        "evidence": f"{RESULTS}/evidence/{geometry}/{wildcards.video}.json",
    }


def weights_of(wildcards):
    # Replaced weights are told by their digest (a parameter), not by their time.
    return ancient(BACKBONES[wildcards.backbone].weights_file)


def kept_if_asked(path):
    return path if SETTINGS.keep_frames else temp(path)


# Published weights, by their file's name; local files are nobody's output.
FETCHED = {Path(plan.weights_file).name: plan for plan in BACKBONES.values() if not plan.is_local}


def weights_source(wildcards):
    """Options of fetch-weights for one file of resources/weights."""
    spec = FETCHED[wildcards.file].spec
    weights = spec["weights"] if spec["kind"] == "enum" else None
    return f"{shlex.quote(spec['name'])} {options(weights=weights)}"


def remarks_of_exports():
    """What a person must know of the files that this run exported."""
    from framefeat.summaries import export_h5

    for backbone in BACKBONES:
        path = Path(RESULTS) / backbone / f"{SETTINGS.dataset}.h5"
        if path.is_file() and path.stat().st_mtime >= int(RUN_BEGAN):
            for remark in export_h5.remarks(path):
                yield f"{path}: {remark}"


def print_outcome():
    """What a person wants to know at the end of a run, the rows that are bad first of all."""
    from framefeat.run import outcome

    for line in outcome.lines(Path(RESULTS), list(BACKBONES)):
        logger.info(line)
    for line in remarks_of_exports():
        logger.info(line)


def print_failures():
    """What failed, why, and how to go on."""
    from framefeat.run import outcome

    logs = [Path(LOGS), Path("logs/fetch_weights")]
    for line in outcome.failures(logs, RUN_BEGAN, command_again(sys.argv)):
        logger.error(line)
