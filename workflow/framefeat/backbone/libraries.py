"""torchvision and timm without torch's compiler.

torchvision (for one decorator of ``roi_align``) and timm (for ``torch.compiler.disable``) import the whole of
``torch._dynamo``, inductor and sympy: 4 of the 5 seconds of CPU that their import takes. Nothing here compiles, so for
the time of their import a stand-in answers in its place. Afterwards the real one can be imported as ever. Where a
stand-in does not do (another version asks it for more), the import runs again without it.
"""

import importlib
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_COMPILER = ("torch._dynamo", "torch._dynamo.utils", "torch._dynamo.config")


def torchvision_models() -> Any:
    """The module ``torchvision.models``."""
    return _import("torchvision.models")


def timm() -> Any:
    """The module ``timm``."""
    _import("torchvision")
    return _import("timm")


def _import(name: str) -> Any:
    if name in sys.modules:
        return sys.modules[name]
    importlib.import_module("torch")
    try:
        with _without_compiler():
            return importlib.import_module(name)
    except (ImportError, AttributeError, TypeError):
        return importlib.import_module(name)


@contextmanager
def _without_compiler() -> Iterator[None]:
    """Stand-ins for the compiler's modules, unless they are loaded already (then importing them costs nothing)."""
    if "torch._dynamo" in sys.modules:
        yield
        return
    stands: dict[str, Any] = {name: types.ModuleType(name) for name in _COMPILER}
    package = stands["torch._dynamo"]
    package.__path__ = []
    package.config, package.utils = stands["torch._dynamo.config"], stands["torch._dynamo.utils"]
    package.disable = lambda fn=None, *_, **__: fn if fn is not None else (lambda inner: inner)
    package.utils.is_compile_supported = lambda device_type: False
    sys.modules.update(stands)
    try:
        yield
    finally:
        for name in stands:
            sys.modules.pop(name, None)
