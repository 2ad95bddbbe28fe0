"""The run's settings: the configuration, checked against its schema, with every default filled in."""

import difflib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match

from framefeat.errors import UserError, complain

SCHEMA = Path(__file__).resolve().parents[1] / "schemas" / "config.schema.yaml"


#: The keys that are paths (``weights`` may be).
_PATHS = ("frame_index", "video_index", "video_root", "videos", "weights", "annotations")


@dataclass(frozen=True)
class Settings:
    """One field per configuration key (``config/README.md`` is their manual)."""

    dataset: str
    frame_index: str | None
    video_index: str | None
    video_root: str | None
    videos: str | None
    sample_fps: float
    backbones: tuple[str, ...]
    weights: str | Mapping[str, Any]
    preprocess: str
    alignment: str
    decoder: str
    decoder_timeout: float
    on_bad_frames: str
    keep_frames: bool
    device: str
    precision: str
    batch_size: str | int
    warm_embedder: bool
    annotations: str | None
    export_l2: bool
    export_segments_from: str | None
    export_labels_from: str | None

    @property
    def from_folder(self) -> bool:
        """Whether the indexes are built by probing ``videos`` (the two indexes win where they are given)."""
        return self.frame_index is None


def load_schema(path: Path = SCHEMA) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def resolve(config: Mapping[str, Any], schema_path: Path = SCHEMA) -> Settings:
    """Check ``config`` and fill in the defaults.

    Raises ``UserError`` naming every unknown key (with the nearest known one) or every value out of its range.
    """
    schema = load_schema(schema_path)
    known = schema["properties"]
    unknown = []
    for name in config:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            unknown.append(f"{name!r}" + (f": did you mean {near[0]!r}?" if near else ""))
    if unknown:
        raise complain(
            "The configuration has unknown keys:", unknown, "config/README.md is the manual of every key."
        )
    values = {name: config.get(name, part.get("default")) for name, part in known.items()}
    problems = [
        f"{_key(error)}: {_sentence(error)}"
        for error in sorted(
            Draft202012Validator(schema).iter_errors(values), key=lambda e: list(map(str, e.path))
        )
    ]
    problems += [
        f"{name}: {value} is not a number"
        for name, value in values.items()
        if isinstance(value, float) and not math.isfinite(value)
    ]
    if problems:
        raise complain(
            "The configuration is not valid:", problems, "config/README.md is the manual of every key."
        )
    if isinstance(values["backbones"], str):
        values["backbones"] = [values["backbones"]]
    values["backbones"] = tuple(values["backbones"])
    values["sample_fps"] = float(values["sample_fps"])
    for name in _PATHS:
        values[name] = _expanded(values[name])
    settings = Settings(**values)
    if (settings.frame_index is None) != (settings.video_index is None):
        missing = "frame_index" if settings.frame_index is None else "video_index"
        raise UserError(
            f"The configuration sets only one of frame_index and video_index: set {missing} too, or neither and "
            "name a folder in videos."
        )
    if settings.frame_index is None and settings.videos is None:
        raise UserError(
            "The configuration names no input: set frame_index and video_index, or name a folder in videos."
        )
    if settings.on_bad_frames == "drop" and not settings.from_folder:
        raise UserError(
            "on_bad_frames: drop is for a folder given in videos, where no row is asked for by name; with frame_index and "
            "video_index set mask (rows marked 'bad') or fail."
        )
    return settings


def _expanded(value: Any) -> Any:
    """``~`` made the home folder, as the shell does, in a path or in each path of a map."""
    if isinstance(value, Mapping):
        return {name: _expanded(part) for name, part in value.items()}
    return os.path.expanduser(value) if isinstance(value, str) else value


def check_index_files(settings: Settings) -> None:
    """Raises ``UserError`` where the input is two indexes and one of them does not exist."""
    if settings.from_folder:
        return
    paths = {"frame_index": str(settings.frame_index), "video_index": str(settings.video_index)}
    missing = [f"{key}: {path!r}" for key, path in paths.items() if not os.path.isfile(path)]
    if missing:
        raise complain(
            "The configuration names files that do not exist:",
            missing,
            "Correct the paths, or fetch the files.",
        )


def _key(error: ValidationError) -> str:
    return ".".join(map(str, error.absolute_path)) or "configuration"


def _sentence(error: ValidationError) -> str:
    if error.validator == "anyOf":
        inner = best_match([error])
        hint = f" ({inner.message})" if inner is not None and inner is not error else ""
        return f"{error.instance!r} is not valid here{hint}"
    return error.message
