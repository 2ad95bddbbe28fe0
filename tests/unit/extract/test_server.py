"""The warm embedder as processes: one per owner and device, gone with its owner, and never a stale answer."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from framefeat import stored
from framefeat.environment import DEVICES, OWNER
from framefeat.errors import UserError
from framefeat.extract import client, devices
from framefeat.layout import ResultsFolder

from tests.models import live_model
from tests.unit.extract.shard import BACKBONE, BAD, Shard, real_spec

ARCH = "mobilenet_v3_small"


class Owner:
    """A process that stands for Snakemake, with its runtime folder below ``base``."""

    def __init__(self, base: Path) -> None:
        self.process = subprocess.Popen(["sleep", "600"])
        self.identity = devices.process_identity(self.process.pid)
        self.base = base

    @property
    def folder(self) -> Path:
        return client.runtime_folder(self.identity)

    def embedders(self) -> list[int]:
        """Process numbers of this owner's embedders."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                parts = path.read_bytes().split(b"\0")
            except OSError:
                continue
            if b"framefeat.extract.server" in parts and self.identity.encode() in parts:
                found.append(int(path.parent.name))
        return found

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        wait_until(lambda: not self.embedders())


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return live_model(ARCH, tmp_path_factory.mktemp("weights") / "small.pth")


@pytest.fixture
def owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Owner]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/tmp")
    found = Owner(tmp_path)
    yield found
    found.end()


class Jobs:
    """Extractions of one video of six rows, row 2 of them bad; each has a data set of its own."""

    def __init__(self, folder: Path, weights: Path) -> None:
        self.folder, self.weights = folder, weights

    def shard(self, out: str, weights: Path | None = None, identity: str = "a") -> Shard:
        shard = Shard(self.folder / out, {"v": 6}, real_spec(ARCH, self.weights))
        shard.weights, shard.identity = weights or self.weights, identity
        return shard

    def __call__(self, out: str, weights: Path | None = None, identity: str = "a") -> list[str]:
        """The command line."""
        arguments = self.shard(out, weights, identity).arguments(
            "--embedder-logs", str(self.folder / "logs"), "--gpus", "1", "--device", "auto"
        )
        return [sys.executable, "-m", "framefeat.cli", *arguments]

    def features(self, out: str) -> Path:
        return ResultsFolder(self.folder / out).backbone(BACKBONE).features("v")

    def values(self, out: str) -> np.ndarray:
        return stored.read_array(self.features(out), "features")


@pytest.fixture
def job(tmp_path: Path, weights: Path) -> Jobs:
    return Jobs(tmp_path, weights)


