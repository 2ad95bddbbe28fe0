"""kill -9 at random moments: the same command afterwards finishes with the bytes of an undisturbed run.

The schedule is seeded. Two indexes of the same videos take turns, so that every run has all videos to do and finds the
complete results of the other index in its way: what is stale or half written has every chance to be taken for a result.

Once with few videos, each a shard of its own, and once with so many that a shard has several: of those a killed job
loses the one at work.
"""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd
import psutil
import pytest

from tests.kill import processes
from tests.workflow.collection import FEW, FPS
from tests.workflow.conftest import write_clip
from tests.workflow.project import Project, Work

BACKBONE = "mobilenet_v3_large"
VIDEOS = ("a", "b", "b-a", "c", "d", "e")
#: Of a run that is killed.
CORES = 2
#: Who is killed: Snakemake alone (its jobs go on for a while), Snakemake with its jobs, a job, its decoder, the
#: embedder.
TARGETS = ("snakemake", "decoder", "embedder", "session", "sample")
DRAWS = 6


@dataclass(frozen=True)
class Kill:
    """One kill that hit: how long after its start the run was, and what was running then."""

    target: str
    after: float
    phase: str
    status: int
    unlocked: bool

    def __str__(self) -> str:
        end = "its lock was removed" if self.unlocked else f"the run ended with status {self.status}"
        return f"{self.target:9} after {self.after:5.2f} s, during {self.phase}; {end}"


def digests(project: Project) -> dict[str, str]:
    """sha256 of the three results."""
    folder = project.results / BACKBONE
    names = ("toy_features.npy", "frame_index.parquet", "feature_manifest.json")
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


@dataclass(frozen=True)
class Collection:
    """A project, its ``videos``, and how many ``rows`` each has, a frame in so many (``step``)."""

    project: Project
    videos: Sequence[str]
    rows: int
    step: int

    def use_index(self, shift: int) -> None:
        """Rows of every video, interleaved; ``shift`` (frames) makes all of them other rows."""
        rows = [
            (video, number, (self.step * number + shift) / FPS)
            for number in range(self.rows)
            for video in self.videos
        ]
        paths = [f"{video}.mp4" for video in self.videos]
        self.project.write_index(
            pd.DataFrame(rows, columns=["video_id", "frame_idx", "timestamp_sec"]),
            pd.DataFrame({"video_id": self.videos, "video_path": paths, "fps": FPS}),
        )

    def undisturbed(self) -> dict[int, dict[str, str]]:
        """By shift: the results of runs that nothing disturbed."""
        found = {}
        for shift in (0, 3):
            self.use_index(shift)
            self.project.run()
            found[shift] = digests(self.project)
        assert found[0] != found[3]
        return found


@pytest.fixture(scope="module")
def few(new_project: Callable[..., Project]) -> Collection:
    project = new_project(name="kill")
    for seed, video in enumerate(VIDEOS):
        write_clip(project.videos / f"{video}.mp4", seed)
    return Collection(project, VIDEOS, rows=6, step=7)


@pytest.fixture(scope="module")
def many(new_collection: Callable[..., Project]) -> Collection:
    return Collection(new_collection(FEW, name="kill-shards"), FEW, rows=2, step=5)


def candidates(target: str, run: subprocess.Popen[bytes]) -> list[psutil.Process]:
    if target in ("snakemake", "session"):
        return [psutil.Process(run.pid)]
    find = {"sample": processes.samplers, "decoder": processes.decoders, "embedder": processes.embedders}[
        target
    ]
    return find(run.pid)


def phase(pid: int) -> str:
    running = sorted(Counter(processes.jobs(pid).values()).items())
    return " + ".join(f"{count} {name}" if count > 1 else name for name, count in running) or "no job"


