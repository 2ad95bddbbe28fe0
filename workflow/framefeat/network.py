"""A backbone that runs: library model without its head, weights fitted, folded, and fed uint8 frames in fixed batches.

The arithmetic is torchvision's ``ToTensor`` + ``Normalize`` and the library's forward pass up to its pooled features;
what is done for speed (Conv+BatchNorm folded, activations inside the convolution on CPUs, channels last) changes them by
float rounding only, and is checked against the plain model whenever a model is loaded.
"""

import contextlib
import copy
import logging
import operator
import os
import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import fx, nn

from framefeat.backbone import published
from framefeat.errors import UserError
from framefeat.preprocess import Geometry, Size
from framefeat.weights import file_sha256, read_state

if TYPE_CHECKING:
    from framefeat.backbone import BackboneSpec

PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
AUTO_BATCH = {"cpu": 16, "cuda": 64}
_TOLERANCE = (
    1e-4  # between the folded and the plain model, in units of the largest feature where that is above 1
)
_log = logging.getLogger(__name__)

# ---------------------------------------------------------------------------------------------- the library's model

# Pooled features are what enters the classifier: removing the module below leaves them. Where the classifier is more
# than one linear layer on a vector, its last layer alone goes (VGG and AlexNet: 4096 numbers, the field's fc7).
_HEADS = ("fc", "classifier", "head", "heads")
_LAST_LAYERS = {
    "AlexNet": "classifier.6",
    "VGG": "classifier.6",
    "ConvNeXt": "classifier.2",
    "MaxVit": "classifier.5",
}
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")  # classifiers used in training only


def build(source: str, arch: str, size: Size, **options: Any) -> nn.Module:
    """The library's model for ``size`` pixels with pooled features as its output, its weights not yet loaded.

    What was removed is in its attribute ``framefeat_head`` (prefixes of state-dict keys).
    """
    return (_build_timm if source == "timm" else _build_torchvision)(arch, size, **options)


def _build_torchvision(arch: str, size: Size, transform_input: bool = False) -> nn.Module:
    from framefeat.libraries import torchvision_models

    options: dict[str, Any] = {}
    if arch in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "init_weights": False, "transform_input": transform_input}
    elif arch.startswith("vit_"):
        if size[0] != size[1]:
            raise UserError(f"{arch} takes square frames only, not {size[0]} x {size[1]}.")
        options = {"image_size": size[0]}
    elif arch.startswith("maxvit_"):
        options = {"input_size": size}
    model = torchvision_models().get_model(arch, weights=None, **options)
    kind = type(model).__name__
    head = _LAST_LAYERS.get(kind) or next(name for name in _HEADS if hasattr(model, name))
    model.set_submodule(head, nn.AdaptiveAvgPool2d(1) if kind == "SqueezeNet" else nn.Identity())
    model.framefeat_head = (head + ".", *_AUXILIARY)
    return model


def _build_timm(arch: str, size: Size, state: dict[str, Any] | None = None) -> nn.Module:
    from framefeat.libraries import timm

    library = timm()
    arch, _, projected = arch.partition(":")
    config = library.get_pretrained_cfg(arch)
    options: dict[str, Any] = {}
    if config is not None and config.fixed_input_size and tuple(config.input_size[1:]) != size:
        options["img_size"] = size
    if state is not None:  # timm's own way in: its key conversion, its resampling of position embeddings
        options |= {
            "pretrained": True,
            "pretrained_cfg_overlay": {"state_dict": dict(state), "custom_load": False},
        }
    try:
        # CLIP's projection stands where other models have their classifier
        model = library.create_model(arch, num_classes=config.num_classes if projected else 0, **options)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        raise UserError(
            f"timm:{arch} takes {config.input_size[1]} x {config.input_size[2]} pixels only: set preprocess: weights."
        ) from error
    names = config.classifier if config is not None and not projected else None
    names = (names,) if isinstance(names, str) else names or ()
    model.framefeat_head = tuple(name + "." for name in names)
    return model


