"""The model of the configuration: what it refuses and in which words, and that all files about it agree."""

import contextlib
import datetime
import itertools
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from framefeat import settings
from framefeat.errors import UserError
from framefeat.settings import resolve

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config"
SCHEMA = ROOT / "workflow" / "schemas" / "config.schema.yaml"


def load_schema(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


def test_the_schema_file_is_that_of_the_model() -> None:
    """After a change of the model: python -m framefeat.settings > workflow/schemas/config.schema.yaml"""
    assert load_schema(SCHEMA) == yaml.safe_load(settings.schema_file())


def test_the_schema_says_what_the_model_says() -> None:
    check = jsonschema.Draft202012Validator(load_schema(SCHEMA)).is_valid
    for name in ("config.yaml", "demo.yaml", "tvsum.yaml"):
        assert check(load_schema(CONFIG / name))
    for wrong in (
        {"backbnes": "x"},
        {"batch_size": 0},
        {"sample_fps": 0},
        {"backbones": []},
        {"device": "gpu"},
    ):
        assert not check(wrong)


def test_defaults_of_schema_and_of_config_file_agree() -> None:
    written = yaml.safe_load((CONFIG / "config.yaml").read_text())
    defaults = {name: part["default"] for name, part in load_schema(SCHEMA)["properties"].items()}
    assert written == defaults
    assert resolve(written) == resolve({})


def test_the_manual_has_every_key_with_its_default() -> None:
    manual = (CONFIG / "README.md").read_text()
    defaults = {}
    for keys, default in re.findall(r"^((?:[*`\w ]|and)+)\*\* \(default `?([^`):]+)`?", manual, re.MULTILINE):
        defaults |= dict.fromkeys(re.findall(r"`(\w+)`", keys), yaml.safe_load(default))
    assert defaults == load_schema(CONFIG / "config.yaml")


def test_every_key_has_a_description_and_stands_in_the_manual() -> None:
    manual = (CONFIG / "README.md").read_text()
    for name, part in load_schema(SCHEMA)["properties"].items():
        assert len(part["description"]) > 20
        assert f"`{name}`" in manual, f"config/README.md does not explain {name}"


def test_unknown_keys_are_named_with_the_nearest_known_one() -> None:
    with pytest.raises(UserError, match=r"(?s)'backbnes': did you mean 'backbones'.*'zzz'"):
        resolve({"dataset": "a", "backbnes": "x", "zzz": 1})
    with pytest.raises(UserError, match="'l2': did you mean 'export_l2'"):
        resolve({"l2": True})


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
        ({"backbones": "a", "weights": {"a": {"sha256": "0" * 64}}}, r"no file in weights\.a"),
        ({"backbones": "a", "weights": {"a": {"file": "x", "sha256": "0"}}}, r"weights\.a\.sha256: '0'"),
        ({"weights": {"a": {"file": "x", "sha": "0"}}}, r"weights\.a\.sha: there is no such entry"),
        ({"weights": {1: "x"}}, "weights: the name 1 is not text"),
        ({"weights": {"a": 3, "b": {"file": ""}}}, r"(?s)weights\.a: 3 .*weights\.b\.file: it is empty"),
        ({"backbones": ["a", 3]}, r"(?m)backbones\.1: 3 is not text$"),
        ({"backbones": ["a", "b", "a"]}, "backbones: a"),
        ({"keep_frames": "maybe"}, "keep_frames: 'maybe' is not true or false"),
        ({"alignment": None, "decoder": "x"}, "(?s)alignment: null .*decoder: 'x' is not one of 'auto', "),
        (
            {"dataset": 1.5},
            '(?m)dataset: 1.5 is not text; in a file, quotes make text of it: dataset: "1.5"$',
        ),
        ({"videos": 2024}, r'(?m)videos: 2024 is not text .*videos: "2024"; with --config write \./2024$'),
        ({"sample_fps": True}, "sample_fps: true is not a number above 0"),
        ({"export_labels_from": "a", "annotations": "b"}, "export_labels_from"),
        ({"frame_index": "a", "backbones": ["a", "a"]}, "(?s)video_index.*twice"),
    ],
)
def test_wrong_values_are_named(change: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        resolve({"dataset": "a", **change})


def test_no_value_ends_in_a_traceback() -> None:
    odd = (
        None,
        True,
        10**30,
        2.5,
        "",
        "a\0b",
        "\udce9",
        b"x",
        {1, 2},
        datetime.date(2024, 1, 1),
        [[]],
        {1: "x"},
        {"a": {}},
    )
    for key, value in itertools.product(settings.KEYS, odd):
        with contextlib.suppress(UserError):
            resolve({key: value})


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


def test_every_kth_frame_is_for_folders_instead_of_a_rate() -> None:
    assert resolve({"sample_every": 15}).alignment == "pts"
    with pytest.raises(UserError, match="sample_every is for a folder"):
        resolve({"frame_index": "f.csv", "video_index": "v.csv", "sample_every": 15})
    with pytest.raises(UserError, match="both sample_fps and sample_every"):
        resolve({"sample_fps": 1, "sample_every": 15})
    with pytest.raises(UserError, match="sample_every: 0 is not a whole number from 1 or null"):
        resolve({"sample_every": 0})


def test_home_folders_are_expanded_in_every_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    paths = ("frame_index", "video_index", "video_root", "videos", "annotations")
    config = {"dataset": "a", **dict.fromkeys(paths, "~/x")}
    found = resolve(config | {"weights": {"b": "~/b.pth", "c": {"file": "~/c.pth", "sha256": "0" * 64}}})
    assert {getattr(found, name) for name in paths} == {"/home/me/x"}
    assert found.weights == {"b": "/home/me/b.pth", "c": {"file": "/home/me/c.pth", "sha256": "0" * 64}}
    assert resolve({"dataset": "a", "weights": "~/b.pth"}).weights == "/home/me/b.pth"


def test_weights_of_a_backbone_that_is_not_in_use_may_be_a_placeholder() -> None:
    """As in an example that a person copies."""
    resolve(
        {"videos": "v", "backbones": "resnet18", "weights": {"resnet50": {"file": "x.pth", "sha256": "..."}}}
    )


def test_switches_null_and_numbers_as_the_command_line_gives_them() -> None:
    found = resolve({"keep_frames": "true", "warm_embedder": "False", "videos": "v", "frame_index": "null"})
    assert (found.keep_frames, found.warm_embedder, found.frame_index) == (True, False, None)
    assert resolve({"dataset": 2024}).dataset == "2024"


@pytest.mark.parametrize(
    ("config", "missing"),
    [
        ({"videos": "no/such"}, ["videos: 'no/such'"]),
        ({"frame_index": "f.csv", "video_index": "v.csv"}, ["frame_index: 'f.csv'", "video_index: 'v.csv'"]),
        (
            {"frame_index": "there.csv", "video_index": "v.csv", "video_root": "no/such"},
            ["video_index: 'v.csv'", "video_root: 'no/such'"],
        ),
        ({"videos": "no/such/*.mp4"}, []),  # a pattern: the merge says what it found
        ({"videos": "there.csv"}, []),  # one file
    ],
)
def test_what_does_not_exist_is_told_all_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, str], missing: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.csv").touch()
    wanted = settings.resolve({"dataset": "d", **config})
    if not missing:
        settings.check_inputs(wanted)
        return
    with pytest.raises(UserError, match="names files or folders that do not exist") as refused:
        settings.check_inputs(wanted)
    assert [line.strip(" -") for line in str(refused.value).splitlines()[1:-1]] == missing
