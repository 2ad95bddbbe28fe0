"""Models whose activations are alive, for tests without published weights.

A freshly built network in evaluation mode gives numbers that are all nearly zero, and any comparison of those passes:
here the weights are seeded and BatchNorm's statistics are estimated on a few frames that look like pictures.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def pictures(count: int, height: int = 224, width: int = 224, seed: int = 0) -> np.ndarray:
    """uint8 [count, height, width, 3]: smooth colour fields, edges and some noise; each picture is another one."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    frames = np.empty((count, height, width, 3), np.uint8)
    for frame in frames:
        image = np.zeros((height, width, 3))
        for _ in range(6):
            kx, ky, phase = generator.normal(0, 12, 2).tolist() + [generator.uniform(0, 6.3)]
            wave = np.sin(kx * x + ky * y + phase)
            wave = np.sign(wave) if generator.random() < 0.4 else wave
            image += wave[..., None] * generator.normal(0, 35, 3)
        image *= generator.uniform(40, 60) / image.std()  # one contrast for all: no picture is far from the others
        image += generator.uniform(80, 170, 3) + generator.normal(0, 10, image.shape)
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
                for parameter in module.parameters(recurse=False):  # layer scales, class tokens, position embeddings:
                    if parameter.std() < 1e-3:  # those that begin near zero would hide what they belong to
                        parameter.data.add_(torch.randn_like(parameter), alpha=0.3)
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:  # as training leaves them: a channel is not centred, so that no frame is far from the others
            norm.weight.data.uniform_(0.7, 1.3)
            norm.bias.data.normal_(0, 0.6)
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


def live_mobilenet(path: str | Path, seed: int = 0) -> Path:
    """The full state dict of a live ``mobilenet_v3_large`` at ``path``, as the notebook would have saved it."""
    import torch

    from framefeat.libraries import torchvision_models

    torch.save(live(lambda: torchvision_models().mobilenet_v3_large(weights=None), seed=seed).state_dict(), path)
    return Path(path)
