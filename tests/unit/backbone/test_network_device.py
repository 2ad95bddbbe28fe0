"""What the network does on a CUDA device, by stand-ins that do and raise what torch does there."""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from framefeat.backbone import driver, folding
from framefeat.backbone import network as networks
from framefeat.backbone.network import embed, load_model
from framefeat.backbone.resolve import resolve
from framefeat.errors import UserError
from torch import nn

from tests.models import live_model

FRAMES = np.random.default_rng(0).integers(0, 256, (23, 4, 5, 3), np.uint8)


class Tiny:
    """A network whose features are the mean colours; ``room`` is the largest batch that it has memory for."""

    spec = SimpleNamespace(name="tiny", dim=3)
    size = (4, 5)

    def __init__(self, device: str = "cpu", room: int = 99, error: str = "CUDA out of memory.") -> None:
        self.device = torch.device(device)
        self.fits: int | None = None
        self.quarters: dict[int, bool] = {}
        self.room, self.error = room, error
        self.batches: list[int] = []
        self.threads: set[str] = set()

    def __call__(self, frames: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(frames))
        self.threads.add(threading.current_thread().name)
        if len(frames) > self.room:
            raise RuntimeError(f"{self.error}\nCUDA kernel errors might be asynchronously reported")
        return frames.float().mean((1, 2))


EXPECTED = torch.from_numpy(FRAMES).float().mean((1, 2)).numpy()


class Event:
    """Work of a stream that is done as soon as it is asked for."""

    def __init__(self, blocking: bool) -> None:
        assert blocking, "a thread that waits would keep a core busy"

    def record(self, stream: object) -> None:
        pass

    def synchronize(self) -> None:
        pass


class Stream:
    def __init__(self, device: object = None) -> None:
        pass

    def wait_stream(self, stream: object) -> None:
        pass

    def wait_event(self, event: object) -> None:
        pass


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device's way of embedding, on the CPU."""
    monkeypatch.setattr(networks, "_embed_cpu", networks._embed_cuda)
    monkeypatch.setattr(networks, "_pinned", lambda shape, dtype: torch.empty(shape, dtype=dtype))
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())


# ------------------------------------------------------------------------------------------------------- throughput


@pytest.mark.parametrize("batch", [1, 2, 7, 23, 64])
def test_every_row_comes_out_once_in_its_place(cuda: None, batch: int) -> None:
    beats: list[int] = []
    tiny = Tiny()
    features, used = embed(tiny, FRAMES, batch, beat=lambda: beats.append(1))
    np.testing.assert_array_equal(features, EXPECTED)
    assert used == batch
    assert set(tiny.batches) == {batch}  # full, the last one as well
    assert len(beats) == len(tiny.batches)
    assert embed(tiny, FRAMES[:0], batch)[0].shape == (0, 3)


