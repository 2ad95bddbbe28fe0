"""The line under a run, and Snakemake's output unchanged around it."""

import io
import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
from framefeat.files import write_json
from framefeat.layout import ResultsFolder
from framefeat.run import progress
from framefeat.shard_files import read_slices

LogEvent = pytest.importorskip("snakemake_interface_logger_plugins.common").LogEvent


SAMPLE, EXTRACT = progress.SAMPLE, progress.EXTRACT


def merged(folder: Path, shards: Mapping[str, int]) -> ResultsFolder:
    """What the last merge left: shards of so many videos each."""
    results = ResultsFolder(folder)
    for shard, videos in shards.items():
        entries = {f"{shard}-{number}": {"rows": 100} for number in range(videos)}
        write_json(results.shard(shard), {"schema": 3, "videos": entries})
    return results


def finished(results: ResultsFolder, rule: str, shard: str, rows: int, backbone: str = "net") -> list[str]:
    """The files that a job has made of a shard, as Snakemake names them."""
    sampled = results.sampled("squash224", shard)
    path = sampled if rule == SAMPLE else results.backbone(backbone).extracted(shard)
    write_json(path, {"rows": rows, "videos": dict.fromkeys(read_slices(results, shard), "digest")})
    return [str(path), str(results.frames_ready("squash224", shard))][: 2 if rule == SAMPLE else 1]


def test_tally(tmp_path: Path) -> None:
    results = merged(tmp_path, {f"v{video}": 1 for video in range(10)})
    tally = progress.Tally()
    assert tally.line(0.0) == ""
    tally.run_begins({"merge_index": 1, "assemble": 1, "report": 1, "all": 1, "total": 4})
    tally.steps(1, 24)
    number = 0
    for video in range(6):
        for rule, begin, end in (
            (SAMPLE, 10.0 * video, 10.0 * video + 5),
            (EXTRACT, 10.0 * video + 5, 10.0 * video + 10),
        ):
            number += 1
            tally.job_begins(number, rule, [], finished(results, rule, f"v{video}", 100), begin)
            tally.job_ends(number, end)
            tally.steps(1 + number, 24)
    assert (tally.sampled, tally.embedded, tally.frames, tally.of_videos) == (6, 6, 600, (6, 10))
    assert tally.frames_per_second(60.0) == pytest.approx(10.0)
    assert tally.seconds_left(60.0) == pytest.approx(11 * 5.0)
    assert tally.line(60.0) == "6 of 10 videos · 600 frames · 10 frames/s · about 55 s left · 13 of 24 steps"


def test_a_job_counts_as_the_videos_of_its_shard(tmp_path: Path) -> None:
    """Two backbones; shards of unlike size, of which the first are done."""
    results = merged(tmp_path, {"shard+0of4": 3, "shard+1of4": 5, "shard+2of4": 8, "shard+3of4": 4})
    tally = progress.Tally()
    tally.run_begins({"assemble": 2, "report": 1, "all": 1, "total": 4})
    jobs = [(SAMPLE, "", 0, 300), (EXTRACT, "a", 0, 300), (EXTRACT, "b", 0, 300), (SAMPLE, "", 1, 700)]
    jobs += [(EXTRACT, "a", 1, 700)]
    for number, (rule, backbone, shard, rows) in enumerate(jobs):
        outputs = finished(results, rule, f"shard+{shard}of4", rows, backbone)
        tally.job_begins(number, rule, [], outputs, float(number))
        assert tally.of_videos is None or number
        tally.job_ends(number, float(number + 1))
        tally.steps(number + 1, 4 + 3 * 4)
    assert (tally.videos, tally.shards) == (20, 4)
    assert (tally.sampled, tally.embedded, tally.frames) == (8, 11, 1300)
    # 8 extractions in all, 3 of them done: 5 are to come, of 20 / 4 videos as far as anyone knows.
    assert tally.of_videos == (40 - 25, 40)
    assert tally.line(5.0).startswith("15 of 40 videos · 1,300 frames · 260 frames/s")


