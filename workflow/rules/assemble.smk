rule assemble:
    input:
        index=f"{RESULTS}/index.parquet",
        parts=parts_of_backbone,
    output:
        features=f"{RESULTS}/{{backbone}}/{SETTINGS.dataset}_features.npy",
        frame_index=f"{RESULTS}/{{backbone}}/frame_index.parquet",
        manifest=f"{RESULTS}/{{backbone}}/feature_manifest.json",
    log:
        f"{LOGS}/assemble/{{backbone}}.log",
    benchmark:
        f"{BENCHMARKS}/assemble/{{backbone}}.tsv"
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1000,
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
    message:
        "assemble of {wildcards.backbone}"
    shell:
        "framefeat assemble {params.results:q} --geometry {params.geometry:q} --spec {params.spec:q}"
        " --weights-identity {params.weights:q} {params.options} 2> {log:q}"
