# The configuration of this run, and what follows from it and from the machine. rules/inputs.smk has the input
# functions.
import json
import os
import re
import shlex
import shutil
import sys
import time
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

from framefeat import identity, layout, shard_files
from framefeat import settings as configuration
from framefeat.backbone.chosen import chosen_backbones, wanted_of
from framefeat.errors import UserError
from framefeat.extract import devices
from framefeat.run.progress import command_shown, given_twice
from framefeat.summaries.export_target import refuse_own_sources


def checked(function, *arguments):
    """Call ``function``; what a person can mend ends the workflow with its sentence and no traceback."""
    try:
        return function(*arguments)
    except UserError as error:
        raise WorkflowError(str(error)) from None


def options(**values):
    """Command line options, quoted; those whose value is None are left out. A value may begin with ``-``."""
    return " ".join(
        shlex.quote(f"--{name.replace('_', '-')}={value}")
        for name, value in values.items()
        if value is not None
    )


if workflow.is_main_process and not IS_MODULE and (twice := given_twice(sys.argv[1:])):
    raise WorkflowError(
        f"{twice} is given twice, and Snakemake takes the last alone: name all its values after one {twice}."
    )
SETTINGS = checked(configuration.resolve, config)
# Where an input is gone, Snakemake takes the results that were once made from it for source files: nothing to be done.
# Around a module there may be rules that make the input.
if workflow.is_main_process and not IS_MODULE:
    checked(configuration.check_inputs, SETTINGS)
BACKBONES = {chosen.folder: chosen for chosen in checked(chosen_backbones, SETTINGS)}
# Published weights, by their file's name; local files are nobody's output.
FETCHED = {Path(chosen.weights_file).name: chosen for chosen in BACKBONES.values() if not chosen.is_local}
refuse_braces(
    SETTINGS.frame_index,
    SETTINGS.video_index,
    SETTINGS.annotations,
    *(chosen.weights_file for chosen in BACKBONES.values()),
)

RESULTS = layout.results_of(SETTINGS.dataset)
# The results of the backbone that the wildcard names.
RESULT = RESULTS.backbone("{backbone}")
JOBS = layout.jobs_of(SETTINGS.dataset)
JOBS_OF_ALL = layout.jobs_of()
# For functions and parameters: where a module's prefix puts them.
MOVED_RESULTS = layout.ResultsFolder(Path(moved(RESULTS.root)))
checked(
    refuse_own_sources,
    SETTINGS,
    [MOVED_RESULTS.backbone(folder).h5(SETTINGS.dataset) for folder in BACKBONES],
)
MOVED_JOBS = layout.JobFiles(Path(moved(JOBS.logs)), Path(moved(JOBS.benchmarks)))
WEIGHTS_FILES = {
    folder: chosen.weights_file if chosen.is_local else moved(chosen.weights_file)
    for folder, chosen in BACKBONES.items()
}
ENVIRONMENT = conda_environment()
COMMANDS = str(Path(sys.executable).parent)
if not IS_MODULE:
    # The environment's own commands come first, however snakemake itself was found.
    os.environ.update(PATH=os.pathsep.join([COMMANDS, os.environ.get("PATH", "")]))
elif shutil.which("framefeat") is None:
    raise WorkflowError(
        f"The command framefeat is not found on PATH: activate the environment that Snakemake runs in, or put {COMMANDS!r} "
        "on PATH."
    )

RUN_BEGAN = time.time()
# What a person typed. A job on another machine starts with a command of Snakemake's own, and inherits this one.
if workflow.is_main_process:
    os.environ[environment.COMMAND] = command_shown(sys.argv)
COMMAND = os.environ.get(environment.COMMAND, "")
# --resources gpu=0: no GPU is touched, nor asked for.
DEVICE = "cpu" if given_resource("gpu") == 0 else SETTINGS.device
# Where this machine runs the jobs torch is asked once, before the first of them, which devices it can use.
if RUNS_JOBS_HERE and (warning := checked(devices.settle, DEVICE)):
    logger.warning(warning)
# Where this machine runs the jobs and has no CUDA device, extraction is CPU work and must not wait for a GPU.
HAS_GPU = not RUNS_JOBS_HERE or bool(checked(devices.wanted, DEVICE))
GPU_PER_JOB = int(DEVICE != "cpu" and HAS_GPU)
# Shards whose temporary frames may wait on the disk for the device; 0: any number.
BACKLOG = 4 * (given_resource("_cores") or 8) if RUNS_JOBS_HERE and not SETTINGS.keep_frames else 0
KEEP_FRAMES = "--keep-frames " if SETTINGS.keep_frames else ""
SAMPLE_FRAMES = name_here("sample_frames")
EXTRACT_FEATURES = name_here("extract_features")
# All that is asked of a video: what is to be done for it follows from it and from what is stored.
WANTED = wanted_of(SETTINGS, BACKBONES.values()).to_json()
if workflow.is_main_process:
    shard_files.drop_empty_promises(MOVED_RESULTS)
    shard_files.renew_promises_of_no_matrix(MOVED_RESULTS)

# Embedders that the jobs of this process share end with it.
os.environ[environment.OWNER] = devices.process_identity(os.getpid())

# Where this process runs the jobs itself, the first of them lets the embedder load while videos are decoded.
if RUNS_JOBS_HERE and SETTINGS.warm_embedder:
    folder, first = next(iter(BACKBONES.items()))
    os.environ[environment.PREWARM] = json.dumps(
        {
            "device": DEVICE,
            "gpus": GPU_PER_JOB,
            "logs": str(MOVED_JOBS.embedder_logs),
            "spec": first.spec_json,
            "weights": os.path.abspath(WEIGHTS_FILES[folder]),
            "weights_identity": first.weights_identity,
            "precision": SETTINGS.precision,
        }
    )


wildcard_constraints:
    shard="[^/]+",
    backbone="|".join(map(re.escape, BACKBONES)),
    geometry="[^/]+",