def load_library_model(spec: "BackboneSpec", weights_file: str | os.PathLike[str]) -> nn.Module:
    """The plain model in float32 on the CPU, in evaluation mode, with the weights of ``weights_file``."""
    size = Geometry.from_name(spec.geometry).output
    digest = file_sha256(weights_file) if spec.sha256 or spec.arch in ("googlenet", "inception_v3") else None
    if spec.sha256 and digest != spec.sha256:
        raise UserError(
            f"Weights file {weights_file} has sha256 {digest}, but the key weights says {spec.sha256}: "
            "it is another file, or the key is out of date."
        )
    state = read_state(weights_file)
    if spec.source == "torchvision":
        # These two come from TensorFlow with other means; torchvision converts inside the model, for its own weights.
        ours = spec.kind == "enum" or published(spec.arch, os.fspath(weights_file), digest) is not None
        options = {"transform_input": ours} if spec.arch in ("googlenet", "inception_v3") else {}
        model = build("torchvision", spec.arch, size, **options)
        problems = _fit(model, _torchvision_keys(model, state))
    else:
        model = build("timm", spec.arch, size)
        problems = _fit(model, state)
        if problems:
            with contextlib.suppress(Exception):  # the direct comparison above says what is wrong
                model, problems = build("timm", spec.arch, size, state=state), []
    if problems:
        raise UserError(
            f"Weights file {weights_file} does not fit {spec.name}:\n"
            + "\n".join(f"  - {problem}" for problem in problems)
            + f"\nGive the state dict of {spec.arch}, or the name of the backbone that it belongs to."
        )
    return model.eval()


def _fit(model: nn.Module, state: dict[str, Any]) -> list[str]:
    """Load ``state``; keys of the removed head may be there or not. Returns what does not fit."""
    head: tuple[str, ...] = model.framefeat_head  # type: ignore[assignment]
    kept = type(state)((key, value) for key, value in state.items() if not key.startswith(head))
    if hasattr(state, "_metadata"):
        kept._metadata = state._metadata  # type: ignore[attr-defined]
    mismatched: list[str] = []
    try:
        missing, unexpected = model.load_state_dict(kept, strict=False)
    except RuntimeError as error:
        mismatched = re.findall(r"size mismatch for (.*?)\.?$", str(error), flags=re.MULTILINE) or [
            str(error)
        ]
        names = set(model.state_dict())
        missing, unexpected = sorted(names - set(kept)), sorted(set(kept) - names)
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", mismatched))
    return [
        f"{len(keys)} {kind}: {', '.join(keys[:3])}" + (", ..." if len(keys) > 3 else "")
        for kind, keys in kinds
        if keys
    ]


def _torchvision_keys(model: nn.Module, state: dict[str, Any]) -> dict[str, Any]:
    """Older keys and other image sizes, as torchvision's own loaders treat them."""
    if type(model).__name__ == "DenseNet":  # norm.1.weight: a dot too many in the published files
        renamed = {
            re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", key): state[key] for key in state
        }
        return type(state)(renamed)
    if type(model).__name__ == "MNASNet" and not hasattr(
        state, "_metadata"
    ):  # safetensors: its present format
        state._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    embedding = state.get("encoder.pos_embedding")
    if type(model).__name__ == "VisionTransformer" and embedding is not None:
        wanted: Any = model.encoder.pos_embedding.shape  # type: ignore[union-attr]
        if embedding.shape != wanted and embedding.shape[-1] == wanted[-1]:
            from torchvision.models.vision_transformer import interpolate_embeddings

            resampled = interpolate_embeddings(model.image_size, model.patch_size, state)
            state["encoder.pos_embedding"] = resampled["encoder.pos_embedding"]
    return state


# ------------------------------------------------------------------------------------------------------- speed

_FUSED: dict[
    type[nn.Module], tuple[str, list[float], str]
] = {  # activations that oneDNN applies inside a convolution: name, numbers, algorithm
    nn.ReLU: ("relu", [], ""),
    nn.ReLU6: ("hardtanh", [0.0, 6.0], ""),
    nn.Hardswish: ("hardswish", [], ""),
    nn.Hardsigmoid: ("hardsigmoid", [], ""),
    nn.SiLU: ("swish", [], ""),
    nn.Sigmoid: ("sigmoid", [], ""),
}


