"""Backbones: names, weights that fit or do not, the notebook's arithmetic, and the same bytes however it is run."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from framefeat.backbone import folding, torchvision_table
from framefeat.backbone import network as networks
from framefeat.backbone import resolve as resolving
from framefeat.backbone.libraries import torchvision_models
from framefeat.backbone.network import Network, Stacked, embed, load_model
from framefeat.backbone.resolve import resolve
from framefeat.backbone.spec import BackboneSpec, folder_name
from framefeat.backbone.weights import WeightsRef
from framefeat.errors import UserError
from framefeat.files import read_json
from PIL import Image

from tests.backbone_table import SHORT, compare
from tests.models import live, live_mobilenet, pictures


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(live_mobilenet(tmp_path_factory.mktemp("weights") / "live.pth"))


@pytest.fixture(scope="module")
def spec(weights: str) -> BackboneSpec:
    return resolve("mobilenet_v3_large", weights)


@pytest.fixture(scope="module")
def network(spec: BackboneSpec) -> Network:
    return load_model(spec, spec.file)


FRAMES = pictures(21)

# ------------------------------------------------------------------------------------------------------- names


def test_the_default_is_the_notebooks() -> None:
    spec = resolve("mobilenet_v3_large")
    assert (spec.display, spec.weights, spec.dim) == ("MobileNetV3-Large", "IMAGENET1K_V1", 960)
    assert (spec.geometry, spec.file) == ("squash224", "mobilenet_v3_large-8738ca79.pth")
    assert (spec.mean, spec.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert BackboneSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    ("name", "weights", "preprocess", "label", "dim", "geometry"),
    [
        ("mobilenet_v3_large", "IMAGENET1K_V2", "weights", "IMAGENET1K_V2", 960, "short232-crop224"),
        ("mobilenet_v3_large", "DEFAULT", "squash224", "IMAGENET1K_V2", 960, "squash224"),
        ("googlenet", "IMAGENET1K_V1", "weights", "IMAGENET1K_V1", 1024, "short256-crop224"),
        ("inception_v3", "IMAGENET1K_V1", "weights", "IMAGENET1K_V1", 2048, "short342-crop299"),
        ("efficientnet_b0", "IMAGENET1K_V1", "weights", "IMAGENET1K_V1", 1280, "short256-crop224-bicubic"),
        (
            "vit_b_16",
            "IMAGENET1K_SWAG_E2E_V1",
            "weights",
            "IMAGENET1K_SWAG_E2E_V1",
            768,
            "short384-crop384-bicubic",
        ),
        (
            "resnet18",
            "folder/resnet18-f37072fd.pth",
            "weights",
            "resnet18-f37072fd.pth",
            512,
            "short256-crop224",
        ),
        ("timm:resnet18", None, "weights", "a1_in1k", 512, "short235-crop224-bicubic"),
        ("timm:resnet18.tv_in1k", None, "squash224", "tv_in1k", 512, "squash224"),
        ("timm:vit_xsmall_patch16_clip_224", None, "squash224", "tinyclip_yfcc15m", 256, "squash224"),
        (
            "timm:vit_xsmall_patch16_clip_224:projected",
            None,
            "squash224",
            "tinyclip_yfcc15m",
            512,
            "squash224",
        ),
    ],
)
def test_names_and_weights_are_resolved(
    name: str, weights: str | None, preprocess: str, label: str, dim: int, geometry: str
) -> None:
    spec = resolve(name, weights, preprocess)
    assert (spec.weights, spec.dim, spec.geometry) == (label, dim, geometry)


@pytest.mark.parametrize(
    ("name", "weights", "words"),
    [
        ("mobilenet_v3_larg", None, "'mobilenet_v3_large'"),
        ("MobileNetV3-Large", None, "did you mean"),
        ("resnet", None, "did you mean 'resnet"),
        ("timm:resnet5", None, "'timm:resnet50'"),
        ("timm:resnet50.a1_in1", None, "'timm:resnet50.a1_in1k'"),
        ("timm:resnet50.a1_in1k:projected", None, "no projection of CLIP's"),
        ("timm:vit_base_patch16_clip_224.openai_ft_in1k:projected", None, "no projection of CLIP's"),
        ("timm:resnet50.a1_in1k:proj", None, "what may follow a timm name is ':projected'"),
        ("mobilenet_v3_large", "IMAGENET1K_V3", "did you mean 'IMAGENET1K_V"),
        ("mobilenet_v3_large", "weights.bin", "local file"),
        ("vit_h_14", None, "IMAGENET1K_SWAG_E2E_V1"),
        ("vgg16", "IMAGENET1K_FEATURES", "no layers after the convolutions"),
        ("timm:tf_efficientnet_b9", None, "did you mean"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(name: str, weights: str | None, words: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve(name, weights)
    assert words in str(caught.value)


def test_a_preprocess_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match="neither"):
        resolve("resnet18", None, "crop")


def test_folder_names_hold_no_separators() -> None:
    assert folder_name("timm:vit_base.a/b") == "timm_vit_base.a_b"


# ------------------------------------------------------------------------------------------------ arithmetic


def plain(weights: str, frames: np.ndarray) -> np.ndarray:
    """The notebook's way: PIL resize, ToTensor, Normalize, ``classifier = Identity``, one NCHW batch."""
    from torchvision import transforms

    model = torchvision_models().mobilenet_v3_large(weights=None)
    model.load_state_dict(torch.load(weights, weights_only=True))
    model.classifier = torch.nn.Identity()
    transform = transforms.Compose(
        [
            transforms.Resize((224, 224)),
            transforms.ToTensor(),
            transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )
    with torch.no_grad():
        return model.eval()(torch.stack([transform(Image.fromarray(frame)) for frame in frames])).numpy()


def test_features_are_the_notebooks(network: Network, weights: str) -> None:
    from framefeat.video.geometry import SQUASH224

    originals = pictures(6, 161, 203, seed=3)
    expected = plain(weights, originals)
    features, batch = embed(network, np.stack([SQUASH224.apply(frame) for frame in originals]), 4)
    assert (features.shape, features.dtype, batch) == ((6, 960), np.float32, 4)
    spread = expected.std(0)
    assert spread.mean() > 0.05  # alive: a comparison of zeros would pass
    assert (np.abs(features - expected) <= 1e-3 * np.maximum(spread, 0.01)).all()
    cosine = (
        (features * expected).sum(1) / np.linalg.norm(features, axis=1) / np.linalg.norm(expected, axis=1)
    )
    assert (cosine >= 0.99999).all()


def test_normalisation_is_the_librarys_to_rounding(network: Network) -> None:
    from torchvision import transforms

    transform = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize(network.spec.mean, network.spec.std)]
    )
    expected = torch.stack([transform(frame) for frame in FRAMES[:2]])
    given = network.normalise(torch.from_numpy(FRAMES[:2]))
    assert given.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(given.contiguous(), expected, atol=1e-6, rtol=0)


