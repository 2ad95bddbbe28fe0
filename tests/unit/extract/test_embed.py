"""Embedding several videos: the same bytes whoever stands beside whom; reading and writing beside the forward pass."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from framefeat import stored
from framefeat.backbone import network as networks
from framefeat.backbone.network import Network, load_model
from framefeat.errors import MachineError, UserError
from framefeat.extract import embed
from framefeat.extract.embed import embed_videos
from framefeat.extract.server import TorchBackend

from tests.models import small_model
from tests.unit.extract.shard import Shard

ROWS = {"one": 1, "five": 5, "full": 16, "eleven": 11}
ORDERS = (
    ("one", "five", "full", "eleven"),
    ("eleven", "full", "five", "one"),
    ("five", "eleven", "one", "full"),
    ("full", "one", "eleven", "five"),
)
#: Names and sides in pixels.
FAMILIES = (
    ("mobilenet_v3_large", 224),
    ("resnet18", 64),
    ("timm:vit_tiny_patch16_224", 64),
    ("timm:convnext_atto", 64),
    ("efficientnet_b0", 64),
    ("swin_t", 32),
    ("regnet_y_400mf", 64),
)


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family[0])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A backbone's specification, its weights and its geometry."""
    name, side = request.param
    weights = tmp_path_factory.mktemp("weights") / "live.pth"
    return small_model(name, weights, side), weights, f"squash{side}"