class PackedConv(nn.Module):
    """A convolution and the activation after it as one oneDNN call, its weight in the layout that oneDNN likes best."""

    def __init__(
        self, conv: nn.Conv2d, activation: tuple[str, list[float], str], input_shape: list[int]
    ) -> None:
        super().__init__()
        self.geometry = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
        self.activation = activation
        self.bias = None if conv.bias is None else conv.bias.detach()
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(
            conv.weight.detach(), *self.geometry, input_shape
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, self.bias, *self.geometry, *self.activation
        )


def fold(model: nn.Module, example: torch.Tensor) -> nn.Module:
    """``model`` with BatchNorm folded into the convolutions before it; itself where nothing can be folded.

    ``example``: float32 ``[1, 3, h, w]``; the result is for frames of that size.
    """
    from torch.fx.experimental.optimization import fuse

    if not any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        return model
    plain = copy.deepcopy(model)
    _plain_layers(plain, example)
    return fuse(
        fx.symbolic_trace(plain.eval().double()), inplace=True, no_trace=True
    ).float()  # folded in double: rounded once


def _plain_layers(model: nn.Module, example: torch.Tensor) -> None:
    """timm's layers that are several of torch's in one (BatchNorm + activation, SAME padding + Conv), taken apart."""
    sizes = _input_shapes(model, example)
    layers: list[tuple[str, Any]] = list(model.named_modules())
    for name, layer in layers:
        kind = type(layer).__name__
        if kind == "BatchNormAct2d":
            norm = nn.BatchNorm2d(layer.num_features, layer.eps)
            norm.load_state_dict({k: v for k, v in layer.state_dict().items() if k in norm.state_dict()})
            model.set_submodule(name, nn.Sequential(norm, layer.drop, layer.act))
        elif kind == "Conv2dSame" and name in sizes:
            model.set_submodule(name, _padded(layer, sizes[name]))


def _padded(same: Any, shape: list[int]) -> nn.Module:
    """timm's ``Conv2dSame`` for inputs of ``shape`` alone."""
    from timm.layers.padding import pad_same_arg

    left, right, top, bottom = pad_same_arg(shape[-2:], same.kernel_size, same.stride, same.dilation)
    even = (left, top) == (right, bottom)
    conv = nn.Conv2d(
        same.in_channels,
        same.out_channels,
        same.kernel_size,
        same.stride,
        (top, left) if even else 0,
        same.dilation,
        same.groups,
        same.bias is not None,
    )
    conv.load_state_dict(same.state_dict())
    return conv if even else nn.Sequential(nn.ZeroPad2d((left, right, top, bottom)), conv)


