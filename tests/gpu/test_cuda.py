"""On a CUDA device: the CPU's features within rounding, the same bytes twice, and what happens when it fails."""

import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from framefeat.backbone.network import embed, load_model
from framefeat.backbone.resolve import resolve
from framefeat.environment import DEVICES
from framefeat.extract import client, devices
from framefeat.files import file_sha256

from tests.models import live_model, pictures
from tests.unit.extract.shard import Shard, real_spec
from tests.unit.extract.test_client import Run, runtime, wait_for
from tests.unit.extract.test_embed import ORDERS, ROWS, embedded
from tests.unit.extract.test_stage import run

__all__ = ["run", "runtime"]  # fixtures

pytestmark = pytest.mark.needs_cuda

FAMILIES = ("mobilenet_v3_large", "resnet50", "efficientnet_b0", "densenet121", "swin_t", "vit_b_16")
#: Largest distance of a row's features from the CPU's in float32, as a part of their length. Rounding of the half
#: precisions on the CPU itself: up to 0.084 and 0.015 (resnet50 with random weights).
TOLERANCE = {"float32": 1e-3, "bf16": 0.15, "fp16": 0.03}
FRAMES = pictures(21)


@pytest.fixture(scope="module")
def family(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str, np.ndarray]:
    """A backbone's name, its weights and the CPU's features."""
    name = request.param
    weights = str(live_model(name, tmp_path_factory.mktemp("weights") / f"{name}.pth"))
    expected = embed(load_model(resolve(name, weights), weights), FRAMES, 16, workers=os.cpu_count() or 1)[0]
    assert expected.std(0).mean() > 0.01
    return name, weights, expected


def test_the_cpus_features_and_the_same_bytes_twice(
    family: tuple[str, str, np.ndarray], device: str, precision: str
) -> None:
    name, weights, expected = family
    found = []
    for _ in range(2):
        network = load_model(resolve(name, weights), weights, device=device, precision=precision)
        found += [embed(network, FRAMES, 8)[0], embed(network, FRAMES, 8)[0]]
        np.testing.assert_array_equal(
            embed(network, FRAMES[:11], 8)[0], found[-1][:11]
        )  # whatever comes after
    for features in found[1:]:
        np.testing.assert_array_equal(features, found[0])
    far = np.linalg.norm(found[0] - expected, axis=1) / np.linalg.norm(expected, axis=1)
    print(f"{name} {precision}: {far.max():.2g} of its length from the CPU")
    assert far.max() <= TOLERANCE[precision]


def test_a_videos_bytes_do_not_depend_on_its_neighbours(
    family: tuple[str, str, np.ndarray], device: str, precision: str, tmp_path: Path
) -> None:
    """Whether or not this device's kernels let videos share a batch."""
    name, weights, _ = family
    spec = resolve(name, weights)
    network = load_model(spec, weights, device=device, precision=precision)
    shard = Shard(tmp_path, ROWS, spec.to_json(), spec.geometry)
    alone: dict[str, bytes] = {}
    for key in ROWS:
        alone |= embedded(shard, network, key, batch_size=8)
    for order in ORDERS:
        assert embedded(shard, network, *order, batch_size=8) == alone
    print(f"{name} {precision}: rows stand alone: {network.alone}")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return live_model("mobilenet_v3_small", tmp_path_factory.mktemp("weights") / "small.pth")


def test_out_of_memory_halves_the_batch(small: Path, real_device: None) -> None:
    network = load_model(resolve("mobilenet_v3_small", str(small)), str(small), device="cuda")
    expected = embed(network, FRAMES, 8)[0]
    torch.cuda.empty_cache()
    many = np.concatenate([FRAMES] * 50)
    room = torch.cuda.memory_reserved() + 5e8
    torch.cuda.set_per_process_memory_fraction(room / torch.cuda.mem_get_info()[1])
    try:
        features, used = embed(network, many, 1024)
        assert used < 1024
        assert embed(network, many[:21], 1024)[1] == used  # remembered
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert np.linalg.norm(features[:21] - expected) <= TOLERANCE["float32"] * np.linalg.norm(expected)