def embedded(shard: Shard, network: Any, *keys: str, **more: Any) -> dict[str, bytes]:
    """The files of ``keys``, embedded in one request."""
    told: list[Any] = []
    embed_videos(shard.request(*keys, **more), network, "0" * 64, told.append)
    assert [answer["place"] for answer in told] == list(range(len(keys)))
    return {key: shard.bytes(key) for key in keys}


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_videos_bytes_do_not_depend_on_its_neighbours(
    family: Any, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, weights, geometry = family
    network: Network = load_model(spec, weights, precision=precision)
    shard = Shard(tmp_path, ROWS, spec.to_json(), geometry)
    alone: dict[str, bytes] = {}
    for key in ROWS:
        alone |= embedded(shard, network, key)
        features = shard.values(key)
        good = np.isfinite(features).all(1)
        assert good.sum() == ROWS[key] - (ROWS[key] >= 5)
        assert ROWS[key] == 1 or features[good].std(0).mean() > 1e-3
    for order in ORDERS:
        assert embedded(shard, network, *order, threads=2) == alone
    monkeypatch.setattr(embed, "_PACK_ROWS", 6)  # videos of several packs
    assert embedded(shard, network, *ORDERS[0]) == alone


# ------------------------------------------------------------------------------------------------------- stand-ins


class Tiny:
    """A network whose features are the mean colours, plus ``skew`` for each place that a row is from the first of its
    batch."""

    spec = SimpleNamespace(name="tiny", dim=3)
    size = (4, 5)

    def __init__(self, skew: float = 0.0) -> None:
        self.device = torch.device("cpu")
        self.about: dict[str, Any] = {"device": "cpu", "warnings": []}
        self.fits: int | None = None
        self.alone: dict[int, bool] = {}
        self.quarters = {16: False}  # every batch is a whole one
        self.skew = skew
        self.batches = 0

    def __call__(self, frames: torch.Tensor) -> torch.Tensor:
        self.batches += 1
        places = torch.arange(len(frames), dtype=torch.float32)[:, None]
        return frames.float().mean((1, 2)) + self.skew * places


@pytest.fixture
def other_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU is taken for a device of which it is to be tried."""
    monkeypatch.setattr(networks, "REFERENCE", "none")


def small_shard(folder: Path, rows: dict[str, int]) -> Shard:
    return Shard(folder, rows, geometry="squash4x5")


@pytest.mark.parametrize("skew", [0.0, 1e-4])
def test_videos_share_batches_only_where_rows_stand_alone(
    other_device: None, tmp_path: Path, skew: float
) -> None:
    shard = small_shard(tmp_path, ROWS)
    alone: dict[str, bytes] = {}
    for key in ROWS:
        alone |= embedded(shard, Tiny(skew), key)
    tiny = Tiny(skew)
    assert embedded(shard, tiny, *ROWS) == alone
    assert tiny.alone == {16: skew == 0}
    tried, tiny.batches = tiny.batches, 0
    embedded(shard, tiny, *ROWS)
    # The second look at the full one needs a batch of its own in both cases.
    assert tiny.batches == (3 + 1 if skew == 0 else 4 + 1)
    assert tried > tiny.batches  # it is tried once


def test_one_by_one_where_it_is_asked_for(tmp_path: Path) -> None:
    """After a device was lost: then it shows who is to blame."""
    shard, tiny = small_shard(tmp_path, ROWS), Tiny()
    embedded(shard, tiny, *ROWS, together=False)
    assert tiny.batches == 4 + 1


def test_many_small_videos_fill_their_batches(tmp_path: Path) -> None:
    shard, tiny = small_shard(tmp_path, {f"v{number:03}": 2 for number in range(200)}), Tiny()
    embedded(shard, tiny, *shard.keys)
    rows = 200 * 3  # the second look at row 1 is one more
    assert tiny.batches <= rows / 16 + 3


def test_a_cuda_device_gets_batches_of_one_size(
    other_device: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its kernels for another one round differently, so that the second look would find other features."""

    class Kernels(Tiny):
        def __call__(self, frames: torch.Tensor) -> torch.Tensor:
            return super().__call__(frames) + torch.tensor([0.0, 0.0, 9.0 * len(frames)])

    monkeypatch.setattr(networks, "_embed_cuda", networks._embed_cpu)
    kernels = Kernels()
    kernels.device = torch.device("cuda")
    monkeypatch.setattr(networks, "rows_stand_alone", lambda *_: True)
    shard = small_shard(tmp_path, ROWS)
    embedded(shard, kernels, *ROWS, batch_size=8)
    assert shard.record("full")["recheck"] == {"rows": [1, 4], "cosine": [1.0, 1.0], "agrees": True}


def test_the_record_says_what_computed_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Small(Tiny):
        def __call__(self, frames: torch.Tensor) -> torch.Tensor:
            if len(frames) > 4:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super().__call__(frames)

    shard, small = small_shard(tmp_path, ROWS), Small()
    small.about = {"device": "NVIDIA Test", "driver": "570.1", "warnings": ["slow"]}
    embedded(shard, small, *ROWS, warnings=["one GPU is not used"])
    record = shard.record("full")
    assert record["network"] == {**small.about, "warnings": ["slow", "one GPU is not used"]}
    assert (record["batch_size"], record["batch_halved"]) == (4, True)


# --------------------------------------------------------------------------------------------- one thing beside another


def test_a_pack_is_written_and_told_of_while_the_next_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the device is held for the forward pass only."""
    shard = small_shard(tmp_path, {"a": 3, "b": 3, "c": 3})
    begun, told = threading.Event(), threading.Event()
    holding: set[int] = set()
    order: list[str] = []
    monkeypatch.setattr(embed, "_PACK_ROWS", 3)
    write, read = stored.write, stored.read_record

    def note_write(path: Any, record: Any, arrays: Any) -> None:
        assert threading.get_ident() not in holding
        if record["video_id"] == "a":
            assert begun.wait(10), "the next pack waits until this one is written"
        order.append(f"write {record['video_id']}")
        write(path, record, arrays)

    def note_read(path: Any) -> Any:
        assert threading.get_ident() not in holding
        return read(path)

    class Noting(Tiny):
        def __call__(self, frames: torch.Tensor) -> torch.Tensor:
            assert holding
            if self.batches == 1:
                begun.set()
                assert told.wait(10), "nobody is told before the next pack is computed"
                order.append("compute b")
            return super().__call__(frames)

    @contextmanager
    def turn() -> Iterator[None]:
        holding.add(threading.get_ident())
        yield
        holding.clear()

    def tell(answer: Any) -> None:
        assert "record" in answer, answer
        order.append(f"tell {answer['record']['video_id']}")
        told.set()

    monkeypatch.setattr(stored, "write", note_write)
    monkeypatch.setattr(stored, "read_record", note_read)
    embed_videos(shard.request("a", "b", "c"), Noting(), "0" * 64, tell, turn)
    assert order == [
        "write a", "tell a", "compute b", "write b", "tell b", "write c", "tell c",
    ]  # fmt: skip


def test_clients_of_a_device_read_and_write_while_another_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One at a time has the device; nobody else waits for it."""
    shard = small_shard(tmp_path, {"a": 3, "b": 3})
    second_read, second_computes = threading.Event(), threading.Event()
    write, opened = stored.write, embed._opened
    at_once: list[int] = [0]

    class Device(Tiny):
        def __call__(self, frames: torch.Tensor) -> torch.Tensor:
            at_once[0] += 1
            assert at_once[0] == 1, "two at once on one device"
            if self.batches == 0:
                assert second_read.wait(10), "the second cannot read while the first computes"
            else:
                second_computes.set()
            at_once[0] -= 1
            return super().__call__(frames)

    device = Device()
    computing = threading.Event()

    def open_one(video: Any) -> Any:
        found = opened(video)
        if video["video"] == "b":
            second_read.set()
        return found

    def note_write(path: Any, record: Any, arrays: Any) -> None:
        if record["video_id"] == "a":
            assert second_computes.wait(10), "the second cannot compute while the first writes"
        write(path, record, arrays)

    monkeypatch.setattr(embed, "load_network", lambda *_: (device, "0" * 64))
    monkeypatch.setattr(embed, "_opened", open_one)
    monkeypatch.setattr(stored, "write", note_write)
    shard.weights.touch()
    backend = TorchBackend("cuda")
    told: list[Any] = []

    def ask(key: str) -> None:
        if key == "b":
            assert computing.wait(10)
        else:
            computing.set()
        backend.embed(shard.request(key), told.append, lambda: None)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(ask, ["a", "b"]))
    assert all("record" in answer for answer in told)
    assert len(told) == 2


