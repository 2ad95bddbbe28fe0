checkpoint merge_index:
    input:
        index_files,
    output:
        index=RESULTS.index,
        shards=directory(RESULTS.shards),
        videos=directory(RESULTS.videos),
        left_out=RESULTS.left_out,
    log:
        JOBS.log("merge_index"),
    benchmark:
        JOBS.benchmark("merge_index")
    conda:
        ENVIRONMENT
    threads: 8
    resources:
        mem_mb=2000,
        runtime=240,
        # Whether late times are refused here or marked later changes nothing that is written: no parameter, but for
        # 'drop'.
        on_bad_frames=SETTINGS.on_bad_frames,
    params:
        results=subpath(output.index, parent=True),
        collection=collection,
        drop=SETTINGS.on_bad_frames == "drop",
        # A function, because what it returns is not formatted: a folder's name may hold braces.
        options=lambda wildcards: options(**stamp.merge_options(SETTINGS)),
    message:
        f"merge_index of {SETTINGS.dataset}"
    shell:
        "framefeat merge {params.options} --on-bad-frames {resources.on_bad_frames} --collection {params.collection}"
        " --out {params.results:q} --threads {threads} 2> {log:q}"