def test_reading_computing_and_writing_have_threads_of_their_own(
    cuda: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next batch is read while one computes: the network waits for it here."""
    readers: set[str] = set()
    writers: set[str] = set()
    second = threading.Event()
    fill = networks._fill

    def note(batch: np.ndarray, frames: Any, start: int) -> int:
        readers.add(threading.current_thread().name)
        if start:
            second.set()
        return fill(batch, frames, start)

    class Slow(Tiny):
        def __call__(self, frames: torch.Tensor) -> torch.Tensor:
            assert second.wait(10), "nothing was read while this computed"
            return super().__call__(frames)

    monkeypatch.setattr(networks, "_fill", note)
    slow = Slow()
    embed(slow, FRAMES, 4, beat=lambda: writers.add(threading.current_thread().name))
    assert slow.threads == {threading.current_thread().name}
    assert len(readers) == len(writers) == 1
    assert len(readers | writers | slow.threads) == 3


class Late:
    """A device whose streams do their work late: as soon as events allow it in the streams ``eager``, and in the others
    when somebody waits for it. What no event orders comes in a wrong order in one of these ways."""

    def __init__(self, eager: tuple[str, ...]) -> None:
        self.eager = eager
        self.queues: dict[str, deque[tuple[LateEvent, int] | Callable[[], object]]] = {
            "compute": deque(),
            "copying": deque(),
        }
        self.current = "compute"
        self.guard = threading.RLock()
        self.copies: list[tuple[str, bool]] = []  # the stream of each, and whether the host waits for it

    def submit(self, stream: str, work: "tuple[LateEvent, int] | Callable[[], object]") -> None:
        with self.guard:
            self.queues[stream].append(work)
            moved = True
            while moved:
                moved = any(self.advance(eager) for eager in self.eager)

    def advance(self, stream: str, force: bool = False) -> bool:
        """Do the next thing of ``stream`` and, if it is forced, what it waits for."""
        if not self.queues[stream]:
            return False
        work = self.queues[stream][0]
        if isinstance(work, tuple):
            event, count = work
            if event.done < count and not force:
                return False
            self.reach(event, count)
        self.queues[stream].popleft()
        if callable(work):
            work()
        return True

    def reach(self, event: "LateEvent", count: int) -> None:
        with self.guard:
            while event.done < count:
                assert self.advance(event.stream, force=True)

    @contextlib.contextmanager
    def on(self, stream: "LateStream") -> Iterator[None]:
        before, self.current = self.current, stream.name
        yield
        self.current = before

    def memory(self, shape: tuple[int, ...], dtype: torch.dtype) -> Any:
        found = torch.empty(shape, dtype=dtype).as_subclass(LateMemory)
        found.late = self
        return found


class LateEvent:
    def __init__(self, late: Late) -> None:
        self.late, self.stream, self.recorded, self.done = late, "", 0, 0

    def record(self, stream: "LateStream") -> None:
        self.stream, self.recorded = stream.name, self.recorded + 1
        self.late.submit(stream.name, lambda: setattr(self, "done", self.done + 1))

    def synchronize(self) -> None:
        self.late.reach(self, self.recorded)


class LateStream:
    def __init__(self, late: Late, name: str) -> None:
        self.late, self.name = late, name

    def wait_event(self, event: LateEvent) -> None:
        if event.recorded:
            self.late.submit(self.name, (event, event.recorded))

    def wait_stream(self, other: "LateStream") -> None:
        event = LateEvent(self.late)
        event.record(other)
        self.wait_event(event)


class LateMemory(torch.Tensor):
    late: Late

    def copy_(self, source: Any, non_blocking: bool = False) -> "LateMemory":
        mine = self.as_subclass(torch.Tensor)
        work = (
            (lambda: mine.copy_(source()))
            if callable(source)
            else (lambda: mine.copy_(source.as_subclass(torch.Tensor)))
        )
        self.late.copies.append((self.late.current, non_blocking))
        self.late.submit(self.late.current, work)
        return self


class LateTiny(Tiny):
    """Its features are there when the device has come to them."""

    late: Late

    def __call__(self, frames: torch.Tensor) -> Any:
        found: list[torch.Tensor] = []
        plain = frames.as_subclass(torch.Tensor)
        self.late.submit(self.late.current, lambda: found.append(plain.float().mean((1, 2))))
        return lambda: found[0]


@pytest.mark.parametrize("eager", [(), ("copying",), ("compute",), ("copying", "compute")])
@pytest.mark.parametrize("batch", [2, 7, 23])
def test_whatever_a_stream_does_first_no_batch_meets_another(
    monkeypatch: pytest.MonkeyPatch, eager: tuple[str, ...], batch: int
) -> None:
    late = Late(eager)
    empty = torch.empty

    def on_device(shape: Any, *, device: Any = None, **options: Any) -> Any:
        return empty(shape, **options) if device is None else late.memory(shape, options["dtype"])

    monkeypatch.setattr(networks, "_embed_cpu", networks._embed_cuda)
    monkeypatch.setattr(networks, "_pinned", late.memory)
    monkeypatch.setattr(torch, "empty", on_device)
    monkeypatch.setattr(torch.cuda, "Event", lambda blocking: LateEvent(late))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: LateStream(late, "copying"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: LateStream(late, "compute"))
    monkeypatch.setattr(torch.cuda, "stream", late.on)
    tiny = LateTiny()
    tiny.late = late
    for _ in range(5):  # the threads' own order is another one each time
        np.testing.assert_array_equal(embed(tiny, FRAMES, batch)[0], EXPECTED)
    # Frames come on a stream of their own, while another batch is computed; the host waits for neither.
    assert set(late.copies) == {("copying", True), ("compute", True)}
    assert late.copies.count(("copying", True)) == len(late.copies) / 2


def test_the_memory_of_the_device_does_not_grow_with_the_video(
    cuda: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    empty = torch.empty

    def note(shape: Any, **options: Any) -> torch.Tensor:
        made.append(shape[0])
        return empty(shape, **options)

    monkeypatch.setattr(torch, "empty", note)
    embed(Tiny(), FRAMES, 2)
    assert set(made) == {2}
    assert len(made) <= 9  # three lanes


def test_an_error_of_any_thread_reaches_the_caller(cuda: None) -> None:
    def fail() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal"):
        embed(Tiny(), FRAMES, 4, beat=fail)
    with pytest.raises(RuntimeError, match="illegal"):
        embed(Tiny(room=1, error="CUDA error: an illegal memory access was encountered"), FRAMES, 4)


# ----------------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize(
    "error",
    [
        "CUDA out of memory. Tried to allocate 20.00 MiB",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
)
def test_the_batch_halves_and_stays_so_for_the_next_video(error: str) -> None:
    tiny = Tiny(room=3, error=error)
    features, used = embed(tiny, FRAMES, 16)
    np.testing.assert_array_equal(features, EXPECTED)
    assert used == 2
    tiny.batches.clear()
    assert embed(tiny, FRAMES, 16)[1] == 2
    assert set(tiny.batches) == {2}  # it is not tried again
    assert embed(tiny, FRAMES, 1)[1] == 1


def test_a_failed_pinned_allocation_is_lack_of_memory(cuda: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def pin(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        if shape[0] > 4:
            raise torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be ...")
        return torch.empty(shape, dtype=dtype)

    monkeypatch.setattr(networks, "_pinned", pin)
    features, used = embed(Tiny(), FRAMES, 16)
    np.testing.assert_array_equal(features, EXPECTED)
    assert used == 4


@pytest.mark.parametrize(("others", "told"), [(20, True), (0.5, False)])
def test_memory_that_others_use_is_told_from_our_own(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, others: float, told: bool
) -> None:
    gib = 2**30

    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(networks, "_embed_cuda", fail)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int((24 - others - 2) * gib), 24 * gib))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 2 * gib)
    emptied: list[int] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(1))
    with pytest.raises(UserError) as caught:
        embed(Tiny("cuda"), FRAMES, 4)
    assert len(emptied) == 2
    words = "of its 24.0 GiB this process holds 2.0 and others hold 20.0: end them"
    assert (words in str(caught.value)) is told
    assert (words in caplog.text) is told
    assert "(CUDA out of memory.)" in str(caught.value)


# ---------------------------------------------------------------------------------------------------------- numbers


@pytest.fixture
def flags() -> Iterator[Any]:
    matmul = torch.backends.cuda.matmul
    names = (
        "allow_tf32", "allow_bf16_reduced_precision_reduction", "allow_fp16_reduced_precision_reduction",
        "allow_fp16_accumulation",
    )  # fmt: skip
    before = {name: getattr(matmul, name) for name in names}
    for name in names:
        setattr(matmul, name, True)
    torch.backends.cudnn.allow_tf32 = True
    yield lambda: {name: getattr(matmul, name) for name in names}
    for name, value in before.items():
        setattr(matmul, name, value)


def test_sums_are_of_full_precision(flags: Any) -> None:
    networks._settle(torch.device("cuda"))
    assert set(flags().values()) == {False}
    assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_batchnorm_that_is_left_keeps_float32(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    model[0].running_var.fill_(1.001)  # 1.0 in 8 bits
    placed = networks._placed(model, torch.device("cpu"), dtype)
    assert {value.dtype for one in (placed[0], placed[3]) for value in (one.weight, one.running_var)} == {
        torch.float32
    }
    assert placed[2].weight.dtype == dtype
    assert placed[0].running_var[0] == np.float32(1.001)
    assert placed(torch.ones(2, 3, 8, 8, dtype=dtype)).dtype == dtype


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(live_model("mobilenet_v3_small", tmp_path_factory.mktemp("weights") / "live.pth"))


@pytest.fixture
def other_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU is taken for a device that must agree with the reference."""
    monkeypatch.setattr(networks, "REFERENCE", "none")
    monkeypatch.setitem(networks.AUTO_BATCH, "cuda", 2)


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_a_device_that_agrees_is_taken(other_device: None, weights: str, precision: str) -> None:
    load_model(resolve("mobilenet_v3_small", weights), weights, precision=precision)


@pytest.mark.parametrize(
    ("precision", "scale", "cure"),
    [
        ("float32", 1.01, "Update the driver"),
        ("bf16", 2.0, "Update the driver"),
        ("fp16", 2.0, "bf16 or float32"),
        ("fp16", float("nan"), "bf16 or float32"),
    ],
)
def test_a_device_that_computes_other_features_is_refused(
    other_device: None, monkeypatch: pytest.MonkeyPatch, weights: str, precision: str, scale: float, cure: str
) -> None:
    placed = networks._placed

    class Wrong(nn.Module):
        """Right in the first image of a batch alone."""

        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            features = self.model(images).clone()
            features[1:] *= scale
            return features

    monkeypatch.setattr(networks, "_placed", lambda *arguments: Wrong(placed(*arguments)))
    with pytest.raises(UserError, match="device: cpu computes other features than the CPU") as caught:
        load_model(resolve("mobilenet_v3_small", weights), weights, precision=precision)
    assert cure in str(caught.value)


def test_little_memory_while_a_model_is_loaded(
    other_device: None, monkeypatch: pytest.MonkeyPatch, weights: str
) -> None:
    placed = networks._placed

    class Big(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if len(images) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return self.model(images)

    monkeypatch.setattr(networks, "_placed", lambda *arguments: Big(placed(*arguments)))
    network = load_model(resolve("mobilenet_v3_small", weights), weights)
    assert network.fits == 1


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_layout_of_images_is_the_devices(weights: str, device: str) -> None:
    """It is fixed: the layouts round in other ways, so what a clock chooses would change bytes."""
    network = load_model(resolve("mobilenet_v3_small", weights), weights)
    network.device = torch.device(device)
    images = network.normalise(torch.zeros(2, 224, 224, 3, dtype=torch.uint8))
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert not images.is_contiguous()


# ------------------------------------------------------------------------------------------------- rows by themselves


class Places(Tiny):
    """A network some rows of which depend on something else than their frame."""

    def __init__(self, fault: str = "", **more: Any) -> None:
        super().__init__(**more)
        self.fault = fault
        self.alone: dict[int, bool] = {}

    def __call__(self, frames: torch.Tensor) -> torch.Tensor:
        features = super().__call__(frames)
        if self.fault == "place":
            features += torch.arange(len(frames))[:, None] * 1e-4
        elif self.fault == "last":  # the tail of a kernel that takes four rows at a time
            features[-1] = torch.nextafter(features[-1], features[-1] + 1)
        elif self.fault == "neighbours":
            features += features.mean(0) * 1e-6
        return features


@pytest.mark.parametrize("fault", ["", "place", "last", "neighbours"])
@pytest.mark.parametrize("batch", [2, 16, 64])
def test_whether_rows_stand_alone_is_tried_once_for_each_batch_size(
    monkeypatch: pytest.MonkeyPatch, fault: str, batch: int
) -> None:
    monkeypatch.setattr(networks, "REFERENCE", "none")
    places = Places(fault)
    assert networks.rows_stand_alone(places, batch) is (fault == "")
    assert set(places.batches) == {batch}
    tried = len(places.batches)
    networks.rows_stand_alone(places, batch)
    assert len(places.batches) == tried
    networks.rows_stand_alone(places, batch + 1)
    assert places.alone.keys() == {batch, batch + 1}


def test_a_batch_without_room_is_no_batch_to_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "REFERENCE", "none")
    assert networks.rows_stand_alone(Places(room=8), 16) is False
    assert networks.rows_stand_alone(Places(room=8), 8) is True


def test_a_device_that_fails_while_it_is_tried_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "REFERENCE", "none")
    places = Places(room=8, error="CUDA error: an illegal memory access was encountered")
    with pytest.raises(RuntimeError, match="illegal"):
        networks.rows_stand_alone(places, 16)
    assert places.alone == {}


