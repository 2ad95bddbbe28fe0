"""Weights: which a backbone uses, where they come from, and how their file is read (as weights only, never as code)."""

import hashlib
import os
import re
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from framefeat.errors import UserError
from framefeat.files import atomic_path
from framefeat.settings import DEFAULTS

DEFAULT: str = DEFAULTS["weights"]
_SUFFIXES = (".pth", ".pt", ".safetensors")
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")
_TIMEOUT = 30.0  # seconds without an answer


@dataclass(frozen=True)
class WeightsRef:
    """``enum``: a torchvision weights name; ``tag``: what a timm name ends in (None: its own default); ``file``: a path."""

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


def file_sha256(path: str | os.PathLike[str]) -> str:
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fetch(name: str, weights: WeightsRef | str | None, dest: str | os.PathLike[str]) -> None:
    """Put the published weights of backbone ``name`` at ``dest``: from the library's own cache, else by one download.

    torchvision's file is copied as it is and must match the digest in its name; timm's weights are saved as safetensors
    in the keys of the model. ``dest`` appears whole or not at all.
    """
    from framefeat.backbone.resolve import resolve

    spec = resolve(name, weights)
    if spec.kind == "file":
        raise UserError(f"{name} uses the local file {spec.file}: there is nothing to fetch.")
    (_fetch_torchvision if spec.source == "torchvision" else _fetch_timm)(spec, Path(dest))


def _by_hand(name: str, where: str, reason: object) -> UserError:
    return UserError(
        f"The weights of {name} are not on this machine and cannot be downloaded ({reason}): put {where}, or point the "
        f"key weights at a local file (weights: {{{name!r}: PATH}})."
    )


def _fetch_torchvision(spec: Any, dest: Path) -> None:
    import torch

    from framefeat.backbone.libraries import torchvision_models

    url = torchvision_models().get_model_weights(spec.arch)[spec.weights].url
    file, prefix = Path(url).name, published_digest(url)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / file
    if cached.is_file() and file_sha256(cached).startswith(prefix):
        with atomic_path(dest) as temporary:
            shutil.copyfile(cached, temporary)
        return
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)
    try:
        with atomic_path(dest) as temporary:
            torch.hub.download_url_to_file(url, str(temporary), prefix, progress=False)
    except RuntimeError as error:  # the digest
        raise UserError(
            f"The download of {url} is not what its name says ({error}): try again later."
        ) from error
    except OSError as error:  # no network, no such host, refused, time-out, disk
        reason = getattr(error, "reason", error)
        raise _by_hand(spec.name, f"{file} (from {url}) at {dest} or {cached}", reason) from error
    finally:
        socket.setdefaulttimeout(patience)


def _fetch_timm(spec: Any, dest: Path) -> None:
    from safetensors.torch import save_file

    from framefeat.backbone.libraries import timm

    library = timm()

    def model() -> Any:
        arch, _, projected = spec.arch.partition(":")
        head = {} if projected else {"num_classes": 0}
        return library.create_model(arch, pretrained=True, **head)

    where = f"its published file in the Hugging Face cache, or its state dict (safetensors) at {dest}"
    try:
        with _hub_offline():
            built = model()
    except Exception:  # not in the cache: which error says so differs between versions of the hub's client
        try:
            _reach_hub()
            built = model()
        except Exception as error:
            raise _by_hand(spec.name, where, _first_line(error)) from error
    with atomic_path(dest) as temporary:
        save_file({key: value.contiguous().clone() for key, value in built.state_dict().items()}, temporary)


@contextmanager
def _hub_offline() -> Iterator[None]:
    """The hub's client answers from its cache alone (it reads its environment once, when it is imported)."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _reach_hub() -> None:
    """Fail at once where the hub's host has no address: its client would try again for a minute."""
    from urllib.parse import urlsplit
    from urllib.request import getproxies

    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise OSError("HF_HUB_OFFLINE is set")
    if not getproxies():
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)


def _reason(error: BaseException) -> str:
    # torch's own text goes on to advise loading without weights_only, which runs code out of the file.
    return (
        _first_line(error)
        if "weights_only" not in str(error)
        else "it is no file of torch.save, or holds more than tensors"
    )


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")


def published_digest(url: str) -> str:
    """The first hexadecimal digits of the sha256, which torchvision's file names end in."""
    found = re.search(r"-([0-9a-f]{8,})\.", Path(url).name)
    return found[1] if found else ""


def read_state(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The state dict in a torch or safetensors file: key -> tensor on the CPU, common wrappers and prefixes removed.

    torch files are read with ``weights_only=True``: what holds other objects than tensors is refused.
    """
    import torch

    file = Path(path)
    if not file.is_file():
        raise UserError(f"Weights file {file} does not exist: check the key weights.")
    try:
        if file.suffix.lower() == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:
        raise UserError(
            f"Weights file {file} cannot be read as weights ({_reason(error)}): save the state dict alone, with "
            "torch.save(model.state_dict(), PATH) or as safetensors."
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
            break
    tensors = isinstance(state, Mapping) and all(isinstance(value, torch.Tensor) for value in state.values())
    if not tensors or not state:
        raise UserError(
            f"Weights file {file} holds no state dict (a map from names to tensors): save model.state_dict()."
        )
    metadata = getattr(state, "_metadata", None)  # versions of the modules' own formats
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
            if metadata is not None:
                metadata = {key.removeprefix(prefix): value for key, value in metadata.items()}
    result = _State(state)
    if metadata is not None:
        result._metadata = metadata
    return result


class _State(dict[str, Any]):
    """A dict that can carry the ``_metadata`` by which torch tells old formats."""

    _metadata: Any
