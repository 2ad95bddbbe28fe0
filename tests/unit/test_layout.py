"""The paths of a data set."""

from pathlib import Path

from framefeat import layout


def test_a_path_and_a_pattern_of_the_rules_are_made_by_the_same_method() -> None:
    results = layout.results_of("toy")
    pattern = str(results.evidence("{geometry}", "{video}"))
    assert pattern.format(geometry="squash224", video="a.b") == str(results.evidence("squash224", "a.b"))


def test_a_key_keeps_its_dots() -> None:
    features = layout.results_of("toy").backbone("net").features("a.b.c")
    assert layout.record_of(features).name == "a.b.c.json"
    assert layout.stored(features) == Path("results/toy/net/store/a.b.c.npy")


def test_logs_and_benchmarks_of_jobs() -> None:
    assert layout.jobs_of("toy").log("report") == Path("logs/toy/report/report.log")
    assert layout.jobs_of("toy").benchmark("extract_features", "net", "a.b") == Path(
        "benchmarks/toy/extract_features/net/a.b.tsv"
    )
    assert layout.jobs_of().log("fetch_weights", "w.pth") == Path("logs/fetch_weights/w.pth.log")


def test_hidden_files_are_no_videos(tmp_path: Path) -> None:
    results = layout.ResultsFolder(tmp_path)
    results.slices.mkdir()
    for name in ("b.json", "a.b.json", ".snakemake_timestamp", ".tmp-x-c.json"):
        (results.slices / name).touch()
    assert results.video_keys() == ["a.b", "b"]
