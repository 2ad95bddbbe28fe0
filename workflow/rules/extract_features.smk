rule extract_features:
    input:
        unpack(frames_of),
        weights=weights_of,
    output:
        features=RESULT.features("{video}"),
        record=RESULT.record("{video}"),
    log:
        JOBS.log("extract_features", "{backbone}", "{video}"),
    benchmark:
        JOBS.benchmark("extract_features", "{backbone}", "{video}")
    # Extraction outranks sampling, so that frames are used up and deleted as they come.
    priority: 10
    conda:
        ENVIRONMENT
    # The last three say how, not what: unlike a parameter they recompute nothing when they change.
    resources:
        gpu=GPU_PER_JOB,
        turn=1,
        mem_mb=4000,
        runtime=120,
        device=DEVICE,
        batch_size=str(SETTINGS.batch_size),
        embedder="auto" if SETTINGS.warm_embedder else "off",
    params:
        logs=str(MOVED_JOBS.logs),
        algorithm=identity.extract_algorithm(SETTINGS.precision),
        spec=lambda wildcards: BACKBONES[wildcards.backbone].spec_json,
        weights=lambda wildcards: BACKBONES[wildcards.backbone].weights_identity,
        precision=SETTINGS.precision,
    message:
        "extract_features of {wildcards.video} with {wildcards.backbone}"
    shell:
        "framefeat extract --spec {params.spec:q} --weights {input.weights:q} --weights-identity {params.weights:q}"
        " --precision {params.precision} --device {resources.device} --gpus {resources.gpu} --threads {threads}"
        " --batch-size {resources.batch_size} --frames {input.frames:q} --recheck {input.recheck:q}"
        " --evidence {input.evidence:q} --features {output.features:q} --record {output.record:q}"
        " --embedder {resources.embedder} --embedder-logs {params.logs:q}/embedder 2> {log:q}"
