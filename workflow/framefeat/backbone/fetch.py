"""Published weights, from the libraries' caches on this machine or by one download."""

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from framefeat.backbone.libraries import timm, torchvision_models
from framefeat.backbone.resolve import resolve
from framefeat.backbone.spec import BackboneSpec
from framefeat.backbone.weights import WeightsRef, published_digest
from framefeat.errors import UserError, first_line
from framefeat.files import atomic_path, file_sha256

_TIMEOUT = 30.0  # seconds without an answer


def fetch(name: str, weights: WeightsRef | str | None, dest: str | os.PathLike[str]) -> None:
    """Put the published weights of backbone ``name`` at ``dest``: from the library's own cache, else by one download.

    torchvision's file is copied as it is and must match the digest in its name; timm's weights are saved as safetensors
    in the keys of the model. ``dest`` appears whole or not at all.
    """
    spec = resolve(name, weights)
    if spec.kind == "file":
        raise UserError(f"{name} uses the local file {spec.file}: there is nothing to fetch.")
    (_fetch_torchvision if spec.source == "torchvision" else _fetch_timm)(spec, Path(dest))


def _by_hand(name: str, where: str, reason: object) -> UserError:
    return UserError(
        f"The weights of {name} are not on this machine and cannot be downloaded ({reason}): put {where}, or point the "
        "key weights at a local file: weights=PATH beside other keys after --config (of a module, in its part of the configuration)"
        f"; for one of several backbones, in a configuration file: weights: {{{name!r}: PATH}}."
    )


def _fetch_torchvision(spec: BackboneSpec, dest: Path) -> None:
    import torch

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


def _fetch_timm(spec: BackboneSpec, dest: Path) -> None:
    from safetensors.torch import save_file

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
            raise _by_hand(spec.name, where, first_line(error).rstrip(".")) from error
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
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise OSError("HF_HUB_OFFLINE is set")
    if not getproxies():
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
