"""Backbones by their names: what a name, its weights and a preprocessing stand for, without loading any weights.

``mobilenet_v3_large`` and every other torchvision classification builder; ``timm:name`` or ``timm:name.tag`` for timm,
and ``timm:name.tag:projected`` for CLIP's image embedding, after its projection. ``network.load_model`` turns the
specification and a weights file into pooled features.
"""

import difflib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from framefeat.backbone.libraries import timm, torchvision_models
from framefeat.backbone.spec import PROJECTED, BackboneSpec, folder_name, three_numbers
from framefeat.backbone.weights import DEFAULT, WeightsRef, published, weights_for
from framefeat.errors import UserError
from framefeat.settings import DEFAULTS, choices
from framefeat.video.geometry import SQUASH224, Geometry, Normalise

_DISPLAY = {"mobilenet_v3_large": "MobileNetV3-Large"}


def resolve(
    name: str, weights: WeightsRef | str | None = None, preprocess: str = DEFAULTS["preprocess"]
) -> BackboneSpec:
    """What ``name`` stands for; ``UserError`` with the nearest known names where it stands for nothing.

    ``preprocess``: ``squash224``, or ``weights`` for the weights' own resize and crop. Mean and standard deviation are
    the weights' own either way (torchvision: ImageNet's): they belong to the weights as much as the first layer does.
    """
    if preprocess not in choices("preprocess"):
        raise UserError(f"preprocess: {preprocess!r} is neither 'squash224' nor 'weights'.")
    if not isinstance(weights, WeightsRef):
        text = DEFAULT if weights is None else weights
        weights = weights_for(text, [name])[name]
    describe = _timm if name.startswith("timm:") else _torchvision
    arch, label, file, geometry, normalise = describe(name, weights)
    if weights.kind == "file":
        label, file = Path(str(weights.value)).name, str(weights.value)
    if preprocess == "squash224":
        geometry = SQUASH224
    source = "timm" if describe is _timm else "torchvision"
    return BackboneSpec(
        name=name,
        display=_DISPLAY.get(name, name),
        source=source,
        arch=arch,
        kind=weights.kind,
        weights=label,
        file=file,
        sha256=weights.sha256,
        dim=_dim(name, source, arch, geometry),
        geometry=geometry.name,
        mean=normalise.mean,
        std=normalise.std,
        folder=folder_name(name),
    )


def _dim(name: str, source: str, arch: str, geometry: Geometry) -> int:
    """The number of features, by a forward pass without memory (``meta`` device), or a real one where the model needs
    values."""
    import torch

    from framefeat.backbone.library_model import build

    shape: tuple[int, ...] = ()
    for device in ("meta", "cpu"):
        try:
            with torch.device(device), torch.inference_mode():
                shape = tuple(
                    build(source, arch, geometry.output).eval()(torch.zeros(1, 3, *geometry.output)).shape
                )
            break
        except UserError:
            raise
        except Exception as error:
            if device == "cpu" or not (isinstance(error, NotImplementedError) or "meta" in str(error)):
                raise UserError(
                    f"{name} does not run on {geometry.output[0]} x {geometry.output[1]} pixels ({error}): "
                    "try preprocess: weights, or another backbone."
                ) from error
    if len(shape) != 2:
        raise UserError(
            f"{name} gives features of shape {shape[1:]}, not one row per frame: choose another backbone."
        )
    return shape[1]