def test_what_is_decoded_and_waits_is_told(tmp_path: Path) -> None:
    results = merged(tmp_path, {"shard+0of2": 6, "shard+1of2": 6})
    tally = progress.Tally()
    tally.run_begins({"assemble": 1, "total": 1})
    for number in range(2):
        tally.job_begins(number, SAMPLE, [], finished(results, SAMPLE, f"shard+{number}of2", 60), 0.0)
        tally.job_ends(number, 1.0)
    tally.steps(2, 5)
    assert tally.line(1.0) == "0 of 12 videos · 12 decoded · 2 of 5 steps"


def test_a_narrow_terminal_gets_what_tells_most() -> None:
    tally = progress.Tally(
        sampled=7, embedded=6, frames=1200, failed=1, done=13, total=24, videos=11, shards=11
    )
    tally._counts = {"assemble": 1, "report": 1}
    tally._sampling, tally._extracted = 7, 6
    whole = tally.line(60.0)
    assert whole == "6 of 11 videos · 7 decoded · 1,200 frames · 1 failed · 13 of 24 steps"
    assert tally.line(60.0, len(whole)) == whole
    assert tally.line(60.0, 57) == "6 of 11 videos · 1,200 frames · 1 failed · 13 of 24 steps"
    assert tally.line(60.0, 30) == "6 of 11 videos · 1 failed"
    assert tally.line(60.0, 10) == "6 of 11 vi"


@pytest.mark.parametrize("size", [1, 3])
def test_a_resumed_run_counts_from_all_videos(tmp_path: Path, size: int) -> None:
    results = merged(tmp_path, {f"v{number}": size for number in range(40)})
    tally = progress.Tally()
    tally.run_begins({"assemble": 1, "report": 1, "all": 1, "total": 3})
    tally.steps(0, 23)
    for number, rule in enumerate((SAMPLE, EXTRACT)):
        tally.job_begins(number, rule, [], finished(results, rule, "v39", 5), float(number))
        tally.job_ends(number, number + 1.0)
    tally.steps(2, 23)
    assert tally.line(2.0).startswith(f"{31 * size} of {40 * size} videos")


def test_unknown_jobs_and_lost_files(tmp_path: Path) -> None:
    tally = progress.Tally()
    tally.job_ends(7, 1.0)
    tally.job_begins(1, EXTRACT, [], [str(tmp_path / "results/x/net/extracted/gone.json")], 0.0)
    tally.job_ends(1, 1.0)
    assert (tally.embedded, tally.frames, tally.of_videos) == (0, 0, None)
    tally.job_begins(2, SAMPLE, [], [], 0.0)
    tally.job_fails(2)
    tally.job_fails(2)
    assert "1 failed" in tally.line(2.0)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"videos": 3}', '{"rows": 1}'])
def test_a_file_that_is_not_whole_ends_no_run(tmp_path: Path, text: str) -> None:
    results = merged(tmp_path, {"a": 2})
    (tmp_path / "shards" / "b.json").write_text(text)
    tally = progress.Tally()
    for number, shard in enumerate("ab"):
        path = results.sampled("squash224", shard)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        tally.job_begins(number, SAMPLE, [], [str(path)], 0.0)
        tally.job_ends(number, 1.0)
    tally.steps(2, 2)
    assert tally.line(1.0) == "2 of 2 steps"


def test_words_for_time() -> None:
    assert [progress.spell(value) for value in (0.2, 61, 600, 7200, 200_000)] == [
        "1 s",
        "61 s",
        "10 min",
        "2 h 0 min",
        "2 d 7 h",
    ]


def test_command_to_go_on() -> None:
    again = progress.command_again(["/x/bin/snakemake", "--cores", "4", "--config", "videos=my films/*.mp4"])
    assert again == "snakemake --cores 4 --config 'videos=my films/*.mp4'"


