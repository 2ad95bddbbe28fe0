# The workflow, but for its default target: Snakemake forgets the one of a file that another includes, and two files
# begin with this one.
import os
import sys

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

# The lowest version in pyproject.toml, which says why there is a highest.
min_version("9.20")

# These rules may come from an address, their commands come from the environment.
VERSION = "0.2.0"
HOW_TO_HAVE_IT = f"Run Snakemake in the environment that 'make env' builds in a clone of framefeat {VERSION}."
try:
    import framefeat
except ModuleNotFoundError:
    raise WorkflowError(f"The environment in {sys.prefix!r} has no framefeat. {HOW_TO_HAVE_IT}") from None
if framefeat.__version__ != VERSION:
    raise WorkflowError(
        f"The rules are those of framefeat {VERSION}, the environment in {sys.prefix!r} has {framefeat.__version__}. "
        f"{HOW_TO_HAVE_IT}"
    )


# Every key has a default, so that a run in another folder needs no such file.
if os.path.exists("config/config.yaml"):

    configfile: "config/config.yaml"


include: "snakemake_internals.smk"
include: "settings.smk"
include: "inputs.smk"


# The report of a workflow that uses this one has a text of its own.
if not IS_MODULE:

    report: "../report/workflow.rst"


include: "merge_index.smk"
include: "sample_frames.smk"
include: "fetch_weights.smk"
include: "extract_features.smk"
include: "assemble.smk"
include: "report.smk"
include: "targets.smk"
include: "outcome.smk"
