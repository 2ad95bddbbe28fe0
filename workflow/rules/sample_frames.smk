rule sample_frames:
    input:
        slice=f"{RESULTS}/slices/{{video}}.json",
        remote=remote_video,
    output:
        frames=kept_if_asked(f"{RESULTS}/frames/{{geometry}}/{{video}}.npy"),
        recheck=kept_if_asked(f"{RESULTS}/rechecks/{{geometry}}/{{video}}.npy"),
        evidence=f"{RESULTS}/evidence/{{geometry}}/{{video}}.json",
        thumbnails=f"{RESULTS}/thumbnails/{{geometry}}/{{video}}.jpg",
    log:
        f"{LOGS}/sample_frames/{{geometry}}/{{video}}.log",
    benchmark:
        f"{BENCHMARKS}/sample_frames/{{geometry}}/{{video}}.tsv"
    conda:
        "../../envs/environment.yaml"
    # What follows 'runtime' says how, not what: unlike a parameter it recomputes nothing when it changes.
    resources:
        turn=1,
        mem_mb=1500,
        runtime=120,
        backlog=BACKLOG,
        decoder_timeout=str(SETTINGS.decoder_timeout),
    params:
        results=subpath(input.slice, ancestor=2),
        algorithm=identity.SAMPLE_ALGORITHM,
        alignment=SETTINGS.alignment,
        decoder=SETTINGS.decoder,
    message:
        "sample_frames of {wildcards.video}"
    shell:
        "framefeat sample --video {params.results:q}/videos/{wildcards.video:q}.json --slice {input.slice:q}"
        " --path {input.remote:q}"
        " --geometry {wildcards.geometry:q} --alignment {params.alignment} --decoder {params.decoder}"
        " --timeout {resources.decoder_timeout} --backlog {resources.backlog}"
        " --frames {output.frames:q} --recheck {output.recheck:q} --evidence {output.evidence:q}"
        " --thumbnails {output.thumbnails:q} 2> {log:q}"
