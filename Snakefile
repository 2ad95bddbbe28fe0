# framefeat: videos + a frame index -> one row-aligned matrix of frozen-CNN frame features.
#
#   snakemake --cores 4 --resources gpu=1 [--configfile FILE]
#
# config/README.md is the manual of the configuration, results/README.md of what comes out. workflow/Snakefile is the same
# for those who look for it there.
include: "workflow/rules/workflow.smk"


rule all:
    input:
        matrices(),
        RESULTS.report,
