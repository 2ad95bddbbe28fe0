rule assemble:
    input:
        index=RESULTS.index,
        parts=parts_of_backbone,
    output:
        features=RESULT.matrix(SETTINGS.dataset),
        frame_index=RESULT.frame_index,
        manifest=RESULT.manifest,
    log:
        JOBS.log("assemble", "{backbone}"),
    benchmark:
        JOBS.benchmark("assemble", "{backbone}")
    conda:
        ENVIRONMENT
    resources:
        mem_mb=2000,
        runtime=120,
    params:
        results=subpath(input.index, parent=True),
        algorithm=identity.ASSEMBLE_ALGORITHM,
        geometry=lambda wildcards: BACKBONES[wildcards.backbone].geometry,
        spec=lambda wildcards: BACKBONES[wildcards.backbone].label_json,
        weights=lambda wildcards: BACKBONES[wildcards.backbone].weights_identity,
        options=options(
            dataset=SETTINGS.dataset,
            alignment=SETTINGS.alignment,
            decoder=SETTINGS.decoder,
            precision=SETTINGS.precision,
            on_bad_frames=SETTINGS.on_bad_frames,
        ),
        # A function, because what it returns is not formatted: a folder's name may hold braces.
        origin=lambda wildcards: origin_json(wildcards.backbone),
    message:
        "assemble of {wildcards.backbone}"
    shell:
        "framefeat assemble {params.results:q} --geometry {params.geometry:q} --spec {params.spec:q}"
        " --weights-identity {params.weights:q} {params.options} --origin {params.origin:q} 2> {log:q}"
