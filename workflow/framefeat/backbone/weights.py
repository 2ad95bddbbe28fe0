"""Weights: which a backbone uses, and how their file is read (as weights only, never as code)."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from framefeat.backbone.libraries import torchvision_models
from framefeat.errors import UserError, first_line
from framefeat.settings import DEFAULTS

DEFAULT: str = DEFAULTS["weights"]
_SUFFIXES = (".pth", ".pt", ".safetensors")
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")


@dataclass(frozen=True)
class WeightsRef:
    """``enum``: a torchvision weights name; ``tag``: what a timm name ends in (None: its own default); ``file``: a
    path."""

    kind: str
    value: str | None
    sha256: str | None = None


def is_path(text: str) -> bool:
    return "/" in text or text.lower().endswith(_SUFFIXES)


def weights_for(config: str | Mapping[str, Any], backbones: Sequence[str]) -> dict[str, WeightsRef]:
    """The ``weights`` key's meaning for each backbone in use; entries for backbones not in use are ignored."""
    if isinstance(config, str) and is_path(config) and len(backbones) > 1:
        raise UserError(
            f"weights: the file {config} cannot serve {len(backbones)} backbones ({', '.join(backbones)}): "
            "give a map from each backbone to its weights."
        )
    references = {}
    for name in backbones:
        entry = config if isinstance(config, str) else config.get(name)
        if isinstance(entry, Mapping):
            if not entry.get("file"):
                raise UserError(
                    f"weights: the entry of {name} has no file: give {{file: PATH, sha256: DIGEST}}."
                )
            digest = entry.get("sha256")
            if digest is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", str(digest)):
                raise UserError(f"weights: the sha256 of {name} is not 64 hexadecimal digits: {digest}")
            references[name] = WeightsRef("file", str(entry["file"]), digest and str(digest).lower())
        elif entry is not None and is_path(entry):
            references[name] = WeightsRef("file", entry)
        elif name.startswith("timm:"):
            if entry is not None and not isinstance(config, str):
                raise UserError(
                    f"weights: {name} takes its weights from its name (timm:name.tag), not from {entry!r}: put the tag "
                    "there, or give a file here."
                )
            references[name] = WeightsRef("tag", name.split(":")[1].partition(".")[2] or None)
        else:
            references[name] = WeightsRef("enum", entry or DEFAULT)
    return references


def published_digest(url: str) -> str:
    """The first hexadecimal digits of the sha256, which torchvision's file names end in."""
    found = re.search(r"-([0-9a-f]{8,})\.", Path(url).name)
    return found[1] if found else ""


def published(builder: str, path: str, sha256: str | None = None) -> Any:
    """torchvision's own weights that a local file holds (by its name, or its digest if given), or None."""
    for member in torchvision_models().get_model_weights(builder):
        digest = published_digest(member.url)
        if Path(path).name == Path(member.url).name or (sha256 and digest and sha256.startswith(digest)):
            return member
    return None


def read_state(path: str | os.PathLike[str]) -> "State":
    """The state dict in a torch or safetensors file: key -> tensor on the CPU, common wrappers and prefixes removed.

    torch files are read with ``weights_only=True``: what holds other objects than tensors is refused.
    """
    import torch

    file = Path(path)
    if not file.is_file():
        raise UserError(f"Weights file {file} does not exist: check the key weights.")
    state = _content(file)
    for wrapper in _WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
            break
    tensors = isinstance(state, Mapping) and all(isinstance(value, torch.Tensor) for value in state.values())
    if not tensors or not state:
        raise UserError(
            f"Weights file {file} holds no state dict (a map from names to tensors): save model.state_dict()."
        )
    return _without_prefixes(state)


def _content(file: Path) -> Any:
    import torch

    try:
        if file.suffix.lower() == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:
        raise UserError(
            f"Weights file {file} cannot be read as weights ({_reason(error)}): save the state dict alone, with "
            "torch.save(model.state_dict(), PATH) or as safetensors."
        ) from error


def _without_prefixes(state: Mapping[str, Any]) -> "State":
    metadata = getattr(state, "_metadata", None)  # versions of the modules' own formats
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
            if metadata is not None:
                metadata = {key.removeprefix(prefix): value for key, value in metadata.items()}
    result = State(state)
    if metadata is not None:
        result._metadata = metadata
    return result


def _reason(error: BaseException) -> str:
    # torch's own text goes on to advise loading without weights_only, which runs code out of the file.
    return (
        first_line(error).rstrip(".")
        if "weights_only" not in str(error)
        else "it is no file of torch.save, or holds more than tensors"
    )


class State(dict[str, Any]):
    """A dict that can carry the ``_metadata`` by which torch tells old formats."""

    _metadata: Any
