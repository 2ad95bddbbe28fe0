"""Which weights a configuration means, where they come from, and what is refused as a weights file."""

import urllib.error
from pathlib import Path
from typing import Any

import pytest
import torch
from framefeat.backbone import fetch as fetching
from framefeat.backbone.fetch import fetch
from framefeat.backbone.weights import WeightsRef, read_state, weights_for
from framefeat.errors import UserError
from framefeat.files import file_sha256
from safetensors.torch import save_file

STATE = {"layer.weight": torch.arange(6.0).view(2, 3), "layer.bias": torch.ones(2)}


def test_one_enum_serves_torchvision_and_leaves_timm_to_its_tag() -> None:
    assert weights_for(
        "IMAGENET1K_V2", ["resnet50", "timm:resnet50.a1_in1k", "timm:vit_tiny_patch16_224"]
    ) == {
        "resnet50": WeightsRef("enum", "IMAGENET1K_V2"),
        "timm:resnet50.a1_in1k": WeightsRef("tag", "a1_in1k"),
        "timm:vit_tiny_patch16_224": WeightsRef("tag", None),
    }


@pytest.mark.parametrize("path", ["w.pth", "w.pt", "w.safetensors", "weights/w", "/a/W.PTH"])
def test_what_looks_like_a_path_is_one(path: str) -> None:
    assert weights_for(path, ["resnet50"]) == {"resnet50": WeightsRef("file", path)}
    assert weights_for({"timm:x.y": path}, ["timm:x.y"]) == {"timm:x.y": WeightsRef("file", path)}
    with pytest.raises(UserError, match="cannot serve 2 backbones"):
        weights_for(path, ["resnet50", "resnet18"])


def test_a_map_has_defaults_pins_and_entries_that_are_not_in_use() -> None:
    digest = "AB" * 32
    config = {"resnet18": {"file": "r.pth", "sha256": digest}, "unused": "nonsense", "timm:unused": "tag"}
    assert weights_for(config, ["resnet18", "resnet50"]) == {
        "resnet18": WeightsRef("file", "r.pth", digest.lower()),
        "resnet50": WeightsRef("enum", "IMAGENET1K_V1"),
    }


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"timm:x": "some_tag"}, "from its name"),
        ({"timm:x": {"sha256": "ab" * 32}}, "has no file"),
        ({"timm:x": {"file": "x.pth", "sha256": "abc"}}, "64 hexadecimal"),
    ],
)
def test_entries_that_mean_nothing_are_refused(config: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        weights_for(config, ["timm:x"])


@pytest.mark.parametrize("wrap", [dict, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_wrappers_and_prefixes_are_removed(tmp_path: Path, wrap: Any, prefix: str) -> None:
    file = tmp_path / "w.pth"
    torch.save(wrap({prefix + key: value for key, value in STATE.items()}), file)
    state = read_state(file)
    assert state.keys() == STATE.keys()
    assert all(torch.equal(state[key], STATE[key]) for key in STATE)


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "w.safetensors")
    assert read_state(tmp_path / "w.safetensors").keys() == STATE.keys()


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("harm-was-done"),)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "cannot be read"),
        (b"no weights", "cannot be read"),
        (Harmful(), "cannot be read"),
        ({"epoch": 3}, "no state dict"),
    ],
)
def test_what_is_no_weights_file_is_refused_and_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "w.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(UserError, match=words) as caught:
        read_state(file)
    assert str(file) in str(caught.value)
    assert not Path("harm-was-done").exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.pth does not exist"):
        read_state(tmp_path / "gone.pth")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch's download cache with MobileNet's file in it; the digest in its name made to fit."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    file = tmp_path / "torch/hub/checkpoints/mobilenet_v3_large-8738ca79.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"published")
    digest = file_sha256(file)[:8]
    monkeypatch.setattr(fetching, "published_digest", lambda url: digest)
    return file


def test_weights_come_from_the_cache(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("downloaded"))
    fetch("mobilenet_v3_large", "IMAGENET1K_V1", tmp_path / "new" / "w.pth")
    assert (tmp_path / "new" / "w.pth").read_bytes() == b"published"


def test_a_damaged_cache_is_not_believed(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.write_bytes(b"half of it")

    def download(url: str, dst: str, hash_prefix: str, progress: bool) -> None:
        assert hash_prefix
        assert url.endswith("mobilenet_v3_large-8738ca79.pth")
        Path(dst).write_bytes(b"published")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    fetch("mobilenet_v3_large", "IMAGENET1K_V1", tmp_path / "w.pth")
    assert (tmp_path / "w.pth").read_bytes() == b"published"


@pytest.mark.parametrize(
    "error", [urllib.error.URLError("no route"), TimeoutError("timed out"), RuntimeError("invalid hash")]
)
def test_without_a_network_one_sentence_says_what_to_do(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    hub.unlink()

    def download(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(UserError) as caught:
        fetch("mobilenet_v3_large", "IMAGENET1K_V1", tmp_path / "out" / "w.pth")
    assert len(str(caught.value).splitlines()) == 1
    if not isinstance(error, RuntimeError):
        for words in (
            str(tmp_path / "out" / "w.pth"),
            str(hub),
            "key weights",
            "mobilenet_v3_large-8738ca79.pth",
        ):
            assert words in str(caught.value)
    assert not list((tmp_path / "out").iterdir())


def test_timm_without_a_network_is_one_sentence_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set") as caught:
        fetch("timm:test_resnet.r160_in1k", None, tmp_path / "w.safetensors")
    assert len(str(caught.value).splitlines()) == 1
    assert not list(tmp_path.glob("*w.safetensors"))


def test_timm_weights_are_saved_in_the_models_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from framefeat.backbone.libraries import timm
    from framefeat.backbone.network import load_model
    from framefeat.backbone.resolve import resolve

    create = timm().create_model

    def published(name: str, pretrained: bool = False, **options: Any) -> Any:
        return create(name, **options)

    monkeypatch.setattr(timm(), "create_model", published)
    fetch("timm:test_resnet.r160_in1k", None, tmp_path / "w.safetensors")
    spec = resolve("timm:test_resnet.r160_in1k", str(tmp_path / "w.safetensors"), "weights")
    assert load_model(spec, spec.file).spec.dim == spec.dim


def test_a_local_file_is_nothing_to_fetch(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to fetch"):
        fetch("mobilenet_v3_large", "w.pth", tmp_path / "x.pth")
