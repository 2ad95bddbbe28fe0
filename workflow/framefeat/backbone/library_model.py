"""torchvision's and timm's models without their heads, their weights loaded and nothing else changed."""

import contextlib
import os
import re
from typing import Any

from torch import nn

from framefeat.backbone.libraries import timm, torchvision_models
from framefeat.backbone.spec import BackboneSpec
from framefeat.backbone.weights import published, read_state
from framefeat.errors import UserError
from framefeat.files import file_sha256
from framefeat.video.geometry import Geometry, Size

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


def load_library_model(spec: BackboneSpec, weights_file: str | os.PathLike[str]) -> nn.Module:
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
