"""A disk that is full: the run says so, no half file is taken for a result, and with room again it finishes."""

import hashlib
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.kill import processes
from tests.workflow.project import Project, environment

BACKBONE = "mobilenet_v3_large"
RESULTS = ("toy_features.npy", "frame_index.parquet", "feature_manifest.json")
SENTENCE = "No space left on device"


def digests(project: Project) -> dict[str, str]:
    folder = project.results / BACKBONE
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in RESULTS}


@pytest.fixture(scope="module")
def undisturbed(new_project: Callable[..., Project]) -> dict[str, str]:
    project = new_project(name="undisturbed")
    project.run()
    return digests(project)


class SmallDisk:
    """A tmpfs at ``folder``, of as many bytes as one says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"a disk of limited size needs the right to mount: {done.stderr.strip()}")

    def resize(self, size: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(self.folder)], check=True)

    def used(self) -> int:
        found = os.statvfs(self.folder)
        return (found.f_blocks - found.f_bfree) * found.f_frsize

    def leave_free(self, size: int) -> None:
        self.resize(self.used() + size)

    def close(self) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], check=False)


@pytest.fixture
def small_disk(new_project: Callable[..., Project]) -> Iterator[tuple[Project, SmallDisk]]:
    """A project whose results (not Snakemake's own notes) lie on a disk of limited size."""
    project = new_project(name="small")
    disk = SmallDisk(project.folder / "results")
    yield project, disk
    assert processes.left_in(project.folder) == []
    disk.close()


def fails_with_a_sentence(output: str, *files: str) -> None:
    assert SENTENCE in output, output
    assert "Traceback" not in output, output
    assert all(file in output for file in files), output


@pytest.mark.parametrize(
    ("until", "free", "on_bad_frames"),
    [
        pytest.param("merge_index", 200_000, "fail", id="while sampling"),
        # A full disk is no damage of a video: no row may be masked for it.
        pytest.param("merge_index", 200_000, "mask", id="while sampling, masked"),
        pytest.param("sample_frames", 8_192, "fail", id="while extracting"),
        pytest.param("extract_features", 8_192, "fail", id="while assembling"),
    ],
)
def test_results_on_a_full_disk(
    small_disk: tuple[Project, SmallDisk],
    undisturbed: dict[str, str],
    until: str,
    free: int,
    on_bad_frames: str,
) -> None:
    project, disk = small_disk
    project.config["on_bad_frames"] = on_bad_frames
    # Frames are temporary: kept here, so that the run can be stopped between sampling and extraction.
    project.run("--until", until, *(["--notemp"] if until == "sample_frames" else []))
    disk.leave_free(free)
    full = project.run(check=False)
    assert full.status != 0
    fails_with_a_sentence(full.output)
    assert not [name for name in RESULTS if (project.results / BACKBONE / name).exists()]
    disk.resize(64 << 20)
    project.run()
    found = digests(project)
    if on_bad_frames == "fail":
        assert found == undisturbed
    else:
        assert found["toy_features.npy"] == undisturbed["toy_features.npy"]
        assert found["frame_index.parquet"] == undisturbed["frame_index.parquet"]


def test_everything_on_a_full_disk(
    new_project: Callable[..., Project], undisturbed: dict[str, str], tmp_path: Path
) -> None:
    """Snakemake's own notes have no room either."""
    source = new_project(name="whole")
    disk = SmallDisk(tmp_path / "disk")
    try:
        project = Project(disk.folder / "work")
        project.config = source.config
        for path in source.videos.iterdir():
            (project.videos / path.name).write_bytes(path.read_bytes())
        for name in ("frames.csv", "videos.csv"):
            (project.folder / name).write_bytes((source.folder / name).read_bytes())
        project.run("--until", "merge_index")
        for free in (700_000, 1_400_000):
            disk.leave_free(free)
            full = project.run(check=False)
            assert full.status != 0
            assert SENTENCE in full.output, full.output
            assert not [name for name in RESULTS if (project.results / BACKBONE / name).exists()]
            disk.resize(64 << 20)
            if is_locked(project):
                project.run("--unlock")
        project.run()
        assert digests(project) == undisturbed
        assert processes.left_in(project.folder) == []
    finally:
        disk.close()


def is_locked(project: Project) -> bool:
    return any((project.folder / ".snakemake" / "locks").glob("*.lock"))


def test_files_of_limited_size(new_project: Callable[..., Project], undisturbed: dict[str, str]) -> None:
    """Needs no rights: the kernel refuses files above a size, as a quota does."""
    project = new_project(name="limited")
    project.run("--until", "merge_index")
    (project.folder / "run.yaml").write_text(yaml.safe_dump(project.config), encoding="utf-8")
    limited = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "2", "--resources", "gpu=1", "--configfile", "run.yaml",
         "--nocolor", "--keep-going"],
        cwd=project.folder, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300,
        check=False, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000)),
    )  # fmt: skip
    assert limited.returncode != 0
    assert "File too large" in limited.stdout, limited.stdout
    assert "Traceback" not in limited.stdout, limited.stdout
    assert not [name for name in RESULTS if (project.results / BACKBONE / name).exists()]
    project.run()
    assert digests(project) == undisturbed