def test_folding_keeps_the_features(network: Network, spec: BackboneSpec) -> None:
    unfolded = load_model(spec, spec.file, fold=False)
    kinds = {type(module).__name__ for module in network.modules()}
    assert "PackedConv" in kinds or not torch.backends.mkldnn.is_available()
    assert "BatchNorm2d" not in kinds
    expected = embed(unfolded, FRAMES, 8)[0]
    assert expected.std(0).mean() > 0.05
    np.testing.assert_allclose(embed(network, FRAMES, 8)[0], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("broken", ["pack", "fold"])
def test_where_an_operator_is_missing_the_plain_model_serves(
    spec: BackboneSpec, network: Network, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def fail(*_: Any) -> None:
        raise NotImplementedError("no such operator")

    monkeypatch.setattr(folding, broken, fail)
    other = load_model(spec, spec.file)
    np.testing.assert_allclose(embed(other, FRAMES[:4], 4)[0], embed(network, FRAMES[:4], 4)[0], atol=1e-4)


def test_a_fold_that_changes_the_features_is_not_used(
    spec: BackboneSpec, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(graph: torch.fx.GraphModule, example: torch.Tensor) -> torch.fx.GraphModule:
        next(module for module in graph.modules() if isinstance(module, torch.nn.Conv2d)).weight.data.mul_(
            1.01
        )
        return graph

    monkeypatch.setattr(folding, "pack", wrong)
    other = load_model(spec, spec.file)
    np.testing.assert_allclose(embed(other, FRAMES[:4], 4)[0], embed(network, FRAMES[:4], 4)[0], atol=1e-4)


def test_bf16_is_near(spec: BackboneSpec, network: Network) -> None:
    near = embed(load_model(spec, spec.file, precision="bf16"), FRAMES[:4], 4)[0]
    exact = embed(network, FRAMES[:4], 4)[0]
    assert near.dtype == np.float32
    cosine = (near * exact).sum(1) / np.linalg.norm(near, axis=1) / np.linalg.norm(exact, axis=1)
    assert (cosine > 0.99).all()  # a random network magnifies rounding more than a trained one
    assert not np.array_equal(near, exact)


@pytest.mark.parametrize("name", SHORT)
def test_pooled_features_are_the_librarys(name: str, tmp_path: Path) -> None:
    row = compare(name, tmp_path)
    assert row.spread > 0.05
    assert row.difference <= 1e-4 * max(1, row.largest)


# ----------------------------------------------------------------------------------------------- same bytes


def test_workers_change_no_byte(network: Network) -> None:
    one = embed(network, FRAMES, 4, workers=1)[0]
    for _ in range(3):
        np.testing.assert_array_equal(embed(network, FRAMES, 4, workers=3)[0], one)


@pytest.mark.parametrize("ends", [[], [1], [4], [6], [3, 4], [1, 2, 3, 13, 20], [4, 8, 12]])
def test_frames_of_several_arrays_one_after_the_other(ends: list[int]) -> None:
    stacked = Stacked(np.split(FRAMES, ends))
    assert stacked.shape == FRAMES.shape
    assert len(stacked) == len(FRAMES)
    for start in range(0, len(FRAMES), 4):
        np.testing.assert_array_equal(stacked[start : start + 4], FRAMES[start : start + 4])


def test_they_are_embedded_as_one(network: Network) -> None:
    stacked = Stacked(np.split(FRAMES, [1, 4, 6]))
    np.testing.assert_array_equal(embed(network, stacked, 4)[0], embed(network, FRAMES, 4)[0])


def test_a_frame_does_not_depend_on_its_neighbours(network: Network) -> None:
    whole = embed(network, FRAMES, 8)[0]
    np.testing.assert_array_equal(embed(network, FRAMES[:10], 8)[0], whole[:10])
    changed = FRAMES.copy()
    changed[[0, 9, 20]] = 255 - changed[[0, 9, 20]]
    others = np.delete(np.arange(len(FRAMES)), [0, 9, 20])
    np.testing.assert_array_equal(embed(network, changed, 8)[0][others], whole[others])


def test_memory_maps_and_no_frames(network: Network, tmp_path: Path) -> None:
    np.save(tmp_path / "frames.npy", FRAMES[:5])
    mapped = np.load(tmp_path / "frames.npy", mmap_mode="r")
    np.testing.assert_array_equal(embed(network, mapped, 4)[0], embed(network, FRAMES[:5], 4)[0])
    assert embed(network, FRAMES[:0], 4)[0].shape == (0, 960)


def test_other_shapes_are_refused(network: Network) -> None:
    with pytest.raises(ValueError, match="224"):
        embed(network, FRAMES[:, :200], 4)
    with pytest.raises(ValueError, match="uint8"):
        embed(network, FRAMES.astype(np.float32), 4)


def test_the_batch_halves_when_memory_runs_out(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 2
    forward = Network.forward

    def small(self: Network, frames: torch.Tensor) -> torch.Tensor:
        if len(frames) > limit:
            raise torch.OutOfMemoryError("out of memory")
        return forward(self, frames)

    monkeypatch.setattr(Network, "forward", small)
    features, batch = embed(network, FRAMES[:8], 8)
    assert batch == 2
    limit = 8
    np.testing.assert_array_equal(features, embed(network, FRAMES[:8], 2)[0])
    limit = 0
    with pytest.raises(UserError, match="one frame at a time"):
        embed(network, FRAMES[:8], 8)


# ------------------------------------------------------------------------------------------------- weights files


def reload(spec: BackboneSpec, state: dict[str, Any], folder: Path) -> Network:
    file = folder / "w.pth"
    torch.save(state, file)
    return load_model(spec, str(file))


def test_the_head_may_be_there_or_not(
    spec: BackboneSpec, network: Network, weights: str, tmp_path: Path
) -> None:
    state = torch.load(weights, weights_only=True)
    without = {key: value for key, value in state.items() if not key.startswith("classifier.")}
    other = without | {"classifier.3.weight": torch.ones(10, 1280), "classifier.3.bias": torch.ones(10)}
    expected = embed(network, FRAMES[:2], 2)[0]
    for one in (without, other, {"state_dict": {"module." + key: value for key, value in state.items()}}):
        np.testing.assert_array_equal(embed(reload(spec, one, tmp_path), FRAMES[:2], 2)[0], expected)


def test_what_does_not_fit_is_named(spec: BackboneSpec, weights: str, tmp_path: Path) -> None:
    state = torch.load(weights, weights_only=True)
    del state["features.3.block.0.0.weight"]
    state["features.99.weight"] = torch.ones(1)
    state["features.0.0.weight"] = torch.ones(16, 1, 3, 3)
    with pytest.raises(UserError) as caught:
        reload(spec, state, tmp_path)
    for words in (
        "w.pth does not fit mobilenet_v3_large",
        "1 missing: features.3.block.0.0.weight",
        "1 unexpected: features.99.weight",
        "1 of another shape: features.0.0.weight",
        "Give the state dict of",
    ):
        assert words in str(caught.value)


def test_another_models_weights_are_refused(spec: BackboneSpec, tmp_path: Path) -> None:
    state = torchvision_models().resnet18(weights=None).state_dict()
    with pytest.raises(UserError, match="missing"):
        reload(spec, state, tmp_path)
    with pytest.raises(UserError, match="missing"):
        reload(resolve("timm:test_resnet", "w.pth"), state, tmp_path)


def test_a_pinned_digest_is_checked(weights: str) -> None:
    from framefeat.files import file_sha256

    good = WeightsRef("file", weights, file_sha256(weights))
    load_model(resolve("mobilenet_v3_large", good), weights)
    bad = WeightsRef("file", weights, "0" * 64)
    with pytest.raises(UserError, match="has sha256"):
        load_model(resolve("mobilenet_v3_large", bad), weights)


def test_position_embeddings_are_resampled_to_the_frames(tmp_path: Path) -> None:
    """A timm transformer made for 160 x 160 pixels, asked for 224 x 224."""
    import timm

    model = live(lambda: timm.create_model("test_vit", num_classes=7), 160)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    spec = resolve("timm:test_vit", str(tmp_path / "w.pth"))
    features = embed(load_model(spec, spec.file), FRAMES[:3], 2)[0]
    assert features.shape == (3, spec.dim)
    assert features.std(0).mean() > 0.01


def test_clip_after_its_projection(tmp_path: Path) -> None:
    import timm

    name = "vit_xsmall_patch16_clip_224"
    model = live(lambda: timm.create_model(name, num_classes=512), 224)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    before, after = (
        embed(load_model(spec, spec.file), FRAMES[:2], 2)[0]
        for spec in (resolve(f"timm:{name}{end}", str(tmp_path / "w.pth")) for end in ("", ":projected"))
    )
    with torch.no_grad():
        np.testing.assert_allclose(after, model.head(torch.from_numpy(before)), rtol=1e-4, atol=1e-4)
    assert after.std(0).mean() > 1e-3
    without = {key: value for key, value in model.state_dict().items() if not key.startswith("head.")}
    torch.save(without, tmp_path / "w.pth")
    spec = resolve(f"timm:{name}:projected", str(tmp_path / "w.pth"))
    with pytest.raises(UserError, match=r"missing: head\.weight"):
        load_model(spec, spec.file)


def test_the_table_of_models_is_the_library_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """Snakemake names backbones by a table; another torchvision's is not in it and costs a process of its own."""
    library = torchvision_models()
    table = read_json(torchvision_table.PATH)
    assert set(table["models"]) == set(library.list_models(module=library))
    sizes = {
        (name, label, preprocess): entry["dim"]
        for name, labels in table["models"].items()
        for label, entries in labels.items()
        for preprocess, entry in entries.items()
    }
    for key in [
        ("mobilenet_v3_large", "IMAGENET1K_V1", "squash224"),
        ("googlenet", "IMAGENET1K_V1", "weights"),
        ("swin_t", "IMAGENET1K_V1", "weights"),
        ("vit_b_16", "IMAGENET1K_SWAG_E2E_V1", "weights"),
    ]:
        assert resolve(key[0], WeightsRef("enum", key[1]), key[2]).dim == sizes.pop(key)
    # Of all others everything but the forward pass that tells the size.
    monkeypatch.setattr(resolving, "_dim", lambda *_: 0)
    for (name, label, preprocess), size in sizes.items():
        found = resolve(name, WeightsRef("enum", label), preprocess).to_json() | {"dim": size}
        assert json.loads(json.dumps(found)) == table["models"][name][label][preprocess]


# ---------------------------------------------------------------------------------------------------- device


def test_a_device_that_is_not_there_is_refused(spec: BackboneSpec) -> None:
    with pytest.raises(UserError, match="device"):
        load_model(spec, spec.file, device="gpu")
    if not torch.cuda.is_available():
        assert networks.choose_device("auto") == torch.device("cpu")
        with pytest.raises(UserError, match="no CUDA device"):
            load_model(spec, spec.file, device="cuda")


def test_an_unknown_precision_is_refused(spec: BackboneSpec) -> None:
    with pytest.raises(UserError, match="precision"):
        load_model(spec, spec.file, precision="int8")