def _input_shapes(model: nn.Module, example: torch.Tensor) -> dict[str, list[int]]:
    """For each convolution that runs: the shape of its input."""
    shapes: dict[str, list[int]] = {}
    hooks = [
        module.register_forward_pre_hook(
            lambda _, args, name=name: shapes.__setitem__(name, list(args[0].shape))
        )
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    model(example)
    for hook in hooks:
        hook.remove()
    return shapes


def pack(graph: fx.GraphModule, example: torch.Tensor, batch: int = AUTO_BATCH["cpu"]) -> fx.GraphModule:
    """Convolutions of a folded graph as oneDNN calls, each with the activation that follows it (CPU only)."""
    shapes = _input_shapes(graph, example)
    modules = dict(graph.named_modules())
    calls = [node for node in graph.graph.nodes if node.op == "call_module"]
    targets = [node.target for node in calls]
    for node in calls:
        conv = modules[node.target]
        if type(conv) is not nn.Conv2d or conv.padding_mode != "zeros" or targets.count(node.target) > 1:
            continue
        activation: tuple[str, list[float], str] = ("none", [], "")
        users = list(node.users)
        if len(users) == 1 and (found := _activation(users[0], modules)) is not None:
            activation = found
            users[0].replace_all_uses_with(node)
            graph.graph.erase_node(users[0])
        graph.set_submodule(node.target, PackedConv(conv, activation, [batch, *shapes[node.target][1:]]))
    _scale_in_place(graph)
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph


def _scale_in_place(graph: fx.GraphModule) -> None:
    """Squeeze-and-excitation scales a convolution's output, which nothing reads afterwards, without a second array."""
    order = {node: place for place, node in enumerate(graph.graph.nodes)}
    for node in order:
        if node.op != "call_function" or node.target is not operator.mul:
            continue
        for image, scale in (node.args, node.args[::-1]):
            readers = (
                [] if not isinstance(image, fx.Node) else [user for user in image.users if user is not node]
            )
            if (
                readers
                and all(order[reader] < order[node] and _is_pooling(graph, reader) for reader in readers)
                and isinstance(_module(graph, image), PackedConv)
            ):
                node.target, node.args = operator.imul, (image, scale)
                break


def _module(graph: fx.GraphModule, node: Any) -> nn.Module | None:
    return graph.get_submodule(str(node.target)) if node.op == "call_module" else None


def _is_pooling(graph: fx.GraphModule, node: fx.Node) -> bool:
    return isinstance(_module(graph, node), nn.AdaptiveAvgPool2d) or (
        node.op == "call_method" and node.target == "mean"
    )


def _activation(node: fx.Node, modules: dict[str, nn.Module]) -> tuple[str, list[float], str] | None:
    if node.op == "call_module":
        return _FUSED.get(type(modules[str(node.target)]))
    if node.op == "call_function" and node.target is nn.functional.relu:
        return _FUSED[nn.ReLU]
    return None


def _fast(model: nn.Module, size: Size, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """``model`` made fast for ``device``, or as it is where that cannot be done or would change its features."""
    ramp = torch.linspace(-2, 2, 3 * size[0] * size[1]).view(1, 3, *size)
    example = (ramp * 37).sin().contiguous(memory_format=torch.channels_last)
    expected = model(example)
    try:
        fast = fold(model, example)
        if isinstance(fast, fx.GraphModule):
            fast = fast.to(memory_format=torch.channels_last)
            if device.type == "cpu" and dtype == torch.float32 and torch.backends.mkldnn.is_available():
                fast = pack(fast, example)
        got = fast(example)
    except Exception as error:  # a model that cannot be traced, an operator that this build of torch lacks
        _log.info("%s is not folded: %s", type(model).__name__, error)
        return model
    if not (got - expected).abs().max() <= _TOLERANCE * max(1.0, float(expected.abs().max())):
        _log.warning("%s is not folded: its features would change", type(model).__name__)
        return model
    return fast


# ------------------------------------------------------------------------------------------------- the network


class Network(nn.Module):
    """uint8 frames ``[B, h, w, 3]`` (RGB, on ``device``) to pooled features, float32 ``[B, D]``."""

    def __init__(
        self, spec: "BackboneSpec", body: nn.Module, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.spec = spec
        self.device = device
        self.dtype = dtype
        self.size = Geometry.from_name(spec.geometry).output
        self.body = body
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (spec.mean, spec.std))
        columns = self.size[1]  # one number per byte of a line: a line is computed as one run of memory
        self.scale = (1 / (255 * std)).repeat(columns).to(device, torch.float32)
        self.shift = (-mean / std).repeat(columns).to(device, torch.float32)

    def normalise(self, frames: torch.Tensor) -> torch.Tensor:
        """``ToTensor`` and ``Normalize``: uint8 ``[B, h, w, 3]`` to ``[B, 3, h, w]`` in channels-last memory."""
        lines = frames.flatten(2).to(torch.float32).mul_(self.scale).add_(self.shift)
        return lines.view(frames.shape).permute(0, 3, 1, 2).to(self.dtype)

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


def load(
    spec: "BackboneSpec",
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
        if fold:
            model = _fast(model, size, where, dtype)
        network = Network(spec, model.to(device=where, dtype=dtype), where, dtype).eval()
        found = network(torch.zeros((1, *size, 3), dtype=torch.uint8, device=where)).shape[1]
    if found != spec.dim:
        raise UserError(
            f"{spec.name} gives {found} features, not the {spec.dim} expected: is the library another version?"
        )
    return network


def _settle(device: torch.device) -> None:
    """Settings of the process: the same numbers every time, and memory that is kept between batches."""
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cuda.matmul.allow_tf32 = False
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
    """Frames of two arrays (uint8 ``[T, h, w, 3]``, ``[K, h, w, 3]``) read one after the other, without a copy of them all."""

    dtype = np.dtype(np.uint8)

    def __init__(self, first: np.ndarray, second: np.ndarray) -> None:
        self._first, self._second = first, second
        self.shape = (len(first) + len(second), *first.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(len(self))
        split = len(self._first)
        if stop <= split:  # all batches but the last: no copy
            return self._first[start:stop]
        return np.concatenate(
            [self._first[start:stop], self._second[max(0, start - split) : max(0, stop - split)]]
        )


def embed(
    network: Network, frames: np.ndarray | Stacked, batch_size: int, workers: int = 1
) -> tuple[np.ndarray, int]:
    """Features of ``frames`` (uint8 ``[T, h, w, 3]``, an array or a memory map): float32 ``[T, D]``, and the batch used.

    Every batch has ``batch_size`` rows (the last frame is repeated to fill the last one), so that a row does not depend
    on how many others there are. On the CPU ``workers`` threads take whole batches, each with one thread of torch's
    own: their number changes no byte. Where memory does not suffice the batch is halved and all rows are done again.
    """
    if frames.shape[1:] != (*network.size, 3) or frames.dtype != np.uint8:
        raise ValueError(
            f"frames are {frames.dtype} {frames.shape}, not uint8 [T, {network.size[0]}, {network.size[1]}, 3]"
        )
    run = _embed_cuda if network.device.type == "cuda" else _embed_cpu
    while True:
        try:
            return run(network, frames, batch_size, workers), batch_size
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not isinstance(
                error, torch.OutOfMemoryError | MemoryError
            ) and "can't allocate memory" not in str(error):
                raise
            if batch_size == 1:
                raise UserError(
                    f"{network.spec.name} does not fit into the memory of {network.device} even one frame at a time: "
                    "use a device with more memory or another backbone."
                ) from error
        if network.device.type == "cuda":
            torch.cuda.empty_cache()
        batch_size //= 2


def _fill(batch: np.ndarray, frames: np.ndarray | Stacked, start: int) -> int:
    """Copy the batch that begins at ``start`` and repeat its last frame to the end. Returns how many are real."""
    chunk = frames[start : start + len(batch)]
    batch[: len(chunk)] = chunk
    batch[len(chunk) :] = chunk[-1]
    return len(chunk)


def _embed_cpu(network: Network, frames: np.ndarray | Stacked, batch_size: int, workers: int) -> np.ndarray:
    features = np.empty((len(frames), network.spec.dim), np.float32)

    def run(start: int) -> None:
        batch = np.empty((batch_size, *frames.shape[1:]), np.uint8)
        real = _fill(batch, frames, start)
        features[start : start + real] = network(torch.from_numpy(batch)).numpy()[:real]

    with ThreadPoolExecutor(workers, "embed", initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for _ in pool.map(run, range(0, len(frames), batch_size)):
            pass
    return features


def _embed_cuda(network: Network, frames: np.ndarray | Stacked, batch_size: int, workers: int) -> np.ndarray:
    """Two pinned buffers: while the device works on one batch the next is read and copied on a stream of its own."""
    device = network.device
    shape = (batch_size, *frames.shape[1:])
    features = torch.empty((len(frames), network.spec.dim), device=device)
    pinned = [torch.empty(shape, dtype=torch.uint8, pin_memory=True) for _ in range(2)]
    on_device = [torch.empty(shape, dtype=torch.uint8, device=device) for _ in range(2)]
    copied = [torch.cuda.Event() for _ in range(2)]
    used = [torch.cuda.Event() for _ in range(2)]
    compute, copying = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    copying.wait_stream(compute)
    for number, start in enumerate(range(0, len(frames), batch_size)):
        slot = number % 2
        copied[slot].synchronize()  # the pinned buffer is free
        real = _fill(pinned[slot].numpy(), frames, start)
        with torch.cuda.stream(copying):
            copying.wait_event(used[slot])  # the device's buffer is free
            on_device[slot].copy_(pinned[slot], non_blocking=True)
            copied[slot].record(copying)
        compute.wait_event(copied[slot])
        features[start : start + real] = network(on_device[slot])[:real]
        used[slot].record(compute)
    result = features.cpu().numpy()
    torch.cuda.synchronize(device)
    return result
