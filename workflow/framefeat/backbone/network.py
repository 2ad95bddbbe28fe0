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
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import fx, nn

from framefeat.backbone.resolve import published
from framefeat.backbone.weights import file_sha256, read_state
from framefeat.errors import UserError
from framefeat.extract import devices
from framefeat.video.geometry import Geometry, Size

if TYPE_CHECKING:
    from framefeat.backbone.resolve import BackboneSpec

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
_TOLERANCE = (
    1e-4  # between the folded and the plain model, in units of the largest feature where that is above 1
)
NOT_FOLDED = "not folded"
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
    from framefeat.backbone.libraries import torchvision_models

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
    from framefeat.backbone.libraries import timm

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


def _example(size: Size) -> torch.Tensor:
    ramp = torch.linspace(-2, 2, 3 * size[0] * size[1]).view(1, 3, *size)
    return (ramp * 37).sin().contiguous(memory_format=torch.channels_last)


def _fast(
    model: nn.Module, example: torch.Tensor, expected: torch.Tensor, device: torch.device, dtype: torch.dtype
) -> tuple[nn.Module, str]:
    """``model`` made fast for ``device``, or as it is where that cannot be done or would change its features of
    ``example``; and what was done, which begins with ``NOT_FOLDED`` in that case."""
    done = "nothing to fold"
    try:
        fast = fold(model, example)
        if isinstance(fast, fx.GraphModule):
            done = "folded"
            fast = fast.to(memory_format=torch.channels_last)
            if device.type == "cpu" and dtype == torch.float32 and torch.backends.mkldnn.is_available():
                done = "folded and packed"
                fast = pack(fast, example)
        got = fast(example)
    except Exception as error:  # a model that cannot be traced, an operator that this build of torch lacks
        return model, f"{NOT_FOLDED}: {devices.first_line(error)}"
    if not (got - expected).abs().max() <= _TOLERANCE * max(1.0, float(expected.abs().max())):
        return model, f"{NOT_FOLDED}: its features would change"
    return fast, done


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


# ------------------------------------------------------------------------------------------------- the network


class Network(nn.Module):
    """uint8 frames ``[B, h, w, 3]`` (RGB, on ``device``) to pooled features, float32 ``[B, D]``.

    ``about`` says what computes them, for the record; ``fits`` is the largest batch that had room, where one had none.
    """

    def __init__(
        self, spec: "BackboneSpec", body: nn.Module, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.spec = spec
        self.device = device
        self.dtype = dtype
        self.size = Geometry.from_name(spec.geometry).output
        self.body = body
        self.about: dict[str, Any] = {}
        self.fits: int | None = None
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
        example, folding = _example(size), "not asked for"
        expected = model(example)
        if fold:
            model, folding = _fast(model, example, expected, where, dtype)
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


def _about(network: Network, folding: str) -> dict[str, Any]:
    """What the record says of it: no time, no host, the same for every video of a run on one device."""
    about: dict[str, Any] = {"device": str(network.device)}
    if network.device.type == "cuda":
        about = {
            "device": torch.cuda.get_device_name(network.device),
            "driver": devices.driver_version(),
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
    network: Network,
    frames: np.ndarray | Stacked,
    batch_size: int,
    workers: int = 1,
    beat: Callable[[], None] = lambda: None,
) -> tuple[np.ndarray, int]:
    """Features of ``frames`` (uint8 ``[T, h, w, 3]``, an array or a memory map): float32 ``[T, D]``, and the batch used.

    Every batch has ``batch_size`` rows (the last frame is repeated to fill the last one), so that a row does not depend
    on how many others there are. On the CPU ``workers`` threads take whole batches, each with one thread of torch's
    own: their number changes no byte. Where memory does not suffice the batch is halved, for what comes after as well,
    and all rows are done again. ``beat`` is called after each batch.
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
    if not devices.is_out_of_memory(error):
        raise error
    use = _memory_use(network.device)
    if batch_size == 1:
        raise UserError(
            f"{network.spec.name} does not fit into the memory of {network.device} even one frame at a time"
            f"{use}: use a device with more memory or another backbone. ({devices.first_line(error)})"
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

    def run(start: int) -> None:
        batch = np.empty((batch_size, *frames.shape[1:]), np.uint8)
        real = _fill(batch, frames, start)
        features[start : start + real] = network(torch.from_numpy(batch)).numpy()[:real]
        beat()

    with ThreadPoolExecutor(workers, "embed", initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for _ in pool.map(run, range(0, len(frames), batch_size)):
            pass
    return features


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

    with ThreadPoolExecutor(1, "read") as reader, ThreadPoolExecutor(1, "write") as writer:
        for lane, start in zip(lanes, starts, strict=False):
            lane.reading = reader.submit(read, lane, start)
        for number, start in enumerate(starts):
            lane = lanes[number % len(lanes)]
            assert lane.reading is not None
            real = lane.reading.result()
            if lane.writing is not None:
                lane.writing.result()  # its features are taken
            with torch.cuda.stream(copying):
                copying.wait_event(lane.computed)  # its frames are used
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
