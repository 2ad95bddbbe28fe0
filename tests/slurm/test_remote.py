"""Videos behind addresses: fetched for their job by a storage plugin, not kept, and the same bytes as from the disk."""

import functools
import hashlib
import http.server
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from tests.slurm.conftest import ENVIRONMENT, matrix
from tests.workflow.conftest import FPS, write_clip
from tests.workflow.project import Project, Run, environment, started_jobs

pytestmark = pytest.mark.skipif(
    not (ENVIRONMENT / "snakemake").exists(), reason="no .venv-slurm here: make env-slurm"
)
NAMES = ("a", "b")


class Server:
    """Serves a folder on loopback and remembers what was asked of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        server = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                server.asked.append(f"{self.command} {self.path}")

        self._http = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))
        )
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()
        self.address = f"http://127.0.0.1:{self._http.server_port}"

    def fetched(self) -> list[str]:
        """The files that were fetched since the last call."""
        found = sorted(line.removeprefix("GET /") for line in self.asked if line.startswith("GET"))
        self.asked.clear()
        return found

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served")
    for seed, name in enumerate(NAMES):
        write_clip(folder / f"{name}.mp4", seed=seed)
        os.utime(folder / f"{name}.mp4", (1_600_000_000, 1_600_000_000))
    running = Server(folder)
    yield running
    running.stop()


def project_of(folder: Path, weights: Path, places: list[str], sha256: list[str] | None = None) -> Project:
    project = Project(folder)
    rows = pd.DataFrame(
        [{"video_id": name, "timestamp_sec": number / 2} for number in range(4) for name in NAMES]
    )
    videos = pd.DataFrame({"video_id": NAMES, "video_path": places, "fps": FPS})
    if sha256:
        videos["sha256"] = sha256
    project.write_index(rows, videos)
    project.config["weights"] = str(weights)
    return project


def run(project: Project, *arguments: str, check: bool = True) -> Run:
    (project.folder / "run.yaml").write_text(yaml.safe_dump(project.config), encoding="utf-8")
    path = os.pathsep.join([str(ENVIRONMENT), os.environ["PATH"]])
    done = subprocess.run(
        [str(ENVIRONMENT / "snakemake"), "--cores", "2", "--configfile", "run.yaml", "--nocolor", *arguments],
        cwd=project.folder, env=environment() | {"PATH": path}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300, check=False,
    )  # fmt: skip
    assert not check or done.returncode == 0, done.stdout
    return Run(done.returncode, done.stdout, started_jobs(done.stdout))


def test_fetched_once_not_kept_and_the_same_numbers(server: Server, weights: Path, tmp_path: Path) -> None:
    sums = [hashlib.sha256((server.folder / f"{name}.mp4").read_bytes()).hexdigest() for name in NAMES]
    remote = project_of(
        tmp_path / "remote", weights, [f"{server.address}/{name}.mp4" for name in NAMES], sums
    )
    server.fetched()
    run(remote)
    assert server.fetched() == ["a.mp4", "b.mp4"]
    assert not [path for path in (remote.folder / ".snakemake" / "storage").rglob("*") if path.is_file()]
    local = project_of(
        tmp_path / "local", weights, [str(server.folder / f"{name}.mp4") for name in NAMES], sums
    )
    run(local)
    assert (remote.results / "mobilenet_v3_large" / "toy_features.npy").read_bytes() == (
        local.results / "mobilenet_v3_large" / "toy_features.npy"
    ).read_bytes()
    assert matrix(remote).shape == (8, 960)
    assert run(remote).jobs == []
    assert server.fetched() == []

    # One row edited: one video is fetched again.
    rows = remote.rows()
    rows.loc[rows["video_id"] == "b", "timestamp_sec"] += [0, 0.04, 0, 0]
    remote.write_index(rows, remote.video_table())
    assert run(remote).of("sample_frames") == ["sample_frames:b"]
    assert server.fetched() == ["b.mp4"]


def test_a_file_that_the_index_does_not_identify(server: Server, weights: Path, tmp_path: Path) -> None:
    """It is fetched where the server calls it newer, and decoded where its content is another, if at the same times."""
    remote = project_of(tmp_path / "remote", weights, [f"{server.address}/{name}.mp4" for name in NAMES])
    run(remote)
    before = matrix(remote)
    served = server.folder / "b.mp4"
    content, when = served.read_bytes(), served.stat().st_mtime
    later = time.time() + 60
    try:
        os.utime(served, (later, later))
        server.fetched()
        remote.forget_logs()
        run(remote)
        assert server.fetched() == ["b.mp4"]
        assert remote.work().begun == []
        assert np.array_equal(matrix(remote), before)
        write_clip(served, seed=9)
        os.utime(served, (later + 60, later + 60))
        remote.forget_logs()
        run(remote)
        assert [(one.video, one.reasons) for one in remote.work().decoded] == [
            ("b", "the fetched file's content changed")
        ]
        assert [not np.array_equal(*rows) for rows in zip(matrix(remote), before, strict=True)] == [
            video == "b" for video in remote.rows()["video_id"]
        ]
    finally:
        served.write_bytes(content)
        os.utime(served, (when, when))


def test_a_changed_file_and_a_missing_one(server: Server, weights: Path, tmp_path: Path) -> None:
    places = [f"{server.address}/{name}.mp4" for name in NAMES]
    wrong = project_of(tmp_path / "wrong", weights, places, ["0" * 64, ""])
    done = run(wrong, "--keep-going", check=False)
    assert done.status != 0
    assert f"the index says sha256 {'0' * 64}" in done.output
    features = (wrong.results / "mobilenet_v3_large" / "features").glob("*.safetensors")
    assert [path.stem for path in features] == ["b"]
    gone = project_of(tmp_path / "gone", weights, [places[0], f"{server.address}/gone.mp4"])
    done = run(gone, "--keep-going", check=False)
    assert done.status != 0
    assert f"{server.address}/gone.mp4" in done.output
