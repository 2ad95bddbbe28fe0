rule sample_frames:
    input:
        slice=f"{RESULTS}/slices/{{video}}.json",
    output:
        frames=kept_if_asked(f"{RESULTS}/frames/{{geometry}}/{{video}}.npy"),
        recheck=kept_if_asked(f"{RESULTS}/frames/{{geometry}}/{{video}}.recheck.npy"),
        evidence=f"{RESULTS}/evidence/{{geometry}}/{{video}}.json",
        thumbnails=f"{RESULTS}/thumbnails/{{geometry}}/{{video}}.jpg",
    log:
        f"{LOGS}/sample_frames/{{geometry}}/{{video}}.log",
    benchmark:
        f"{BENCHMARKS}/sample_frames/{{geometry}}/{{video}}.tsv"
    message:
        "sample_frames of {wildcards.video}"
    params:
        algorithm=sampling.ALGORITHM,
        alignment=SETTINGS.alignment,
        decoder=SETTINGS.decoder,
    resources:
        mem_mb=1500,
        runtime=120,
    shell:
        "framefeat sample --video {RESULTS:q}/videos/{wildcards.video:q}.json --slice {input.slice:q}"
        " --geometry {wildcards.geometry:q} --alignment {params.alignment} --decoder {params.decoder}"
        " --on-bad-frames {SETTINGS.on_bad_frames} --timeout {SETTINGS.decoder_timeout} --backlog {BACKLOG}"
        " --frames {output.frames:q} --recheck {output.recheck:q} --evidence {output.evidence:q}"
        " --thumbnails {output.thumbnails:q} 2> {log:q}"
