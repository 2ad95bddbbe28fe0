"""What happens to a frame between decoder and network: a geometry (here, in PIL) and a normalisation (on the device).

A ``Geometry`` turns a frame of any size into one fixed size, bit for bit as torchvision's and timm's evaluation
transforms do to a PIL image, so that sampling needs neither library. Its name is a folder name and says it all:

===========================  ==========================================================================================
``squash224``                both sides to 224, aspect not kept, bilinear: the notebook's ``Resize((224, 224))``
``short232-crop224``         shorter side to 232, then the centre 224 x 224
``short256-crop224-bicubic`` the same with another filter (bilinear is not spelled out)
``squash256x128``            height x width
``cover256x128-crop224x112`` smallest size that covers 256 x 128, aspect kept
``fit336-fill7b7e7f-bicubic``  largest size that fits in 336 x 336, aspect kept, the rest filled with a colour
===========================  ==========================================================================================
"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

Size = tuple[int, int]
"""(height, width) in pixels."""

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}
_MODES = ("squash", "short", "cover", "fit")
_NAME = re.compile(
    r"(?P<mode>[a-z]+)(?P<size>\d+(?:x\d+)?)(?:-crop(?P<crop>\d+(?:x\d+)?))?"
    r"(?:-fill(?P<fill>[0-9a-f]{6}))?(?:-(?P<filter>[a-z]+))?"
)


@dataclass(frozen=True)
class Normalise:
    """``(x / 255 - mean) / std`` per channel (red, green, blue)."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Geometry:
    """From a frame of any size to ``output`` pixels (see the module for the modes and names)."""

    mode: str
    size: Size
    crop: Size | None = None
    interpolation: str = "bilinear"
    fill: tuple[int, int, int] = (0, 0, 0)

    def __post_init__(self) -> None:
        if self.mode not in _MODES or self.interpolation not in _FILTERS or min(self.size) < 1:
            raise ValueError(f"no such geometry: {self.mode} {self.size} {self.interpolation}")
        if self.mode == "short" and (self.size[0] != self.size[1] or self.crop is None):
            raise ValueError("a shorter side is one number and needs a crop")

    @property
    def name(self) -> str:
        """File-safe, one to one: ``Geometry.from_name(g.name) == g``."""
        parts = [self.mode + _side(self.size)]
        if self.crop is not None:
            parts.append("crop" + _side(self.crop))
        if any(self.fill):
            parts.append("fill" + bytes(self.fill).hex())
        if self.interpolation != "bilinear":
            parts.append(self.interpolation)
        return "-".join(parts)

    @classmethod
    def from_name(cls, name: str) -> "Geometry":
        found = _NAME.fullmatch(name)
        if found is None:
            raise ValueError(f"{name!r} names no geometry (as squash224 or short256-crop224-bicubic do)")
        crop, fill = found["crop"], bytes.fromhex(found["fill"] or "000000")
        return cls(
            found["mode"],
            _size(found["size"]),
            None if crop is None else _size(crop),
            found["filter"] or "bilinear",
            (fill[0], fill[1], fill[2]),
        )

    @property
    def output(self) -> Size:
        """Height and width of what ``apply`` returns."""
        return self.size if self.crop is None else self.crop

    def describe(self) -> dict[str, Any]:
        """JSON-able, for a manifest."""
        record: dict[str, Any] = {
            "name": self.name,
            "mode": self.mode,
            "resize": list(self.size),
            "interpolation": self.interpolation,
            "crop": None if self.crop is None else list(self.crop),
        }
        return record | ({"fill": list(self.fill)} if any(self.fill) else {})

    def resized(self, height: int, width: int) -> Size:
        """The size that a frame of ``height`` x ``width`` pixels is resampled to, before padding and crop."""
        if self.mode == "squash":
            return self.size
        if self.mode == "short":  # torchvision's rounding: the longer side is cut, not rounded
            short = self.size[0]
            if width <= height:
                return int(short * height / width), short
            return short, int(short * width / height)
        ratios = height / self.size[0], width / self.size[1]
        ratio = min(ratios) if self.mode == "cover" else max(ratios)
        return max(1, round(height / ratio)), max(1, round(width / ratio))

    def apply(self, rgb: np.ndarray) -> np.ndarray:
        """``uint8 [H, W, 3]`` (any size) to ``uint8 [h, w, 3]`` of ``self.output``."""
        image = Image.fromarray(np.ascontiguousarray(rgb))
        height, width = self.resized(image.height, image.width)
        if (image.height, image.width) != (height, width):
            image = image.resize((width, height), _FILTERS[self.interpolation])
        if (image.height, image.width) != self.output:
            image = _centre(image, self.output, self.fill)
        return np.array(image)


def _centre(image: Image.Image, size: Size, fill: tuple[int, int, int]) -> Image.Image:
    """Centre crop with torchvision's rounding; what is too small is padded first, the odd pixel on the far side."""
    rows, columns = max(0, size[0] - image.height), max(0, size[1] - image.width)
    if rows or columns:
        border = (columns // 2, rows // 2, (columns + 1) // 2, (rows + 1) // 2)
        from PIL import ImageOps

        image = ImageOps.expand(image, border=border, fill=fill)
    top, left = round((image.height - size[0]) / 2), round((image.width - size[1]) / 2)
    return image.crop((left, top, left + size[1], top + size[0]))


def _side(size: Size) -> str:
    return str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"


def _size(text: str) -> Size:
    height, _, width = text.partition("x")
    return int(height), int(width or height)


SQUASH224 = Geometry("squash", (224, 224))
