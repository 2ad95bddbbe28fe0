"""What a matrix was made from, for a person who holds nothing else: the source, the sample rate and the command.

Only what the configuration says, and of that only what decides the rows: the same inputs give the same words on every
machine, whatever else was on the command line. So an absolute path loses the folders above its last part.
"""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from framefeat.records import Origin
from framefeat.settings import DEFAULTS, KEYS, Settings

#: Keys that decide the rows; how they are computed (device, batch size, shards) and where files lie is not said.
_DECIDING = ("preprocess", "alignment", "decoder", "on_bad_frames", "precision")


def origin(settings: Settings, spec: Mapping[str, Any]) -> Origin:
    """Of the matrix of one backbone, which ``spec`` describes: other backbones of the run change nothing here."""
    source, sampling = _source(settings), _sampling(settings)
    rate = [(key, value) for key, value in sampling.items() if key in KEYS]
    given = [("dataset", settings.dataset), *source.items(), *rate, ("backbones", spec["name"])]
    given += _weights(spec)
    given += [
        (key, getattr(settings, key))
        for key in _DECIDING
        if getattr(settings, key) != DEFAULTS[key] and not (key == "alignment" and settings.sample_every)
    ]
    words = [f"{key}={_text(value)}" for key, value in given]
    return {
        "source": source,
        "sampling": sampling,
        "command": shlex.join(["snakemake", "--config", *words]),
    }


def _source(settings: Settings) -> dict[str, str]:
    if settings.from_folder:
        return {"videos": _named(str(settings.videos))}
    return {
        "frame_index": os.path.basename(str(settings.frame_index)),
        "video_index": os.path.basename(str(settings.video_index)),
    }


def _sampling(settings: Settings) -> dict[str, float | int | str]:
    if not settings.from_folder:
        return {"times": "frame index"}
    if settings.sample_every is not None:
        return {"sample_every": settings.sample_every}
    return {"sample_fps": settings.sample_fps}


def _weights(spec: Mapping[str, Any]) -> list[tuple[str, Any]]:
    if spec["kind"] == "file":
        return [("weights", Path(spec["file"]).name)]
    # timm's tag is a part of the backbone's name
    return (
        [("weights", spec["weights"])]
        if spec["kind"] == "enum" and spec["weights"] != DEFAULTS["weights"]
        else []
    )


def _named(path: str) -> str:
    """A folder or glob as it is written; of an absolute one the folder that is searched, and the pattern."""
    if not os.path.isabs(path):
        return path
    parts = Path(path).parts
    searched = next((place for place, part in enumerate(parts) if set("*?[") & set(part)), len(parts))
    return os.path.join(*parts[max(1, searched - 1) :]) if len(parts) > 1 else path


def _text(value: Any) -> str:
    """A value as Snakemake's --config reads it."""
    if isinstance(value, float):
        return f"{value:.15g}"
    return str(value)
