from pathlib import Path

import pytest
import yaml
from framefeat.errors import UserError
from framefeat.settings import SCHEMA, load_schema, resolve

CONFIG = Path(__file__).parents[2] / "config"


def test_defaults_of_schema_and_of_config_file_agree() -> None:
    written = yaml.safe_load((CONFIG / "config.yaml").read_text())
    defaults = {name: part["default"] for name, part in load_schema()["properties"].items()}
    assert written == defaults


def test_every_key_has_a_description_and_stands_in_the_manual() -> None:
    manual = (CONFIG / "README.md").read_text()
    for name, part in load_schema(SCHEMA)["properties"].items():
        assert len(part["description"]) > 20
        assert f"`{name}`" in manual, f"config/README.md does not explain {name}"


def test_unknown_keys_are_named_with_the_nearest_known_one() -> None:
    with pytest.raises(UserError, match=r"(?s)'backbnes': did you mean 'backbones'.*'zzz'"):
        resolve({"dataset": "a", "backbnes": "x", "zzz": 1})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dataset": "../x"}, "dataset"),
        ({"alignment": "nearest"}, "alignment"),
        ({"batch_size": 0}, "batch_size"),
        ({"sample_fps": -1}, "sample_fps"),
        ({"sample_fps": float("nan")}, "sample_fps: nan"),
        ({"sample_fps": float("inf")}, "sample_fps: inf"),
        ({"device": "gpu"}, "device"),
        ({"frame_index": "a.csv"}, "video_index"),
        ({"videos": None}, "no input"),
        ({"backbones": []}, "backbones"),
        ({"weights": {"a": {"sha256": "0" * 64}}}, "weights"),
    ],
)
def test_wrong_values_are_named(change: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        resolve({"dataset": "a", **change})


def test_two_indexes_win_over_a_folder() -> None:
    assert resolve({"dataset": "a"}).from_folder
    both = resolve({"dataset": "a", "videos": "v", "frame_index": "f.csv", "video_index": "v.csv"})
    assert not both.from_folder


def test_shipped_configurations_are_valid() -> None:
    base = yaml.safe_load((CONFIG / "config.yaml").read_text())
    for name in ("demo.yaml", "tvsum.yaml"):
        resolve(base | yaml.safe_load((CONFIG / name).read_text()))


def test_drop_is_for_folders() -> None:
    assert resolve({"dataset": "a", "on_bad_frames": "drop"}).on_bad_frames == "drop"
    with pytest.raises(UserError, match="drop is for a folder"):
        resolve({"dataset": "a", "frame_index": "f.csv", "video_index": "v.csv", "on_bad_frames": "drop"})


def test_home_folders_are_expanded_in_every_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    paths = ("frame_index", "video_index", "video_root", "videos", "annotations")
    config = {"dataset": "a", **dict.fromkeys(paths, "~/x")}
    found = resolve(config | {"weights": {"b": "~/b.pth", "c": {"file": "~/c.pth", "sha256": "0" * 64}}})
    assert {getattr(found, name) for name in paths} == {"/home/me/x"}
    assert found.weights == {"b": "/home/me/b.pth", "c": {"file": "/home/me/c.pth", "sha256": "0" * 64}}
    assert resolve({"dataset": "a", "weights": "~/b.pth"}).weights == "/home/me/b.pth"