def kill_once(
    project: Project, target: str, moment: random.Random, length: float, videos: int | None = None
) -> Kill | None:
    """Run the workflow and kill ``target`` once; None where the run was over before it could be hit.

    Snakemake is hit at any time of a run of ``length`` seconds, or once some of so many ``videos`` are decoded; a job,
    decoder or embedder soon after one is seen, of which there are several in a run: one of the first is chosen.
    """
    run = processes.start(project)
    began = time.monotonic()
    first_look = (
        moment.uniform(0.5, length)
        if target in ("snakemake", "session")
        else moment.uniform(0.5, 0.6 * length)
    )
    some = moment.randrange(1, videos // 2) if videos else 0

    def is_time() -> bool:
        return len(project.work().sampled) >= some if videos else time.monotonic() - began >= first_look

    pause = {"sample": 0.4, "decoder": 0.3, "embedder": 1.5}.get(target, 0.0) * moment.random()
    hit = None
    try:
        while run.poll() is None and hit is None:
            if not is_time() or not (found := candidates(target, run)):
                time.sleep(0.005)
                continue
            victim = moment.choice(found)
            time.sleep(pause)
            where, after = phase(run.pid), time.monotonic() - began
            if run.poll() is not None or not victim.is_running():
                continue
            hit = (after, where)
            if target == "session":
                # As a batch system or the kernel ends a job: everything in it at once.
                below = processes.descendants(run.pid)
                for process in (victim, *below):
                    _kill(process)
            else:
                _kill(victim)
        status = run.wait(timeout=120)
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
    locked = target in ("snakemake", "session")
    return Kill(target, *hit, status, locked) if hit else None


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return


@pytest.fixture(scope="module")
def kills(request: pytest.FixtureRequest) -> Iterator[list[Kill]]:
    """What was killed, told at the end whatever ``-q`` or captured output."""
    done: list[Kill] = []
    yield done
    lines = [f"{len(done)} runs killed, {sum(kill.status != 0 for kill in done)} of them ended early:"]
    lines += [f"  {kill}" for kill in done]
    lines += [
        "by target: "
        + ", ".join(f"{name} {n}" for name, n in sorted(Counter(k.target for k in done).items()))
    ]
    lines += [
        "by phase: " + ", ".join(f"{name} {n}" for name, n in sorted(Counter(k.phase for k in done).items()))
    ]
    if done and not request.session.testsfailed:
        lines += ["differences from the undisturbed runs: 0"]
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("\n" + "\n".join(lines), file=sys.stderr)


def test_killed_runs_finish_with_the_same_bytes(
    few: Collection, kills: list[Kill], pytestconfig: pytest.Config
) -> None:
    count, seed = pytestconfig.getoption("--kills"), pytestconfig.getoption("--kill-seed")
    kill_runs(few, count, kills, TARGETS, seed)


def test_killed_in_the_middle_of_a_shard(
    many: Collection, kills: list[Kill], pytestconfig: pytest.Config
) -> None:
    count, seed = pytestconfig.getoption("--kills"), pytestconfig.getoption("--kill-seed")
    kill_runs(
        many, count, kills, ("session", "sample", "snakemake", "embedder", "decoder"), seed, shards=True
    )


def kill_runs(
    collection: Collection,
    count: int,
    kills: list[Kill],
    targets: Sequence[str],
    seed: int,
    shards: bool = False,
) -> None:
    """Kill ``count`` runs, each in its turn at one of ``targets``, and finish them; adds to ``kills``. ``shards``: not
    before some of a shard's videos are decoded."""
    project = collection.project
    undisturbed = collection.undisturbed()
    began = time.monotonic()
    project.run()  # nothing to do: how long Snakemake itself takes, to find the length of a whole run
    length = (time.monotonic() - began) * 2.5
    refused = False
    for number in range(count):
        target = targets[number % len(targets)]
        shift = 0 if number % 2 == 0 else 3
        for draw in range(DRAWS):
            collection.use_index(shift)
            project.forget_logs()
            moment = random.Random(f"{seed} {number} {draw}")
            kill = kill_once(project, target, moment, length, len(collection.videos) if shards else None)
            if kill is not None:
                break
            length *= 0.8
            collection.use_index(3 - shift)
            project.run()
        else:
            pytest.fail(f"{target} could not be hit in {DRAWS} runs")
        kills.append(kill)
        killed = project.work()
        if shards and target == "session":
            assert 0 < len(killed.sampled) < len(collection.videos), "not in the middle"
        if kill.unlocked:
            assert kill.status == -signal.SIGKILL
            if is_locked(project):
                if not refused:
                    refused = True
                    done = project.run(check=False)
                    assert done.status != 0
                    assert "--unlock" in done.output, done.output
                project.run("--unlock")
        project.forget_logs()
        finished = project.run()
        loses_no_more_than_the_videos_at_work(killed, project.work(), kill)
        assert digests(project) == undisturbed[shift], f"{kill}\n{finished.output}"
        assert not [
            path for path in (project.results / "frames").rglob("*.npy") if not path.name.startswith(".")
        ]
    assert project.run("--dry-run").jobs == []
    assert processes.left_in(project.folder) == []


def loses_no_more_than_the_videos_at_work(killed: Work, finished: Work, kill: Kill) -> None:
    """Each job works on one video at a time: what was done before is not done again."""
    assert len(set(killed.begun) - set(killed.sampled)) <= CORES, kill
    assert set(killed.sampled) & set(finished.begun) == set(), kill
    embedded = [set(work.embedded.get(BACKBONE, [])) for work in (killed, finished)]
    assert embedded[0] & embedded[1] == set(), kill


def is_locked(project: Project) -> bool:
    return any((project.folder / ".snakemake" / "locks").glob("*.lock"))
