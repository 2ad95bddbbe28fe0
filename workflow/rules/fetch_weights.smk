FETCHED_HERE = [
    file for file, chosen in FETCHED.items() if not is_made_by_another_module(moved(chosen.weights_file))
]


# A checkpoint, so that no video is decoded for weights that cannot be had: no job of a video is known before it is
# done.
checkpoint fetch_weights:
    output:
        "resources/weights/{file}",
    log:
        JOBS_OF_ALL.log("fetch_weights", "{file}"),
    benchmark:
        JOBS_OF_ALL.benchmark("fetch_weights", "{file}")
    wildcard_constraints:
        file="|".join(map(re.escape, FETCHED_HERE)) or "(?!)",
    priority: 100
    # Where Snakemake itself runs: a cluster's nodes often reach no network.
    localrule: True
    conda:
        ENVIRONMENT
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        source=weights_source,
    message:
        "fetch_weights of {wildcards.file}"
    shell:
        "framefeat fetch-weights {params.source} --to {output:q} 2> {log:q}"