# ----------------------------------------------------------------------------------------------------- what is told


def test_how_a_model_was_folded_is_known(
    weights: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spec = resolve("mobilenet_v3_small", weights)
    about = load_model(spec, weights).about
    assert about == {
        "device": "cpu", "folding": "folded and packed", "unfolded_batchnorm": 0, "warnings": [],
    }  # fmt: skip

    def fail(*_: Any) -> None:
        raise NotImplementedError("no such operator")

    monkeypatch.setattr(folding, "pack", fail)
    about = load_model(spec, weights).about
    assert about["folding"] == "not folded: no such operator"
    assert about["unfolded_batchnorm"] > 10
    assert about["warnings"] == [
        "mobilenet_v3_small is not folded: no such operator. Its features are right, and all runs are slower."
    ]
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == about["warnings"]


def test_a_device_is_known_by_its_name_and_what_drives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA Test")
    monkeypatch.setattr(driver, "version", lambda: "570.1")
    network: Any = SimpleNamespace(
        modules=lambda: [], device=torch.device("cuda"), spec=SimpleNamespace(name="m")
    )
    assert networks._about(network, "folded") == {
        "device": "NVIDIA Test", "driver": "570.1", "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(), "folding": "folded", "unfolded_batchnorm": 0, "warnings": [],
    }  # fmt: skip
