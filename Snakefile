# framefeat: videos + a frame index -> one row-aligned matrix of frozen-CNN frame features.
#
#   snakemake --cores 4 --resources gpu=1 [--configfile FILE]
#
# config/README.md is the manual of the configuration, results/README.md of what comes out.
import os

from snakemake.utils import min_version

# The lowest version in pyproject.toml, which says why there is a highest.
min_version("9.20")


# Every key has a default, so that a run in another folder needs no such file.
if os.path.exists("config/config.yaml"):

    configfile: "config/config.yaml"


include: "workflow/rules/snakemake_internals.smk"
include: "workflow/rules/settings.smk"
include: "workflow/rules/inputs.smk"


# The report of a workflow that uses this one has a text of its own.
if not IS_MODULE:

    report: "workflow/report/workflow.rst"


rule all:
    input:
        matrices(),
        RESULTS.report,


include: "workflow/rules/merge_index.smk"
include: "workflow/rules/sample_frames.smk"
include: "workflow/rules/fetch_weights.smk"
include: "workflow/rules/extract_features.smk"
include: "workflow/rules/assemble.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/targets.smk"
include: "workflow/rules/outcome.smk"