# --- the handler


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _records() -> list[logging.LogRecord]:
    def record(message: object, level: int = logging.INFO, **fields: object) -> logging.LogRecord:
        made = logging.LogRecord("snakemake", level, __file__, 1, message, None, None)
        made.__dict__.update(fields)
        return made

    return [
        record("Job stats:\njob  count\n", event=LogEvent.RUN_INFO, stats={"sample_frames": 2, "total": 2}),
        record("x", event=LogEvent.JOB_INFO, jobid=1, rule_name="sample_frames", rule_msg=None, local=False, is_checkpoint=False,
               input=[], output=["o"], log=[], benchmark=None, reason="because", wildcards={}, priority=0, threads=1, resources={}, indent=False),
        record("Finished jobid: 1 (Rule: sample_frames)", event=LogEvent.JOB_FINISHED, job_id=1),
        record("None", event=LogEvent.PROGRESS, done=1, total=2),
        record("half way"),
        record("None", event=LogEvent.PROGRESS, done=2, total=2),
        record("done"),
    ]  # fmt: skip


def _written(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch, quiet: set[object] | None = None) -> str:
    from snakemake.logging import DefaultFormatter

    plugin = pytest.importorskip("snakemake_logger_plugin_framefeat")
    common = {
        "stdout": False, "nocolor": False, "dryrun": False, "quiet": quiet, "debug_dag": False, "verbose": False,
        "printshellcmds": False,
    }  # fmt: skip
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    handler = plugin.LogHandler(SimpleNamespace(**common), None)
    handler.setFormatter(DefaultFormatter())
    for record in _records():
        handler.emit(record)
    handler.close()
    return stream.getvalue()


def test_nothing_is_added_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    text = _written(io.StringIO(), monkeypatch)
    assert "rule sample_frames:" in text
    assert "1 of 2 steps (50%) done\nhalf way\n2 of 2 steps (100%) done\ndone\n" in text
    assert "\r" not in text
    assert "\x1b" not in text


def test_the_line_is_erased_before_every_message(monkeypatch: pytest.MonkeyPatch) -> None:
    text = _written(_Terminal(), monkeypatch)
    assert "1 of 2 steps\r\r\x1b[K" in text
    # What stays on the screen is what Snakemake wrote, whole lines.
    lines = [line.split("\x1b[K")[-1] for line in text.split("\n")]
    assert "half way" in "".join(lines)
    assert not any(letter in "".join(lines) for letter in "⠋⠙⠹")
    assert text.endswith("done\x1b[0m\n")


def test_quiet_is_for_snakemake_s_lines_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from snakemake.settings.enums import Quietness

    quiet: set[object] = {Quietness.PROGRESS, Quietness.RULES}
    text = _written(_Terminal(), monkeypatch, quiet)
    assert quiet == {Quietness.RULES}  # else the scheduler would not tell what is finished
    assert "rule sample_frames:" not in text
    assert "1 of 2 steps\r\r\x1b[K" in text
    assert "half way" in text
    assert _written(_Terminal(), monkeypatch, {Quietness.ALL}) == ""


def test_after_an_interruption_its_jobs_are_no_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = pytest.importorskip("snakemake_logger_plugin_framefeat")
    failed = logging.LogRecord("snakemake", logging.ERROR, __file__, 1, "Error in rule a:", None, None)
    failed.__dict__.update(event=LogEvent.JOB_ERROR, jobid=1)
    assert not plugin._told_by_the_interruption(failed)
    monkeypatch.setattr("framefeat.signals.interrupted", lambda within=0: True)
    assert plugin._told_by_the_interruption(failed)
    assert not plugin._told_by_the_interruption(_records()[4])


@pytest.mark.parametrize("end", ["died with <Signals.SIGINT: 2>.", "returned non-zero exit status 130."])
def test_a_job_that_gets_ctrl_c_before_snakemake_is_no_error_either(
    end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = pytest.importorskip("snakemake_logger_plugin_framefeat")
    seen = threading.Event()
    monkeypatch.setattr("framefeat.signals._interrupted", seen)
    text = f"RuleException:\nCalledProcessError in file 'a.smk', line 1:\nCommand 'b' {end}"
    timer = threading.Timer(0.2, seen.set)
    timer.start()
    assert plugin._told_by_the_interruption(
        logging.LogRecord("snakemake", logging.ERROR, __file__, 1, text, None, None)
    )
    timer.join()
