rule fetch_weights:
    output:
        "resources/weights/{file}",
    log:
        "logs/fetch_weights/{file}.log",
    benchmark:
        "benchmarks/fetch_weights/{file}.tsv"
    message:
        "Fetching the weights {wildcards.file}"
    params:
        source=lambda wildcards: weights_source(wildcards.file),
    resources:
        mem_mb=2000,
        runtime=60,
    shell:
        "framefeat fetch-weights {params.source} --to {output:q} 2> {log:q}"
