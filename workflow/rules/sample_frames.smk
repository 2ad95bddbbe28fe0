rule sample_frames:
    input:
        slice=RESULTS.slice("{video}"),
        remote=remote_video,
    output:
        frames=kept_if_asked(RESULTS.frames("{geometry}", "{video}")),
        recheck=kept_if_asked(RESULTS.recheck("{geometry}", "{video}")),
        evidence=RESULTS.evidence("{geometry}", "{video}"),
        thumbnails=RESULTS.thumbnails("{geometry}", "{video}"),
    log:
        JOBS.log("sample_frames", "{geometry}", "{video}"),
    benchmark:
        JOBS.benchmark("sample_frames", "{geometry}", "{video}")
    conda:
        ENVIRONMENT
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
