# Configuration and input functions, and nothing else.
import os
import re
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

from framefeat import devices, index, settings as _settings
from framefeat.errors import UserError
from framefeat.names import video_key
from framefeat.backbone_plan import backbone_plans


def checked(function, *arguments):
    """Call ``function``; what a person can mend ends the workflow with its sentence and no traceback."""
    try:
        return function(*arguments)
    except UserError as error:
        raise WorkflowError(str(error)) from None


SETTINGS = checked(_settings.resolve, config)
BACKBONES = {plan.folder: plan for plan in checked(backbone_plans, SETTINGS)}

RESULTS = f"results/{SETTINGS.dataset}"
LOGS = f"logs/{SETTINGS.dataset}"
BENCHMARKS = f"benchmarks/{SETTINGS.dataset}"
REPORT = f"{RESULTS}/report.html"
# A new version of an algorithm (not of the code around it) makes earlier results stale.
ALGORITHM = {"sample": 1, "extract": 1, "assemble": 1}

# Embedders that the jobs of this process share end with it.
os.environ["FRAMEFEAT_OWNER"] = devices.process_identity(os.getpid())
# The environment's own commands come first, however snakemake itself was found.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])

# Where this machine runs the jobs and has no CUDA device, extraction is CPU work and must not wait for a GPU.
GPU_PER_JOB = 0 if SETTINGS.device == "cpu" or (
    workflow.is_main_process and workflow.local_exec and not devices.wanted(SETTINGS.device)
) else 1
if workflow.is_main_process and workflow.local_exec and "gpu" not in workflow.global_resources:
    workflow.register_resource("gpu", 1)


wildcard_constraints:
    video="[^/]+",
    backbone="|".join(map(re.escape, BACKBONES)),
    geometry="[^/]+",


def options(**values):
    """Command line options, quoted; those whose value is None are left out."""
    return " ".join(
        f"--{name.replace('_', '-')} {shlex.quote(str(value))}" for name, value in values.items() if value is not None
    )


def matrices():
    return expand(
        "{results}/{backbone}/{file}",
        results=RESULTS,
        backbone=BACKBONES,
        file=[f"{SETTINGS.dataset}_features.npy", "frame_index.parquet", "feature_manifest.json"],
    )


def index_files(wildcards):
    return [] if SETTINGS.from_folder else [SETTINGS.frame_index, SETTINGS.video_index]


def collection(wildcards):
    """Tells a replaced file even where its time is older than the results."""
    return index.stat_digest(SETTINGS)


def video_keys():
    """The videos that have rows, once merge_index has run."""
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


def frames_of(wildcards):
    geometry = BACKBONES[wildcards.backbone].geometry
    return {
        "frames": f"{RESULTS}/frames/{geometry}/{wildcards.video}.npy",
        "recheck": f"{RESULTS}/frames/{geometry}/{wildcards.video}.recheck.npy",
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
    return shlex.quote(spec["name"]) + " " + options(weights=spec["weights"] if spec["kind"] == "enum" else None)
