"""A backbone that runs: library model without its head, weights fitted, folded, and fed uint8 frames in fixed batches.

The arithmetic is torchvision's ``ToTensor`` + ``Normalize`` and the library's forward pass up to its pooled features;
what is done for speed (Conv+BatchNorm folded, activations inside the convolution on CPUs, channels last) changes them
by float rounding only, and is checked against the plain model whenever a model is loaded.
"""

import contextlib
import copy
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import nn

from framefeat.backbone import driver
from framefeat.backbone.device_errors import is_out_of_memory
from framefeat.backbone.folding import NOT_FOLDED, speed_up
from framefeat.backbone.library_model import load_library_model
from framefeat.backbone.spec import BackboneSpec
from framefeat.errors import UserError, first_line
from framefeat.video.geometry import Geometry, Size

PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
AUTO_BATCH = {"cpu": 16, "cuda": 64}
#: How images lie in memory, by the device's type. Fixed and not timed: the kernels of the two layouts round in other
#: ways, so what is chosen by a clock would change bytes. Frames come channels last; oneDNN's convolutions and the
#: tensor cores' want it so.
MEMORY = {"cpu": torch.channels_last, "cuda": torch.channels_last}
#: The device whose features are the measure of all others.
REFERENCE = "cpu"
#: How far another device's features of one image may be from the reference's, as a part of their length. Float32
#: differs by the order of sums; the half precisions by their 8 and 11 bits in each layer.
MOST_DIFFERENT = {torch.float32: 1e-3, torch.bfloat16: 0.2, torch.float16: 0.05}
_log = logging.getLogger(__name__)


def _example(size: Size) -> torch.Tensor:
    ramp = torch.linspace(-2, 2, 3 * size[0] * size[1]).view(1, 3, *size)
    return (ramp * 37).sin().contiguous(memory_format=torch.channels_last)


