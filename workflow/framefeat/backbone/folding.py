"""A model made fast: BatchNorm folded into convolutions, and on CPUs each convolution and its activation as one call.

Float rounding is all that changes, which is checked on one image; a model that would change more stays as it is.
"""

import copy
import operator
from typing import Any

import torch
from torch import fx, nn

from framefeat.errors import first_line

NOT_FOLDED = "not folded"
#: Between the folded and the plain model, in units of the largest feature where that is above 1.
_TOLERANCE = 1e-4

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


def pack(graph: fx.GraphModule, example: torch.Tensor, batch: int) -> fx.GraphModule:
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


def speed_up(
    model: nn.Module,
    example: torch.Tensor,
    expected: torch.Tensor,
    device: torch.device,
    dtype: torch.dtype,
    batch: int,
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
                fast = pack(fast, example, batch)
        got = fast(example)
    except Exception as error:  # a model that cannot be traced, an operator that this build of torch lacks
        return model, f"{NOT_FOLDED}: {first_line(error)}"
    if not (got - expected).abs().max() <= _TOLERANCE * max(1.0, float(expected.abs().max())):
        return model, f"{NOT_FOLDED}: its features would change"
    return fast, done
