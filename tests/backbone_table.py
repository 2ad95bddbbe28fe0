"""One backbone of each family against a plain forward of its library's model: ``python -m tests.backbone_table``.

The library's whole model (head included) gets live weights, which are saved as its state dict. The expected features
are what its forward pass hands to its last layer, on frames through the library's own ``ToTensor`` and ``Normalize``;
the package's are what ``load_model`` and ``embed`` make of the file. Writes a Markdown table to standard output.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.models import live, pictures

SHORT = (
    "mobilenet_v3_large",
    "resnet18",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "timm:test_vit",
    "timm:test_convnext2",
)
LAST = {  # the layer whose input are the pooled features; None: pooled here, the library does it after its last layer
    "mobilenet_v3_large": "classifier",
    "mobilenet_v3_small": "classifier",
    "resnet50": "fc",
    "resnext50_32x4d": "fc",
    "googlenet": "fc",
    "efficientnet_b0": "classifier",
    "efficientnet_v2_s": "classifier",
    "vit_b_16": "heads",
    "convnext_tiny": "classifier.2",
    "swin_t": "head",
    "swin_v2_t": "head",
    "densenet121": "classifier",
    "regnet_y_400mf": "fc",
    "vgg16": "classifier.6",
    "mobilenet_v2": "classifier",
    "shufflenet_v2_x1_0": "fc",
    "squeezenet1_1": "classifier",
    "inception_v3": "fc",
    "maxvit_t": "classifier.5",
    "alexnet": "classifier.6",
    "mnasnet1_0": "classifier",
}
ALL = (
    *LAST,
    "timm:tf_efficientnet_lite0.in1k",
    "timm:vit_small_patch14_dinov2.lvd142m",
    "timm:vit_base_patch16_clip_224.openai",
    "timm:vit_base_patch16_siglip_224.webli",
    "timm:convnextv2_tiny.fcmae_ft_in22k_in1k",
    "timm:resnet50.a1_in1k",
    "timm:mobilenetv3_large_100.ra_in1k",
)


class Row(NamedTuple):
    name: str
    preprocess: str
    dim: int
    difference: float  # largest absolute difference
    spread: float  # standard deviation of a feature over frames, averaged over the features
    largest: float  # largest absolute feature
    folded: bool


def compare(name: str, folder: Path, preprocess: str = "squash224", count: int = 6) -> Row:
    """Features of ``count`` pictures: the package's against the library's."""
    import torch
    from framefeat.backbone.network import embed, load_model
    from framefeat.backbone.resolve import resolve
    from framefeat.video.geometry import Geometry
    from safetensors.torch import save_file
    from torchvision.transforms import Compose, Normalize, ToTensor

    file = str(folder / "weights.safetensors")
    spec = resolve(name, file, preprocess)
    size = Geometry.from_name(spec.geometry).output
    model = live(lambda: _whole(name, size), size[0])
    save_file({key: value.contiguous().clone() for key, value in model.state_dict().items()}, file)
    frames = pictures(count, size[0], size[1], seed=7)
    transform = Compose([ToTensor(), Normalize(spec.mean, spec.std)])
    with torch.inference_mode():
        expected = _pooled(name, model, torch.stack([transform(frame) for frame in frames])).numpy()
    del model
    network = load_model(spec, file)
    features, _ = embed(network, frames, 4)
    assert features.shape == expected.shape == (count, spec.dim)
    return Row(
        name,
        preprocess,
        spec.dim,
        float(np.abs(features - expected).max()),
        float(expected.std(0).mean()),
        float(np.abs(expected).max()),
        isinstance(network.body, torch.fx.GraphModule),
    )


def _whole(name: str, size: tuple[int, int]) -> Any:
    from framefeat.backbone.libraries import timm, torchvision_models

    if not name.startswith("timm:"):
        options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        return torchvision_models().get_model(name, weights=None, **options)
    library, arch = timm(), name.removeprefix("timm:")
    config = library.get_pretrained_cfg(arch)
    fixed = config.fixed_input_size and config.input_size[1:] != size
    return library.create_model(arch, **({"img_size": size} if fixed else {}))


def _pooled(name: str, model: Any, images: Any) -> Any:
    if name.startswith("timm:"):
        return model.forward_head(model.forward_features(images), pre_logits=True)
    heard = []
    last = model.get_submodule(LAST.get(name) or ("fc" if hasattr(model, "fc") else "classifier"))
    last.register_forward_pre_hook(lambda _, given: heard.append(given[0]))
    model(images)
    return heard[0].mean((2, 3)) if heard[0].dim() == 4 else heard[0]


def main() -> int:
    print("| backbone | frames | features | largest difference | of the largest feature | spread | folded |")
    print("|---|---|---:|---:|---:|---:|---|")
    for name in sys.argv[1:] or ALL:
        own = name in ("inception_v3", "timm:vit_small_patch14_dinov2.lvd142m")
        for preprocess in ("squash224", "weights") if own else ("squash224",):
            with tempfile.TemporaryDirectory() as folder:
                row = compare(name, Path(folder), preprocess)
            print(
                f"| `{row.name}` | {preprocess} | {row.dim} | {row.difference:.1e} "
                f"| {row.difference / row.largest:.1e} | {row.spread:.2f} | {'yes' if row.folded else 'no'} |",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