def environment(owner: Owner | None, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FRAMEFEAT_")}
    return kept | ({OWNER: owner.identity} if owner else {}) | more


def test_one_embedder_for_many_clients_and_the_bytes_of_none(owner: Owner, job: Jobs) -> None:
    clients = [
        subprocess.Popen(job(f"o{n}"), env=environment(owner), stdout=subprocess.PIPE) for n in range(3)
    ]
    outputs = [client.communicate(timeout=120)[0] for client in clients]  # to the end: no stream is held open
    assert [client.returncode for client in clients] == [0, 0, 0]
    assert outputs == [b"", b"", b""]
    assert len(owner.embedders()) == 1
    subprocess.run(job("off"), env=environment(None), check=True)
    assert len({job.features(out).read_bytes() for out in ("o0", "o1", "o2", "off")}) == 1
    features = job.values("off")
    assert features.shape == (6, 576)
    assert np.isnan(features[BAD]).all()
    assert np.delete(features, BAD, 0).std() > 0.01
    folder = owner.folder
    owner.end()
    assert not folder.exists()


def test_killed_embedder_fails_its_job_with_a_sentence_and_the_next_starts_another(
    owner: Owner, job: Jobs
) -> None:
    subprocess.run(job("first"), env=environment(owner), check=True)
    (pid,) = owner.embedders()
    os.kill(pid, signal.SIGSTOP)  # so that the next request is certainly under way when it dies
    client = subprocess.Popen(
        job("second", identity="b"), env=environment(owner), stderr=subprocess.PIPE, text=True
    )
    time.sleep(1.0)
    os.kill(pid, signal.SIGKILL)
    _, said = client.communicate(timeout=120)
    # It had not taken the request, so a new embedder did the work; had it taken it, the sentence names its log.
    assert client.returncode == 0 or "the embedder ended while it worked" in said
    subprocess.run(job("third", identity="c"), env=environment(owner), check=True)
    assert owner.embedders() != [pid]


def test_other_weights_are_another_model(owner: Owner, job: Jobs, tmp_path: Path) -> None:
    other = live_model(ARCH, tmp_path / "other.pth", seed=3)
    subprocess.run(job("one"), env=environment(owner), check=True)
    subprocess.run(job("two", other, "other"), env=environment(owner), check=True)
    one, two = job.values("one"), job.values("two")
    assert not np.allclose(one[0], two[0])
    assert len(owner.embedders()) == 1


def test_its_errors_reach_the_job(owner: Owner, job: Jobs, tmp_path: Path) -> None:
    (tmp_path / "bad.pth").write_bytes(b"no weights")
    done = subprocess.run(
        job("out", tmp_path / "bad.pth"),
        env=environment(owner),
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "bad.pth" in done.stderr
    assert not job.features("out").exists()


def test_each_device_has_its_own(owner: Owner, job: Jobs) -> None:
    env = environment(owner, FRAMEFEAT_DEVICES="fake0,fake1")
    clients = [subprocess.Popen(job(f"o{n}", identity=f"i{n}"), env=env) for n in range(4)]
    assert [client.wait(timeout=180) for client in clients] == [0] * 4
    assert len(owner.embedders()) == 2
    assert sorted(path.stem for path in owner.folder.glob("*.sock")) == ["fake0", "fake1"]


def test_idle_end(owner: Owner, job: Jobs) -> None:
    subprocess.run(job("out"), env=environment(owner, FRAMEFEAT_IDLE_S="1"), check=True)
    wait_until(lambda: not owner.embedders())
    assert not list(owner.folder.glob("*.sock"))


def test_stored_features_need_no_embedder(owner: Owner, job: Jobs) -> None:
    subprocess.run(job("out"), env=environment(None), check=True)
    before = job.features("out").read_bytes()
    done = job.shard("out").extracted
    done.unlink()
    subprocess.run(job("out"), env=environment(owner), check=True)
    assert done.exists()
    assert job.features("out").read_bytes() == before
    assert owner.embedders() == []


def test_a_folder_that_others_can_enter_is_refused(owner: Owner) -> None:
    folder = owner.folder
    folder.chmod(0o755)
    with pytest.raises(UserError, match="mode 700"):
        client.runtime_folder(owner.identity)
    folder.rmdir()


def test_a_client_without_the_key_is_refused(owner: Owner, job: Jobs) -> None:
    from multiprocessing import AuthenticationError
    from multiprocessing.connection import Client

    subprocess.run(job("out"), env=environment(owner), check=True)
    with pytest.raises((AuthenticationError, EOFError)):
        Client(str(next(owner.folder.glob("*.sock"))), "AF_UNIX", authkey=b"wrong")
    subprocess.run(job("again", identity="b"), env=environment(owner), check=True)


def test_the_client_is_light() -> None:
    """Neither numpy nor torch nor a table library is imported for an extraction that others compute."""
    code = (
        "import sys; import framefeat.cli, framefeat.extract.stage, framefeat.extract.client;"
        "heavy = {'numpy', 'torch', 'pandas', 'pyarrow', 'PIL', 'av'} & set(sys.modules); sys.exit(repr(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("visible", "present", "expected"),
    [
        (None, 2, ["0", "1"]),
        ("1", 2, ["1"]),
        ("", 2, []),
        ("-1", 2, []),
        ("0,5,1", 2, ["0"]),
        ("GPU-aa,MIG-bb", 2, ["GPU-aa", "MIG-bb"]),
        ("0", 0, []),
    ],
)
def test_visible_devices(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, present: int, expected: list[str]
) -> None:
    monkeypatch.delenv(DEVICES, raising=False)
    monkeypatch.setattr(devices, "present_devices", lambda: present)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices.cuda_devices() == expected
    assert devices.wanted("auto") == expected
    assert devices.wanted("cpu") == []
    if not expected:
        with pytest.raises(UserError, match="no CUDA device"):
            devices.wanted("cuda")