def test_the_device_is_known(small: Path, real_device: None) -> None:
    about = load_model(resolve("mobilenet_v3_small", str(small)), str(small), device="cuda").about
    assert about["device"] == torch.cuda.get_device_name()
    assert re.fullmatch(r"\d{3}\.[\d.]+", about["driver"])
    assert (about["cuda"], about["cudnn"]) == (torch.version.cuda, torch.backends.cudnn.version())
    assert about["folding"] == "folded"


# ---------------------------------------------------------------------------------------------------- the embedder


@pytest.fixture
def known_as(device: str) -> str:
    """What the record calls the device."""
    return torch.cuda.get_device_name() if device == "cuda" else device


@pytest.fixture
def job(
    run: Run, tmp_path: Path, small: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Any]]:
    """Extract a video on a device; returns the job's status, its features and its record."""
    if device == "cpu":
        monkeypatch.setenv(DEVICES, "fake0,fake1")
    monkeypatch.setattr(client, "COMMAND", [sys.executable, "-P", "-m", "framefeat.extract.server"])
    weights = tmp_path / "weights.pth"
    weights.symlink_to(small)

    def extract(name: str, device: str = "cuda") -> tuple[int, np.ndarray | None, Any]:
        shard = Shard(tmp_path / name, spec=real_spec("mobilenet_v3_small", weights))
        shard.weights, shard.identity = weights, file_sha256(weights)
        status = shard.run("--device", device, "--gpus", "1", "--embedder-logs", str(tmp_path / "logs"))
        return status, *((shard.values(), shard.record()) if status == 0 else (None, None))

    yield extract
    run.end()
    os.environ.pop(DEVICES, None)  # the next test asks anew


def log(folder: Path) -> str:
    return "".join(path.read_text() for path in (folder / "logs").glob("*.log"))


def test_a_killed_embedder_is_replaced(
    job: Callable[..., Any], device: str, known_as: str, tmp_path: Path
) -> None:
    _, first, record = job("first")
    assert record["device"] == device
    assert record["network"]["device"] == known_as
    (pid,) = {int(number) for number in re.findall(r"embedder (\d+): ready", log(tmp_path))}
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not devices.is_running(f"{pid}:"))
    _, second, _ = job("second")
    np.testing.assert_array_equal(first, second)
    assert log(tmp_path).count("ready for") == 2


def test_a_spoiled_context_costs_one_process(
    job: Callable[..., Any],
    known_as: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    script = str(Path(__file__).with_name("poisoned_embedder.py"))
    monkeypatch.setattr(client, "COMMAND", [sys.executable, script])
    _, good, _ = job("good")
    (tmp_path / "poison").write_text("once")
    status, again, _ = job("again")
    assert status == 0
    np.testing.assert_array_equal(again, good)
    assert log(tmp_path).count("ready for") == 2
    (tmp_path / "poison").write_text("always")
    assert job("never")[0] == 1
    said = capsys.readouterr().err
    assert re.search(
        rf"the device failed twice, each time in a new process \(device \S+, {re.escape(known_as)}: ", said
    ), said
    (tmp_path / "poison").unlink()
    np.testing.assert_array_equal(job("after")[1], good)


def test_two_devices_have_an_embedder_each(job: Callable[..., Any], tmp_path: Path) -> None:
    names = devices.cuda_devices()[:2]
    if len(names) < 2:
        pytest.skip("one CUDA device")
    with ThreadPoolExecutor(2) as pool:
        (_, one, first), (_, two, second) = pool.map(job, ("one", "two"), ("cuda:0", "cuda:1"))
    assert sorted(path.stem for path in (tmp_path / "logs").glob("*.log")) == sorted(
        map(devices.file_name, names)
    )
    if first["network"] == second["network"]:  # two of a kind
        np.testing.assert_array_equal(one, two)
