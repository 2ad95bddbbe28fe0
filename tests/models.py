"""Models whose activations are alive, for tests without published weights.

A freshly built network in evaluation mode gives numbers that are all nearly zero, and any comparison of those passes:
here the weights are seeded and BatchNorm's statistics are estimated on a few frames that look like pictures.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def pictures(count: int, height: int = 224, width: int = 224, seed: int = 0) -> np.ndarray:
    """uint8 [count, height, width, 3]: blobs of colour at several scales and some noise; each picture is another one.

    All have much the same statistics: a network with random weights blows up a picture that is far from those on which
    its BatchNorm was estimated, and with it the rounding.
    """
    generator = np.random.default_rng(seed)
    frames = np.empty((count, height, width, 3), np.uint8)
    for frame in frames:
        image = generator.normal(0, 8, (height, width, 3)) + generator.uniform(100, 155, 3)
        for cells in (4, 9, 28):
            blobs = Image.fromarray(generator.integers(0, 256, (cells, cells, 3), np.uint8))
            image += (
                np.asarray(blobs.resize((width, height), Image.Resampling.BICUBIC), float) - 127.5
            ) * 0.4
        frame[:] = image.clip(0, 255)
    return frames


def live(build: Callable[[], Any], size: int = 224, passes: int = 2, batch: int = 8, seed: int = 0) -> Any:
    """What ``build`` returns with seeded weights and estimated BatchNorm statistics, in evaluation mode."""
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build().eval()
        for module in model.modules():
            if not isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d | nn.LayerNorm):
                for parameter in module.parameters(
                    recurse=False
                ):  # layer scales, class tokens, position embeddings:
                    if parameter.std() < 1e-3:  # those that begin near zero would hide what they belong to
                        parameter.data.add_(torch.randn_like(parameter), alpha=0.3)
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in (
            norms
        ):  # as training leaves them: a channel is not centred, so that no frame is far from the others
            norm.weight.data.uniform_(0.7, 1.3)
            norm.bias.data.normal_(0, 0.2)
        if not norms and not any("LayerNorm" in type(module).__name__ for module in model.modules()):
            for module in model.modules():  # nothing would keep the signal from fading from layer to layer
                if isinstance(module, nn.Conv2d | nn.Linear):
                    nn.init.kaiming_normal_(module.weight)
    momenta = [module.momentum for module in norms]
    for module in norms:
        module.reset_running_stats()
        module.momentum = None  # a plain average over the passes
        module.train()
    with torch.no_grad():
        for number in range(passes if norms else 0):
            frames = pictures(batch, size, size, seed + number)
            model((torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255 - 0.45) / 0.225)
    for module, momentum in zip(norms, momenta, strict=True):
        module.momentum = momentum
    return model.eval()


def live_model(name: str, path: str | Path, seed: int = 0) -> Path:
    """The full state dict of a live torchvision model at ``path``."""
    from framefeat.backbone.libraries import torchvision_models

    return _saved(live(lambda: torchvision_models().get_model(name, weights=None), seed=seed), path)


def small_model(name: str, path: str | Path, side: int, seed: int = 0) -> Any:
    """The specification of a backbone for frames of ``side`` x ``side`` pixels, its live weights at ``path``."""
    import torch
    from framefeat.backbone.library_model import build
    from framefeat.backbone.resolve import resolve

    torch.save({}, path)
    spec = replace(resolve(name, str(path)), geometry=f"squash{side}")
    _saved(live(lambda: build(spec.source, spec.arch, (side, side)), side, seed=seed), path)
    return spec


def _saved(model: Any, path: str | Path) -> Path:
    import torch

    torch.save(model.state_dict(), path)
    return Path(path)


def live_mobilenet(path: str | Path, seed: int = 0) -> Path:
    """The full state dict of a live ``mobilenet_v3_large``, as the notebook would have saved it."""
    return live_model("mobilenet_v3_large", path, seed)
