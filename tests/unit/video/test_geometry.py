"""Geometries against the libraries' own transforms on PIL images, byte for byte."""

from typing import Any

import numpy as np
import pytest
from framefeat.video.geometry import SQUASH224, Geometry
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

FILTERS = ("bilinear", "bicubic", "nearest", "lanczos")
sides = st.integers(1, 400)


def frame(height: int, width: int) -> np.ndarray:
    """uint8 [H, W, 3] with detail at every scale."""
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), np.uint8)


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    mode = draw(st.sampled_from(("squash", "short", "cover", "fit")))
    one = draw(st.integers(1, 300))
    size = (one, one) if mode == "short" or draw(st.booleans()) else (one, draw(st.integers(1, 300)))
    crop = draw(st.tuples(st.integers(1, 300), st.integers(1, 300)) | st.none())
    if mode == "short" and crop is None:
        crop = size
    fill = draw(st.tuples(*[st.integers(0, 255)] * 3))
    return Geometry(mode, size, crop, draw(st.sampled_from(FILTERS)), fill)


@given(geometries())
@settings(max_examples=200, deadline=None)
def test_a_name_is_file_safe_and_reversible(geometry: Geometry) -> None:
    assert Geometry.from_name(geometry.name) == geometry
    assert all(letter.isalnum() or letter == "-" for letter in geometry.name)


def test_the_default_has_the_notebooks_name() -> None:
    assert SQUASH224.name == "squash224"
    assert Geometry("short", (256, 256), (224, 224), "bicubic").name == "short256-crop224-bicubic"


@pytest.mark.parametrize(
    "name", ["", "squash", "squash0", "stretch224", "short232", "squash224-cubic", "../x"]
)
def test_what_names_no_geometry_is_refused(name: str) -> None:
    with pytest.raises(ValueError):
        Geometry.from_name(name)


@given(geometries(), st.integers(1, 60), st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_the_output_size_is_what_it_says(geometry: Geometry, height: int, width: int) -> None:
    assert geometry.apply(frame(height, width)).shape == (*geometry.output, 3)


@given(sides, sides)
@example(1, 1)
@example(161, 121)
@example(224, 224)
@example(399, 2)
@example(3, 398)
@settings(max_examples=25, deadline=None)
def test_squash224_is_the_notebooks_resize(height: int, width: int) -> None:
    from torchvision import transforms

    rgb = frame(height, width)
    theirs = np.asarray(transforms.Resize((224, 224))(Image.fromarray(rgb)))
    np.testing.assert_array_equal(SQUASH224.apply(rgb), theirs)


@given(
    st.integers(1, 120),
    st.integers(1, 120),
    st.integers(1, 160),
    st.integers(1, 160),
    st.sampled_from(("bilinear", "bicubic")),
)
@example(1, 1, 232, 224, "bilinear")
@example(161, 121, 232, 224, "bilinear")
@example(120, 4, 64, 224, "bicubic")
@settings(max_examples=60, deadline=None)
def test_short_is_torchvisions_preset(height: int, width: int, resize: int, crop: int, method: str) -> None:
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms._presets import ImageClassification

    preset = ImageClassification(
        crop_size=crop,
        resize_size=resize,
        interpolation=InterpolationMode(method),
        mean=(0,) * 3,
        std=(1,) * 3,
    )
    rgb = frame(height, width)
    theirs = (preset(Image.fromarray(rgb)) * 255).round().byte().permute(1, 2, 0).numpy()
    ours = Geometry("short", (resize, resize), (crop, crop), method).apply(rgb)
    np.testing.assert_array_equal(ours, theirs)


@given(
    st.integers(2, 160),
    st.integers(2, 160),
    st.sampled_from((64, (96, 48))),
    st.sampled_from(("center", "squash", "border")),
    st.sampled_from((0.875, 1.0, 1.15, 0.9)),
    st.sampled_from(("bilinear", "bicubic")),
)
@settings(max_examples=80, deadline=None)
def test_every_mode_is_timms(
    height: int, width: int, size: int | tuple[int, int], mode: str, crop_pct: float, method: str
) -> None:
    from framefeat.backbone.resolve import timm_geometry
    from timm.data import create_transform

    square = (3, size, size) if isinstance(size, int) else (3, *size)
    config: dict[str, Any] = {
        "input_size": square,
        "crop_mode": mode,
        "crop_pct": crop_pct,
        "interpolation": method,
    }
    mean = (0.48, 0.45, 0.4)
    theirs = create_transform(**config, mean=mean, std=(1, 1, 1), normalize=False)
    rgb = frame(height, width)
    geometry = timm_geometry(config | {"mean": mean})
    np.testing.assert_array_equal(
        Geometry.from_name(geometry.name).apply(rgb), theirs(Image.fromarray(rgb)).permute(1, 2, 0).numpy()
    )
