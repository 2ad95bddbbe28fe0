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
    message:
        "report of {SETTINGS.dataset}"
    params:
        backbones=list(BACKBONES),
    resources:
        mem_mb=2000,
        runtime=60,
    shell:
        "framefeat report {RESULTS:q} --backbones {params.backbones:q} --benchmarks {BENCHMARKS:q} --logs {LOGS:q}"
        " --out {output:q} 2> {log:q}"
