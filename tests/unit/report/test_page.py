"""What the page says first and last, what it leaves undrawn, and what it tells of where the rows came from."""

import html
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from framefeat.files import read_json, write_json
from framefeat.report import build, numbers, section
from framefeat.vectors import unit_rows

from tests.unit.report.report_fixture import drawn, write_run

COMMAND = "snakemake --cores 4 --configfile 'my films.yaml'"


def page_of(root: Path, videos: list[Any], manifest: dict[str, Any] | None = None, **more: Any) -> str:
    results = write_run(root, videos)
    path = results / "colour_grid" / "feature_manifest.json"
    write_json(path, read_json(path) | (manifest or {}))
    build.build(results, root / "report.html", **more)
    page = (root / "report.html").read_text(encoding="utf-8")
    return page[: page.index('<script type="application/json"')]


def made(page: str) -> dict[str, str]:
    """How the features were made, as the page says it."""
    text = page[page.index('id="made-title"') :]
    return {
        name: html.unescape(value)
        for name, value in re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", text, re.DOTALL)
    }


def test_the_verdict_first_and_the_time_last(tmp_path: Path) -> None:
    videos = [drawn("a", [4, 4], seed=1), drawn("b", [4], seed=2, bad=[1])]
    page = page_of(tmp_path, videos, benchmarks=tmp_path / "benchmarks" / "demo")
    places = [
        page.index(f'id="{name}-title"')
        for name in ("first", "videos", "all", "map", "spread", "made", "time")
    ]
    assert [page.index('aria-label="Verdict"'), *places] == sorted(
        [page.index('aria-label="Verdict"'), *places]
    )
    assert page.index('data-chart="stages"') > places[-1]
    links = re.findall(r'<a href="#([a-z]+)">', page[page.index("<nav") : page.index("</nav>")])
    assert links == ["first", "videos", "all", "map", "spread", "made", "time"]
    assert all(f'<section id="{name}"' in page for name in links)


def test_a_line_to_copy_loads_these_features(tmp_path: Path) -> None:
    import framefeat

    page = page_of(tmp_path, [drawn("a", [4], seed=1)])
    line = html.unescape(re.search(r'<code id="load-0">(.*?)</code>', page)[1])
    assert 'data-copy="load-0"' in page
    features = eval(line, {"framefeat": framefeat})
    assert features.folder == tmp_path / "results" / "demo" / "colour_grid"


def test_source_sample_rate_and_command(tmp_path: Path) -> None:
    told = {
        "source": {"videos": "films/<b>*.mp4"},
        "sampling": {"sample_fps": 2.0},
        "command": "snakemake --config dataset=demo 'videos=films/<b>*.mp4' sample_fps=2",
    }
    page = page_of(tmp_path, [drawn("a", [4], seed=1)], told, command=COMMAND)
    found = made(page)
    assert found["Source"] == "videos films/<b>*.mp4"
    assert found["Sampled"] == "2 rows per second (sample_fps)"
    assert found["Command"] == COMMAND
    assert found["What decides the rows"] == told["command"]
    assert "<b>" not in page


@pytest.mark.parametrize(
    ("sampling", "words"),
    [
        ({"sample_every": 15}, "one of every 15 native frames (sample_every)"),
        ({"times": "frame index"}, "at the times of the frame index, usually every 0.5 s"),
        (None, "at the times of the frame index, usually every 0.5 s"),
    ],
)
def test_how_often_rows_come(tmp_path: Path, sampling: dict[str, Any] | None, words: str) -> None:
    page = page_of(tmp_path, [drawn("a", [4], seed=1)], {"sampling": sampling} if sampling else None)
    assert made(page)["Sampled"] == words
    assert "Command" not in made(page)


def test_nothing_is_drawn_for_a_video_without_frames(tmp_path: Path) -> None:
    videos = [drawn("none", [3], seed=2, bad=[0, 1, 2], problems=["it is no video"]), drawn("a", [4], seed=1)]
    page = page_of(tmp_path, videos)
    none, other = re.findall(r'<details class="video.*?</details>', page, re.DOTALL)
    assert "<h3>none</h3>" in none
    assert "it is no video" in none
    assert "No row of this video has a frame" in none
    assert "data-chart" not in none
    assert 'class="strip"' not in none
    assert other.count("data-chart") == 2
    assert 'data-chart="map"' in page


