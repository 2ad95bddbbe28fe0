rule report:
    input:
        matrices(),
    output:
        report(
            REPORT,
            caption="../report/report.rst",
            category="Frame features",
            labels={"dataset": SETTINGS.dataset},
        ),
    log:
        f"{LOGS}/report/report.log",
    benchmark:
        f"{BENCHMARKS}/report/report.tsv"
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        results=subpath(output[0], parent=True),
        benchmarks=BENCHMARKS,
        logs=LOGS,
        backbones=list(BACKBONES),
    message:
        "report of {SETTINGS.dataset}"
    shell:
        "framefeat report {params.results:q} --backbones {params.backbones:q} --benchmarks {params.benchmarks:q} --logs {params.logs:q}"
        " --out {output:q} 2> {log:q}"
