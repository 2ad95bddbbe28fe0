# Targets that a person asks for by name: snakemake export_h5 ..., snakemake verify ...
rule export_h5:
    input:
        expand(RESULT.h5(SETTINGS.dataset), backbone=BACKBONES),


rule write_h5:
    input:
        features=RESULT.matrix(SETTINGS.dataset),
        frame_index=RESULT.frame_index,
        manifest=RESULT.manifest,
        sources=export_sources,
    # update: Snakemake would delete it before the command can see whether it may be replaced.
    output:
        update(RESULT.h5(SETTINGS.dataset)),
    log:
        JOBS.log("write_h5", "{backbone}"),
    benchmark:
        JOBS.benchmark("write_h5", "{backbone}")
    conda:
        ENVIRONMENT
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        folder=subpath(input.manifest, parent=True),
        sources=content_of_export_sources,
        options=lambda wildcards: options(
            annotations=SETTINGS.annotations,
            segments_from=SETTINGS.export_segments_from,
            labels_from=SETTINGS.export_labels_from,
        )
        + (" --l2" if SETTINGS.export_l2 else ""),
    message:
        "write_h5 of {wildcards.backbone}"
    shell:
        "framefeat export-h5 {params.folder:q} {output:q} {params.options} 2> {log:q}"


rule verify:
    input:
        matrices(),
    log:
        JOBS.log("verify"),
    conda:
        ENVIRONMENT
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        results=subpath(input[0], ancestor=2),
        weights=lambda wildcards: list(map(os.path.abspath, WEIGHTS_FILES.values())),
    message:
        f"verify of {SETTINGS.dataset}"
    shell:
        "framefeat verify {params.results:q} --weights {params.weights:q} 2> {log:q}"
