rule extract_features:
    input:
        unpack(frames_of),
        weights=weights_of,
    output:
        RESULT.extracted("{shard}"),
    log:
        JOBS.log("extract_features", "{backbone}", "{shard}"),
    benchmark:
        JOBS.benchmark("extract_features", "{backbone}", "{shard}")
    # Extraction outranks sampling, so that frames are used up and deleted as they come.
    priority: 10
    conda:
        ENVIRONMENT
    # What follows 'runtime' says how, not what: unlike a parameter it recomputes nothing when it changes.
    resources:
        gpu=GPU_PER_JOB,
        mem_mb=4000,
        runtime=240,
        device=DEVICE,
        batch_size=str(SETTINGS.batch_size),
        embedder="auto" if SETTINGS.warm_embedder else "off",
        more=extract_options,
        decoder_timeout=str(SETTINGS.decoder_timeout),
        wanted=WANTED,
    params:
        results=subpath(output[0], ancestor=3),
        logs=str(MOVED_JOBS.logs),
        algorithm=identity.extract_algorithm(SETTINGS.precision),
        spec=lambda wildcards: BACKBONES[wildcards.backbone].spec_json,
        weights=lambda wildcards: BACKBONES[wildcards.backbone].weights_identity,
        precision=SETTINGS.precision,
    message:
        "extract_features of {wildcards.shard} with {wildcards.backbone}"
    shell:
        "framefeat extract {params.results:q} --shard {wildcards.shard:q} --backbone {wildcards.backbone:q}"
        " --wanted {resources.wanted:q} --weights={input.weights:q} --precision {params.precision}"
        " --device {resources.device} --gpus {resources.gpu} --threads {threads} --batch-size {resources.batch_size}"
        " --embedder {resources.embedder} --embedder-logs {params.logs:q}/embedder"
        " --timeout {resources.decoder_timeout} {resources.more} 2> {log:q}"