def _torchvision(name: str, weights: WeightsRef) -> tuple[str, str, str, Geometry, Normalise]:
    models = torchvision_models()
    builders = models.list_models(module=models)
    if name not in builders:
        raise UserError(_unknown(name, builders))
    known = models.get_model_weights(name)
    if weights.kind == "tag":
        raise UserError(
            f"weights: {name} is a torchvision backbone and has no tags; it has {', '.join(known.__members__)}."
        )
    if weights.kind == "enum":
        if weights.value not in known.__members__:
            names = [member.name for member in known]
            nearest = difflib.get_close_matches(str(weights.value), names, n=1, cutoff=0.3) or names[:1]
            raise UserError(
                f"weights: {name} has no weights {weights.value!r}: did you mean {nearest[0]!r}? "
                f"It has {', '.join(names)}; a local file needs '/' or one of .pth, .pt, .safetensors."
            )
        member = known[str(weights.value)]
        if member.name.endswith("_FEATURES"):
            raise UserError(
                f"weights: {name} {member.name} holds no layers after the convolutions: use {DEFAULT}."
            )
    else:
        member = published(name, str(weights.value)) or next(iter(known))
    transform = member.transforms()
    resize, crop = transform.resize_size[0], transform.crop_size[0]
    geometry = Geometry("short", (resize, resize), (crop, crop), transform.interpolation.value)
    return (
        name,
        member.name,
        Path(member.url).name,
        geometry,
        Normalise(three_numbers(transform.mean), three_numbers(transform.std)),
    )


def _timm(name: str, weights: WeightsRef) -> tuple[str, str, str, Geometry, Normalise]:
    library = timm()
    wanted, colon, head = name.removeprefix("timm:").partition(":")
    if colon + head not in ("", PROJECTED):
        raise UserError(
            f"backbones: {name!r} ends in {colon + head!r}; what may follow a timm name is {PROJECTED!r}."
        )
    arch, _, tag = wanted.partition(".")
    if not library.is_model(arch):
        raise UserError(_unknown(name, [f"timm:{known}" for known in library.list_models()]))
    tags = [
        known.partition(".")[2]
        for known in library.list_pretrained(f"{arch}.*") + library.list_pretrained(arch)
    ]
    if tag and tag not in tags:
        raise UserError(_unknown(name, [f"timm:{arch}.{known}" for known in tags]))
    config = library.get_pretrained_cfg(wanted, allow_unregistered=False)
    if weights.kind != "file" and (config is None or not config.has_weights):
        raise UserError(f"{name} has no published weights: give a local file (weights: {{{name!r}: PATH}}).")
    record = {} if config is None else config.to_dict()
    tag = tag or record.get("tag", "")
    full = f"{arch}.{tag}" if tag else arch
    if head:
        if "clip" not in full or "_ft_" in full or not record.get("num_classes"):
            raise UserError(
                f"backbones: {name} has no projection of CLIP's: leave {PROJECTED!r} out, or choose a CLIP model that is not fine-tuned "
                "('framefeat backbones clip')."
            )
        full += PROJECTED
    normalise = Normalise(
        three_numbers(record.get("mean", Normalise.mean)), three_numbers(record.get("std", Normalise.std))
    )
    return full, tag, folder_name(full) + ".safetensors", timm_geometry(record), normalise


def timm_geometry(config: Mapping[str, Any]) -> Geometry:
    """The evaluation transform of a timm pretrained configuration, up to ``ToTensor``."""
    _, height, width = config.get("input_size", (3, 224, 224))
    crop_pct = config.get("crop_pct") or 0.875
    scaled = math.floor(height / crop_pct), math.floor(width / crop_pct)
    mode = {"squash": "squash", "border": "fit"}.get(config.get("crop_mode") or "center")
    if mode is None:
        mode = "short" if scaled[0] == scaled[1] else "cover"
    fill = tuple(round(255 * value) for value in config["mean"]) if mode == "fit" else (0, 0, 0)
    crop = None if mode == "squash" and scaled == (height, width) else (height, width)
    return Geometry(
        mode, scaled, crop, config.get("interpolation") or "bilinear", (fill[0], fill[1], fill[2])
    )


def _unknown(name: str, known: Iterable[str]) -> str:
    names = list(known)
    lower = name.lower().replace("-", "_")
    near = difflib.get_close_matches(lower, names, n=3) or [one for one in names if lower in one][:3]
    hint = f"did you mean {', '.join(map(repr, near))}?" if near else "see docs/backbones.md for the names."
    return f"backbones: no backbone is named {name!r}: {hint}"