def test_no_map_where_no_row_has_a_frame(tmp_path: Path) -> None:
    page = page_of(tmp_path, [drawn("none", [3], seed=2, bad=[0, 1, 2])])
    assert 'data-chart="map"' not in page
    assert "No row has a frame: there is nothing to draw" in page


def test_two_rows_have_no_likely_cut(tmp_path: Path) -> None:
    """One change alone has nothing to stand out from, however large it is."""
    two = numbers.changes(unit_rows(np.eye(2, 8)))
    assert two[1] == 1
    for unlike in (float("inf"), 0.5):
        assert numbers.likely_cuts(two, unlike).size == 0
        assert numbers.likely_cuts(np.array([np.nan, 0, 0, 1, 0]), unlike).tolist() == [3]
    page = page_of(tmp_path, [drawn("two", [1, 1], seed=1), drawn("scenes", [6, 6], seed=2)])
    summaries = re.findall(r"<h3>(.*?)</h3>.*?</summary>", page, re.DOTALL)
    assert summaries == ["two", "scenes"]
    facts = dict(re.findall(r'<h3>(.*?)</h3>\s*<span class="facts">(.*?)</span>', page))
    assert "likely cut" not in facts["two"]
    assert "1 likely cut" in facts["scenes"]


def test_the_table_sorts_states_by_their_gravity(tmp_path: Path) -> None:
    videos = [
        drawn("a", [4], seed=1),
        drawn("b", [4], seed=2, bad=[1]),
        drawn("c", [4], seed=3, doubts=["far"]),
    ]
    page = page_of(tmp_path, videos)
    table = page[
        page.index('<table class="all">') : page.index("</table>", page.index('<table class="all">'))
    ]
    assert re.findall(r'data-key="(\d)"><span class="badge level\d">(.*?)</span>', table) == [
        ("3", "not verified"),
        ("2", "doubtful"),
        ("0", "verified"),
    ]
    assert table.count("<button") == 11


def test_removed_videos_do_not_count_in_the_times(tmp_path: Path) -> None:
    """Nor do the jobs of earlier shards: their benchmarks stay until they are deleted."""
    results = write_run(tmp_path, [drawn("a", [4], seed=1), drawn("b", [4], seed=2)])
    shutil.rmtree(results / "shards", ignore_errors=True)
    (results / "shards").mkdir()
    write_json(results / "shards" / "a.json", {"schema": 1, "videos": {}})
    folder = tmp_path / "benchmarks" / "demo" / "sample_frames" / "squash224"
    for shard, seconds in (("a", 2.0), ("b", 600.0), ("shard+001of064", 600.0)):
        (folder / f"{shard}.tsv").write_text(f"s\tmax_rss\tcpu_time\n{seconds}\t10\t{seconds}\n")
    build.build(results, tmp_path / "report.html", benchmarks=tmp_path / "benchmarks" / "demo")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    sampled = re.search(r"<tr><th scope=\"row\">sample_frames.*?</tr>", page)[0]
    assert re.findall(r'<td class="n">(.*?)</td>', sampled)[:2] == ["1", "2.0 s"]


def test_the_command_is_data(tmp_path: Path) -> None:
    page = page_of(tmp_path, [drawn("a", [4], seed=1)], command="snakemake --config 'videos=<script>x'")
    assert "<script>x" not in page
    assert made(page)["Command"] == "snakemake --config 'videos=<script>x'"


def test_a_name_with_quotes_can_be_loaded(tmp_path: Path) -> None:
    backbone = tmp_path / "it's \\ \N{GRINNING FACE}"
    results = write_run(backbone, [drawn("a", [4], seed=1)])
    loaded = build._read(results, None)[1][0]
    assert (
        eval(section._load_line(loaded), {"framefeat": type("F", (), {"load": staticmethod(Path)})})
        == loaded.folder
    )


def test_no_throughput_where_no_job_told_its_work(tmp_path: Path) -> None:
    jobs = {"benchmarks": tmp_path / "benchmarks" / "demo", "logs": tmp_path / "no logs"}
    page = page_of(tmp_path, [drawn("a", [4], seed=1)], **jobs)
    assert 'data-chart="stages"' in page
    assert 'data-chart="rates"' not in page