# ------------------------------------------------------------------------------------------------------------ faults


class Fragile(Tiny):
    """Fails where a frame of a colour is in the batch."""

    def __init__(self, error: Exception, colour: int) -> None:
        super().__init__()
        self.error, self.colour = error, colour

    def __call__(self, frames: torch.Tensor) -> torch.Tensor:
        if (frames == self.colour).flatten(1).all(1).any():
            raise self.error
        return super().__call__(frames)


def coloured(shard: Shard, key: str, colour: int) -> None:
    frames = np.load(shard.frames(key))
    frames[0] = colour
    np.save(shard.frames(key), frames)


def test_what_nobody_foresaw_is_found_out_alone(tmp_path: Path) -> None:
    shard = small_shard(tmp_path, {"a": 3, "b": 4, "c": 3, "d": 4})
    coloured(shard, "b", 7)
    told: list[Any] = []
    embed_videos(shard.request(*shard.keys), Fragile(RuntimeError("of all things"), 7), "0" * 64, told.append)
    assert [answer["place"] for answer in told] == [0, 1, 2, 3]
    assert ["trace" in answer for answer in told] == [False, True, False, False]
    assert told[1]["record"]["problems"] == ["its frames could not be embedded (RuntimeError: of all things)"]
    assert np.isnan(shard.values("b")).all()
    before = [shard.bytes(key) for key in ("a", "c", "d")]
    for key in ("a", "c", "d"):
        assert embedded(shard, Tiny(), key)[key] in before


def test_the_question_whose_fault_it_is_waits_for_its_turn(tmp_path: Path) -> None:
    """It is asked of the device as well."""
    shard = small_shard(tmp_path, {"a": 3})
    coloured(shard, "a", 7)
    held = [False]

    class Held(Fragile):
        def __call__(self, frames: torch.Tensor) -> torch.Tensor:
            assert held[0]
            return super().__call__(frames)

    @contextmanager
    def turn() -> Iterator[None]:
        held[0] = True
        try:
            yield
        finally:
            held[0] = False

    told: list[Any] = []
    embed_videos(shard.request("a"), Held(ValueError("odd"), 7), "0" * 64, told.append, turn)
    assert told[0]["record"]["problems"] == ["its frames could not be embedded (ValueError: odd)"]


def test_threads_that_cannot_be_had_are_no_video_s_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = small_shard(tmp_path, {"a": 40})
    start = threading.Thread.start

    def limited(thread: threading.Thread) -> None:
        if thread.name == "embed_1":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    with pytest.raises(MachineError, match="no more threads"):
        embed_videos({**shard.request("a"), "threads": 2}, Tiny(), "0" * 64, lambda answer: None)
    assert not list(tmp_path.rglob("features/*"))


def test_what_only_fails_at_this_size_is_no_video_s_fault(tmp_path: Path) -> None:
    """Other frames, as many, fail as well."""
    shard = small_shard(tmp_path, {"a": 40})

    class Limited(Tiny):
        def __call__(self, frames: torch.Tensor) -> torch.Tensor:
            if len(frames) > 1:
                raise RuntimeError("no kernel for so many")
            return super().__call__(frames)

    with pytest.raises(RuntimeError, match="so many"):
        embed_videos(shard.request("a"), Limited(), "0" * 64, lambda answer: None)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        MemoryError(),
        UserError("the device has no room."),
    ],
)
def test_what_is_no_videos_fault_is_raised_when_those_before_it_are_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(embed, "_PACK_ROWS", 3)
    shard = small_shard(tmp_path, {"a": 3, "b": 3, "c": 3})
    coloured(shard, "b", 7)
    told: list[Any] = []
    with pytest.raises(type(error) if not isinstance(error, MemoryError) else UserError):
        embed_videos(shard.request(*shard.keys), Fragile(error, 7), "0" * 64, told.append)
    assert [answer["place"] for answer in told] == [0]
    assert shard.there() == ["a"]
