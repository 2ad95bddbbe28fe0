rule sample_frames:
    input:
        shard=RESULTS.shard("{shard}"),
        remote=remote_videos,
    output:
        sampled=RESULTS.sampled("{geometry}", "{shard}"),
        frames=kept_if_asked(RESULTS.frames_ready("{geometry}", "{shard}")),
    log:
        JOBS.log("sample_frames", "{geometry}", "{shard}"),
    benchmark:
        JOBS.benchmark("sample_frames", "{geometry}", "{shard}")
    conda:
        ENVIRONMENT
    # What follows 'runtime' says how, not what: unlike a parameter it recomputes nothing when it changes. What is wanted
    # decides what the job does; whether there is a job at all, the shard and the parameters decide.
    resources:
        mem_mb=1500,
        runtime=240,
        backlog=BACKLOG,
        decoder_timeout=str(SETTINGS.decoder_timeout),
        more=sample_options,
        wanted=WANTED,
    params:
        results=subpath(input.shard, ancestor=2),
        algorithm=identity.SAMPLE_ALGORITHM,
        alignment=SETTINGS.alignment,
        decoder=SETTINGS.decoder,
    message:
        "sample_frames of {wildcards.shard}"
    shell:
        "framefeat sample {params.results:q} --shard {wildcards.shard:q} --geometry {wildcards.geometry:q}"
        " --wanted {resources.wanted:q} --timeout {resources.decoder_timeout} --backlog {resources.backlog}"
        " {resources.more} --fetched {input.remote:q} 2> {log:q}"