def _placed(model: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """``model`` on ``device`` in ``dtype``. BatchNorm that is still there keeps float32: its statistics lose more in 8
    bits than a layer's activations do."""
    norms = [(norm, copy.deepcopy(norm.state_dict())) for norm in _batchnorms(model)]
    model = model.to(device=device, dtype=dtype).to(memory_format=MEMORY[device.type])
    for norm, state in norms:
        norm.float().load_state_dict(state)
    return model


def _batchnorms(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


class Network(nn.Module):
    """uint8 frames ``[B, h, w, 3]`` (RGB, on ``device``) to pooled features, float32 ``[B, D]``.

    ``about`` says what computes them, for the record; ``fits`` is the largest batch that had room, where one had none;
    ``alone`` what ``rows_stand_alone`` found, by batch size; ``quarters`` whether a quarter of a batch was seen to give
    the same bytes as a whole one, by batch size.
    """

    def __init__(self, spec: BackboneSpec, body: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.spec = spec
        self.device = device
        self.dtype = dtype
        self.size = Geometry.from_name(spec.geometry).output
        self.body = body
        self.about: dict[str, Any] = {}
        self.fits: int | None = None
        self.alone: dict[int, bool] = {}
        self.quarters: dict[int, bool] = {}
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (spec.mean, spec.std))
        columns = self.size[1]  # one number per byte of a line: a line is computed as one run of memory
        self.scale = (1 / (255 * std)).repeat(columns).to(device, torch.float32)
        self.shift = (-mean / std).repeat(columns).to(device, torch.float32)

    def normalise(self, frames: torch.Tensor) -> torch.Tensor:
        """``ToTensor`` and ``Normalize``: uint8 ``[B, h, w, 3]`` to ``[B, 3, h, w]`` in the memory of its device."""
        lines = frames.flatten(2).to(torch.float32).mul_(self.scale).add_(self.shift)
        images = lines.view(frames.shape).permute(0, 3, 1, 2).to(self.dtype)
        return images.contiguous(memory_format=MEMORY[self.device.type])

    @torch.inference_mode()
    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        features = self.body(self.normalise(frames))
        return features.to(torch.float32)


def choose_device(device: str = "auto") -> torch.device:
    """``auto``: the first CUDA device if there is one, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UserError(f"device: {device!r} is no device: use auto, cpu or cuda.") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"device: {device} was asked for, but torch finds no CUDA device here: use auto or cpu."
        )
    return chosen


def load_model(
    spec: BackboneSpec,
    weights_file: str | os.PathLike[str],
    *,
    device: str = "cpu",
    precision: str = "float32",
    fold: bool = True,
) -> Network:
    """The backbone with the weights of ``weights_file``, in evaluation mode on ``device``."""
    if precision not in PRECISIONS:
        raise UserError(f"precision: {precision!r} is none of {', '.join(PRECISIONS)}.")
    where, dtype = choose_device(device), PRECISIONS[precision]
    _settle(where)
    with torch.inference_mode():
        model = load_library_model(spec, weights_file).to(memory_format=torch.channels_last)
        size = Geometry.from_name(spec.geometry).output
        example, folding = _example(size), "not asked for"
        expected = model(example)
        if fold:
            model, folding = speed_up(model, example, expected, where, dtype, AUTO_BATCH["cpu"])
        network = Network(spec, _placed(model, where, dtype), where, dtype).eval()
        network.about = _about(network, folding)
        found = network(torch.zeros((1, *size, 3), dtype=torch.uint8, device=where)).shape[1]
        if where.type != REFERENCE:
            _compare(network, example, expected)
    if found != spec.dim:
        raise UserError(
            f"{spec.name} gives {found} features, not the {spec.dim} expected: is the library another version?"
        )
    return network


def rows_stand_alone(network: Network, batch_size: int) -> bool:
    """Whether a row of a full batch has the same bytes wherever it stands and whatever stands beside it.

    On the CPU that holds (a test tries families of backbones). On CUDA a kernel may treat the places of a batch
    differently, so it is tried once for each batch size, with noise that is moved about.
    """
    if network.device.type == REFERENCE:
        return True
    if batch_size not in network.alone:
        network.alone[batch_size] = _tried_alone(network, batch_size)
    return network.alone[batch_size]


@torch.inference_mode()
def _tried_alone(network: Network, batch_size: int) -> bool:
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (2, batch_size, *network.size, 3), dtype=np.uint8)
    first, other = (torch.from_numpy(part).to(network.device) for part in noise)
    try:
        expected = network(first)
        for step in {1, batch_size // 2, batch_size - 1} - {0}:
            moved = torch.cat([other[:step], first[: batch_size - step]])
            if not torch.equal(network(moved)[step:], expected[: batch_size - step]):
                return False
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


def _about(network: Network, folding: str) -> dict[str, Any]:
    """What the record says of it: no time, no host, the same for every video of a run on one device."""
    about: dict[str, Any] = {"device": str(network.device)}
    if network.device.type == "cuda":
        about = {
            "device": torch.cuda.get_device_name(network.device),
            "driver": driver.version(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    slow = folding.startswith(NOT_FOLDED)
    sentence = f"{network.spec.name} is {folding}. Its features are right, and all runs are slower."
    if slow:
        _log.warning(sentence)
    return about | {
        "folding": folding,
        "unfolded_batchnorm": len(_batchnorms(network)),
        "warnings": [sentence] if slow else [],
    }


def _compare(network: Network, example: torch.Tensor, expected: torch.Tensor) -> None:
    """One whole batch on the device against the reference's features of the same image; ``UserError`` where any of them
    is too far away."""
    image = example.to(network.device, network.dtype)
    batch, got = AUTO_BATCH["cuda"], None
    while got is None:
        try:
            whole = image.expand(batch, -1, -1, -1)
            got = network.body(whole.contiguous(memory_format=MEMORY[network.device.type]))
        except Exception as error:
            batch = _smaller(network, batch, error)
    difference = (got.float().cpu() - expected).norm(dim=1).max() / expected.norm()
    most = MOST_DIFFERENT[network.dtype]
    if not difference <= most:
        raise UserError(
            f"device: {network.about['device']} computes other features than the CPU with {network.spec.name}: they differ by "
            f"{float(difference):.2g} of their length, more than the {most:g} that rounding explains. "
            + (
                "Set precision: bf16 or float32."
                if network.dtype == torch.float16
                else "Update the driver or torch, or set device: cpu."
            )
        )


def _settle(device: torch.device) -> None:
    """Settings of the process: the same numbers every time, and memory that is kept between batches."""
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cuda.matmul.allow_tf32 = False
        # Sums of products stay in float32 where the products are of half precision.
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
        torch.backends.cuda.matmul.allow_fp16_accumulation = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        return
    import ctypes

    # glibc returns large blocks to the kernel at once and gets each new one page by page: 15 % of a forward pass.
    # One arena, and no block above the threshold for mapping (M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD).
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ((-8, 1), (-3, 1 << 30), (-1, 1 << 30)):
            mallopt(option, value)


# --------------------------------------------------------------------------------------------------- embedding


class Stacked:
    """Frames of several arrays (uint8 ``[T, h, w, 3]`` each) read one after the other, without a copy of them all."""

    dtype = np.dtype(np.uint8)

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])
        self.shape = (int(self._ends[-1]), *parts[0].shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(len(self))
        first, last = np.searchsorted(self._ends, [start, stop - 1], side="right")
        pieces = []
        for number in range(first, last + 1):
            before = int(self._ends[number]) - len(self._parts[number])
            pieces.append(self._parts[number][max(0, start - before) : stop - before])
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def embed(
    network: Network,
    frames: np.ndarray | Stacked,
    batch_size: int,
    workers: int = 1,
    beat: Callable[[], None] = lambda: None,
) -> tuple[np.ndarray, int]:
    """Features of ``frames`` (uint8 ``[T, h, w, 3]``, an array or a memory map): float32 ``[T, D]``, and the batch
    used.

    Every batch has ``batch_size`` rows (the last frame is repeated to fill the last one), so that a row does not depend
    on how many others there are; on the CPU quarters of a batch may stand for the last one, where these were seen to
    give the same bytes. There ``workers`` threads take whole batches, each with one thread of torch's own: their number
    changes no byte. Where memory does not suffice the batch is halved, for what comes after as well, and all rows are
    done again. ``beat`` is called after each batch.
    """
    if frames.shape[1:] != (*network.size, 3) or frames.dtype != np.uint8:
        raise ValueError(
            f"frames are {frames.dtype} {frames.shape}, not uint8 [T, {network.size[0]}, {network.size[1]}, 3]"
        )
    run = _embed_cuda if network.device.type == "cuda" else _embed_cpu
    batch_size = min(batch_size, network.fits or batch_size)
    while True:
        try:
            return run(network, frames, batch_size, workers, beat), batch_size
        except Exception as error:
            batch_size = _smaller(network, batch_size, error)


def _smaller(network: Network, batch_size: int, error: Exception) -> int:
    """Half the batch where ``error`` tells of too little memory; else raises it, or ``UserError`` if nothing is left to
    halve."""
    if not is_out_of_memory(error):
        raise error
    use = _memory_use(network.device)
    if batch_size == 1:
        raise UserError(
            f"{network.spec.name} does not fit into the memory of {network.device} even one frame at a time"
            f"{use}: use a device with more memory or another backbone. ({first_line(error)})"
        ) from error
    _log.warning("no memory for %d frames at once%s: half as many from now on", batch_size, use)
    if network.device.type == "cuda":
        error.__traceback__ = None  # it holds the tensors that were made
        torch.cuda.empty_cache()
    network.fits = batch_size // 2
    return network.fits


def _memory_use(device: torch.device) -> str:
    """Who has the device's memory, where that is not this process alone."""
    if device.type != "cuda":
        return ""
    free, total = torch.cuda.mem_get_info(device)
    own = torch.cuda.memory_reserved(device)
    others = (total - free - own) / 2**30
    if others < 1:  # less is what any process needs of it to begin with
        return ""
    return (
        f" (of its {total / 2**30:.1f} GiB this process holds {own / 2**30:.1f} and others hold {others:.1f}: end them, "
        "'nvidia-smi' lists them, or use another device)"
    )


def _fill(batch: np.ndarray, frames: np.ndarray | Stacked, start: int) -> int:
    """Copy the batch that begins at ``start`` and repeat its last frame to the end. Returns how many are real."""
    chunk = frames[start : start + len(batch)]
    batch[: len(chunk)] = chunk
    batch[len(chunk) :] = chunk[-1]
    return len(chunk)


def _embed_cpu(
    network: Network, frames: np.ndarray | Stacked, batch_size: int, workers: int, beat: Callable[[], None]
) -> np.ndarray:
    features = np.empty((len(frames), network.spec.dim), np.float32)

    def run(piece: tuple[int, int]) -> None:
        start, size = piece
        batch = np.empty((size, *frames.shape[1:]), np.uint8)
        real = _fill(batch, frames, start)
        found = network(torch.from_numpy(batch)).numpy()
        if size == batch_size and real < size and size not in network.quarters:
            network.quarters[size] = _comes_in_quarters(network, batch, found)
        features[start : start + real] = found[:real]
        beat()

    pieces = [(start, batch_size) for start in range(0, len(frames), batch_size)]
    if len(frames) % batch_size and network.quarters.get(batch_size):
        last, _ = pieces.pop()
        quarter = batch_size // 4
        pieces += [(start, quarter) for start in range(last, len(frames), quarter)]
    with ThreadPoolExecutor(workers, "embed", initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for _ in pool.map(run, pieces):
            pass
    return features


def _comes_in_quarters(network: Network, batch: np.ndarray, features: np.ndarray) -> bool:
    """Whether the quarters of ``batch`` have the bytes of its ``features``: kernels are chosen by sizes."""
    if len(batch) % 4 or len(batch) < 8:  # of single rows a vector kernel would be chosen
        return False
    quarters = [network(torch.from_numpy(part)).numpy() for part in np.split(batch, 4)]
    return np.concatenate(quarters).tobytes() == features.tobytes()


class _Lane:
    """The memory of one batch under way: its frames on the host and on the device, and its features on the host."""

    def __init__(self, network: Network, batch_size: int) -> None:
        shape = (batch_size, *network.size, 3)
        self.read_frames = _pinned(shape, torch.uint8)
        self.frames = torch.empty(shape, dtype=torch.uint8, device=network.device)
        self.features = _pinned((batch_size, network.spec.dim), torch.float32)
        # blocking: who waits for the device leaves its core to the decoders
        self.copied = torch.cuda.Event(blocking=True)  # the frames are on the device
        self.computed = torch.cuda.Event(blocking=True)  # the features are on the host
        self.reading: Future[int] | None = None
        self.writing: Future[None] | None = None


def _pinned(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Memory of the host that the device copies from and to by itself."""
    return torch.empty(shape, dtype=dtype, pin_memory=True)


def _embed_cuda(
    network: Network, frames: np.ndarray | Stacked, batch_size: int, workers: int, beat: Callable[[], None]
) -> np.ndarray:
    """Three threads: one reads frames, this one keeps the device at work, one takes the features. While the device
    computes a batch, the next is copied to it on a stream of its own, and the one after that is read."""
    device = network.device
    features = np.empty(
        (len(frames), network.spec.dim), np.float32
    )  # of a long video too: the host has the room
    starts = range(0, len(frames), batch_size)
    lanes = [_Lane(network, batch_size) for _ in starts[:3]]
    compute, copying = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    copying.wait_stream(compute)

    def read(lane: _Lane, start: int) -> int:
        lane.copied.synchronize()
        return _fill(lane.read_frames.numpy(), frames, start)

    def write(lane: _Lane, start: int, real: int) -> None:
        lane.computed.synchronize()
        features[start : start + real] = lane.features.numpy()[:real]
        beat()

    with (
        ThreadPoolExecutor(1, "read") as reader,
        ThreadPoolExecutor(1, "write") as writer,
        contextlib.ExitStack() as ending,
    ):
        # What comes to lie where the lanes were must wait for copies under way: an error leaves some.
        ending.callback(compute.wait_stream, copying)
        for lane, start in zip(lanes, starts, strict=False):
            lane.reading = reader.submit(read, lane, start)
        for number, start in enumerate(starts):
            lane = lanes[number % len(lanes)]
            assert lane.reading is not None
            real = lane.reading.result()
            if lane.writing is not None:
                lane.writing.result()  # its features are taken, so its frames are used
            with torch.cuda.stream(copying):
                lane.frames.copy_(lane.read_frames, non_blocking=True)
                lane.copied.record(copying)
            if number + len(lanes) < len(starts):
                lane.reading = reader.submit(read, lane, starts[number + len(lanes)])
            compute.wait_event(lane.copied)
            lane.features.copy_(network(lane.frames), non_blocking=True)
            lane.computed.record(compute)
            lane.writing = writer.submit(write, lane, start, real)
        for lane in lanes:
            if lane.writing is not None:
                lane.writing.result()
    return features
