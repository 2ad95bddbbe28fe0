# framefeat: videos + a frame index -> one row-aligned matrix of frozen-CNN frame features.
#
#   snakemake --cores 4 --resources gpu=1 [--configfile FILE]
#
# config/README.md is the manual of the configuration, results/README.md of what comes out.
from snakemake.utils import min_version

min_version("9.20")


configfile: "config/config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"


rule all:
    default_target: True
    input:
        matrices(),
        REPORT,


include: "workflow/rules/merge_index.smk"
include: "workflow/rules/sample_frames.smk"
include: "workflow/rules/fetch_weights.smk"
include: "workflow/rules/extract_features.smk"
include: "workflow/rules/assemble.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/targets.smk"


onsuccess:
    if workflow.is_main_process:
        print_outcome()


onerror:
    if workflow.is_main_process:
        print_failures()
