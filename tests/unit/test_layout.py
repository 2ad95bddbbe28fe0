"""The paths of a data set."""

from pathlib import Path

from framefeat import layout


def test_a_path_and_a_pattern_of_the_rules_are_made_by_the_same_method() -> None:
    results = layout.results_of("toy")
    pattern = str(results.sampled("{geometry}", "{shard}"))
    assert pattern.format(geometry="squash224", shard="a.b") == str(results.sampled("squash224", "a.b"))


def test_a_key_keeps_its_dots(tmp_path: Path) -> None:
    results = layout.ResultsFolder(tmp_path)
    of_video = [
        results.frames("g", "a.b.c"),
        results.recheck("g", "a.b.c"),
        results.evidence("g", "a.b.c"),
        results.backbone("net").features("a.b.c"),
    ]
    of_shard = [
        results.frames_ready("g", "a.b.c"),
        results.sampled("g", "a.b.c"),
        results.backbone("net").extracted("a.b.c"),
    ]
    assert of_video[-1] == tmp_path / "net" / "features" / "a.b.c.safetensors"
    for path in (*of_video, *of_shard):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert list(results.files_of_videos()) == [("a.b.c", path) for path in of_video]
    assert list(results.files_of_shards()) == [("a.b.c", path) for path in of_shard]


def test_what_tells_that_a_shard_is_done() -> None:
    results = layout.results_of("toy")
    sampled, ready = results.sampled("g", "shard+01of64"), results.frames_ready("g", "shard+01of64")
    extracted = results.backbone("net").extracted("a.b")
    assert layout.promise_in([str(ready), str(sampled)]) == sampled
    assert layout.promise_in([str(extracted)]) == extracted
    for promise in (sampled, extracted):
        assert layout.results_of_promise(promise) == results
    others = (
        ready,
        results.shard("a"),
        results.evidence("g", "a"),
        results.backbone("net").manifest,
        "a.json",
        "x",
    )
    assert layout.promise_in(map(str, others)) is None


def test_logs_and_benchmarks_of_jobs() -> None:
    assert layout.jobs_of("toy").log("report") == Path("logs/toy/report/report.log")
    assert layout.jobs_of("toy").benchmark("extract_features", "net", "a.b") == Path(
        "benchmarks/toy/extract_features/net/a.b.tsv"
    )
    assert layout.jobs_of().log("fetch_weights", "w.pth") == Path("logs/fetch_weights/w.pth.log")


def test_hidden_files_are_no_videos(tmp_path: Path) -> None:
    results = layout.ResultsFolder(tmp_path)
    results.shards.mkdir()
    for name in ("b.json", "a.b.json", ".snakemake_timestamp", ".tmp-x-c.json"):
        (results.shards / name).touch()
    assert results.shard_names() == ["a.b", "b"]
    (tmp_path / "evidence" / "g" / "half.part").mkdir(parents=True)
    (tmp_path / "evidence" / "g" / ".tmp-x-a.safetensors").touch()
    assert list(results.files_of_videos()) == []
