rule report:
    input:
        matrices(),
    output:
        report(
            RESULTS.report,
            caption="../report/report.rst",
            category="Frame features",
            labels={"dataset": SETTINGS.dataset},
        ),
    log:
        JOBS.log("report"),
    benchmark:
        JOBS.benchmark("report")
    conda:
        ENVIRONMENT
    resources:
        mem_mb=2000,
        runtime=60,
        # What was typed says how, not what: unlike a parameter it draws no page anew when it changes.
        command=COMMAND,
    params:
        results=subpath(output[0], parent=True),
        benchmarks=str(MOVED_JOBS.benchmarks),
        logs=str(MOVED_JOBS.logs),
        backbones=list(BACKBONES),
    message:
        f"report of {SETTINGS.dataset}"
    shell:
        "framefeat report {params.results:q} --backbones {params.backbones:q} --benchmarks {params.benchmarks:q} --logs {params.logs:q}"
        " --command {resources.command:q} --out {output:q} 2> {log:q}"
