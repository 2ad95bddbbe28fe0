"""What a run knows of its backbones before any job starts."""

import json
from pathlib import Path

import pytest
from framefeat import settings
from framefeat.backbone.chosen import chosen_backbones
from framefeat.identity import identifying


def test_the_label_tells_what_decides_the_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Assembling knows the label; the features it is given must have been computed by what the label stands for."""
    monkeypatch.chdir(tmp_path)
    weights = tmp_path / "somewhere" / "my.pth"
    weights.parent.mkdir()
    weights.write_bytes(b"any")
    config = {
        "dataset": "toy",
        "videos": "v",
        "backbones": ["mobilenet_v3_large", "resnet50", "timm:tf_efficientnet_lite0"],
        "weights": {
            "mobilenet_v3_large": "IMAGENET1K_V2",
            "resnet50": str(weights),
            "timm:tf_efficientnet_lite0": str(weights),
        },
    }
    found = chosen_backbones(settings.resolve(config))
    assert [chosen.is_local for chosen in found] == [False, True, True]
    for chosen in found:
        assert identifying(json.loads(chosen.label_json)) == json.loads(chosen.spec_json)
        assert str(tmp_path) not in chosen.label_json
