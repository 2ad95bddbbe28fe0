"""The configuration: one typed model of its keys, from which everything else about them is made.

``Settings`` holds each key's type, default, limits and description. The check of a configuration, the schema file
(``python -m framefeat.settings > workflow/schemas/config.schema.yaml``), and the choices and defaults of the command
line come from it. Jobs read the last of these at each start, so pydantic is imported only to check a configuration.
"""

import glob
import json
import os
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from framefeat.errors import UserError, complain

_MANUAL = "config/README.md is the manual of every key."
_SHA256 = re.compile("[0-9a-fA-F]{64}")


class Limits:
    """What values a type is limited to, in the words of pydantic's core schemas (``gt``, ``le``, ``pattern``, ...)."""

    def __init__(self, **limits: Any) -> None:
        self.limits = limits

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return {**handler(source), **self.limits}


class OneOrMany:
    """A list that may be written as its one item."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_before_validator_function(
            lambda value: [value] if isinstance(value, str) else value, handler(source)
        )

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> Any:
        listed = handler(schema)
        return {"anyOf": [listed["items"], {**listed, "uniqueItems": True}]}


_Text = Annotated[str, Limits(min_length=1)]
_Switch = Annotated[bool, Limits(strict=False)]  # the command line gives 'true' as text


class Settings(NamedTuple):
    """One field per configuration key, each with its description (``config/README.md`` is their manual)."""

    dataset: Annotated[
        str,
        Limits(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"),
        "Names the outputs, results/{dataset}/...; letters, digits, '.', '_' and '-' alone, beginning with a letter or "
        "digit.",
    ] = "example"
    frame_index: Annotated[
        _Text | None,
        "Parquet or CSV table with video_id and timestamp_sec (seconds); one row per frame wanted, in the order of the "
        "matrix. Other columns are kept.",
    ] = None
    video_index: Annotated[
        _Text | None,
        "CSV or Parquet table with video_id, video_path and fps; one row per video. A sha256 column is checked. Other "
        "columns are kept.",
    ] = None
    video_root: Annotated[
        _Text | None,
        "Where relative video paths start, and where a path that does not exist is looked up by its file name.",
    ] = None
    videos: Annotated[
        _Text | None,
        "A folder (searched recursively) or a glob of videos. Both indexes are then built by probing them. Ignored "
        "where frame_index and video_index are set.",
    ] = "resources/example"
    sample_fps: Annotated[
        float, Limits(gt=0, le=1000, allow_inf_nan=False), "With videos: samples per second of video."
    ] = 2.0
    sample_every: Annotated[
        Annotated[int, Limits(ge=1)] | None,
        "With videos, instead of sample_fps: frame 0 and every so many-th native frame after it, each at its own "
        "presentation time (so that alignment is pts).",
    ] = None
    backbones: Annotated[
        tuple[_Text, ...],
        Limits(min_length=1, strict=False),
        OneOrMany(),
        "One backbone or a list - a torchvision classification model by its builder name, or timm:name.tag.",
    ] = ("mobilenet_v3_large",)
    weights: Annotated[
        _Text | dict[str, _Text | dict[Literal["file", "sha256"], _Text]],
        "One string, or a map backbone -> string or {file, sha256}. What holds '/' or ends in .pth, .pt or "
        ".safetensors is a path, else a weights enum name.",
    ] = "IMAGENET1K_V1"
    preprocess: Annotated[
        Literal["squash224", "weights"],
        "squash224 (whole frame to 224x224, bilinear) or weights (the transform that the weights were trained with).",
    ] = "squash224"
    alignment: Annotated[
        Literal["index", "pts"],
        "index - native frame round(t * fps), half to even; pts - the frame nearest to t by presentation time, ties to "
        "the even frame.",
    ] = "index"
    decoder: Annotated[
        Literal["auto", "decord", "pyav"],
        "auto - decord where it agrees with the container and with PyAV, else PyAV; decord or pyav force one.",
    ] = "auto"
    on_bad_frames: Annotated[
        Literal["fail", "mask", "drop"],
        "fail - no matrix while a row's frame cannot be had; mask - such rows are NaN, marked 'bad' and counted; "
        "drop - with videos, as mask, and a file that gives no video at all is left out.",
    ] = "fail"
    precision: Annotated[
        Literal["float32", "bf16", "fp16"],
        "float32, or bf16 / fp16 arithmetic in the forward pass. Features are stored as float32.",
    ] = "float32"
    shard_rows: Annotated[
        Literal["auto"] | Annotated[int, Limits(ge=1, le=10_000_000)],
        "About how many rows one job takes together; auto - up to 64 videos a job each, of more videos 512 rows. Never "
        "triggers a recompute of a video.",
    ] = "auto"
    keep_frames: Annotated[
        _Switch, "Keep the sampled frames (uint8), so that adding a backbone costs no decoding."
    ] = False
    device: Annotated[
        str,
        Limits(pattern="^(auto|cpu|cuda|cuda:[0-9]+)$"),
        "auto (CUDA where there is one), cpu, cuda or cuda:N. Never triggers a recompute.",
    ] = "auto"
    batch_size: Annotated[
        Literal["auto"] | Annotated[int, Limits(ge=1, le=65536)],
        "Frames per forward pass; auto is a fixed number (16 on CPU, 64 on CUDA). Never triggers a recompute.",
    ] = "auto"
    warm_embedder: Annotated[
        _Switch,
        "Whether one process with torch and the backbone loaded serves all extractions of a run; false loads them for "
        "each video. Never triggers a recompute.",
    ] = True
    decoder_timeout: Annotated[
        float,
        Limits(gt=0, allow_inf_nan=False),
        "Seconds without a decoded frame after which a decoder is taken for hung and ended. Never triggers a "
        "recompute.",
    ] = 120
    annotations: Annotated[
        _Text | None,
        "For the export_h5 target: TVSum's ydata-tvsum50.mat or ydata-tvsum50-anno.tsv, or SumMe's folder GT. Without "
        "it the keys that need none are written.",
    ] = None
    export_l2: Annotated[
        _Switch, "For the export_h5 target: scale each exported feature row to length 1."
    ] = False
    export_segments_from: Annotated[
        _Text | None,
        "For the export_h5 target: another HDF5 file of this layout, whose change_points are taken.",
    ] = None
    export_labels_from: Annotated[
        _Text | None,
        "For the export_h5 target: another HDF5 file of this layout, whose user_summary, gtscore and change_points are "
        "taken. Not with annotations or export_segments_from.",
    ] = None

    @property
    def rows_of_a_shard(self) -> int | None:
        """``shard_rows``; None: automatic."""
        return None if self.shard_rows == "auto" else int(self.shard_rows)

    @property
    def from_folder(self) -> bool:
        """Whether the indexes are built by probing ``videos`` (the two indexes win where they are given)."""
        return self.frame_index is None


KEYS = Settings._fields
DEFAULTS: Mapping[str, Any] = Settings._field_defaults
#: The keys that are paths (``weights`` may be).
_PATHS = (
    "frame_index",
    "video_index",
    "video_root",
    "videos",
    "weights",
    "annotations",
    "export_segments_from",
    "export_labels_from",
)


def choices(key: str) -> tuple[str, ...]:
    """The values that a key can have, where they are a fixed set; else none."""
    kind = get_args(Settings.__annotations__[key])[0]
    return get_args(kind) if get_origin(kind) is Literal else ()


def resolve(config: Mapping[str, Any]) -> Settings:
    """Check ``config`` and fill in the defaults.

    Raises ``UserError`` naming every unknown key (with the nearest known one), every wrong value, or all that do not go
    together.
    """
    from pydantic import ValidationError

    if unknown := list(_unknown(config)):
        raise complain("The configuration has unknown keys:", unknown, _MANUAL)
    given = {key: _read(key, value) for key, value in config.items()}
    try:
        settings = Settings(**_model().model_validate(given).model_dump())
    except ValidationError as error:
        raise complain("The configuration is not valid:", list(_sentences(error, given)), _MANUAL) from None
    settings = settings._replace(**{key: _expanded(getattr(settings, key)) for key in _PATHS})
    if settings.sample_every is not None:  # the rows are frames: each is found by its own time
        settings = settings._replace(alignment="pts")
    problems = list(_contradictions(settings))
    if len(problems) == 1:
        raise UserError(f"The configuration {problems[0]}")
    if problems:
        raise complain("The configuration contradicts itself:", [f"it {problem}" for problem in problems])
    return settings


@cache
def _model() -> Any:
    """``Settings`` as a pydantic model. Nothing is converted: a configuration says what it means."""
    from pydantic import ConfigDict, create_model

    fields: Any = {key: (Settings.__annotations__[key], DEFAULTS[key]) for key in KEYS}
    return create_model("Settings", __config__=ConfigDict(extra="forbid", strict=True), **fields)


def schema() -> dict[str, Any]:
    """The JSON schema of a configuration: what an editor checks a file with."""
    found = _model().model_json_schema()
    properties = {}
    for key, part in found["properties"].items():
        default = DEFAULTS[key]
        properties[key] = {
            "description": get_args(Settings.__annotations__[key])[-1],
            **_without_titles(part),
            "default": default[0] if isinstance(default, tuple) else default,
        }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "framefeat configuration",
        "description": "Every key of config/config.yaml. Unknown keys are refused.",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
    }


def _without_titles(part: Any) -> Any:
    if isinstance(part, dict):
        return {name: _without_titles(value) for name, value in part.items() if name != "title"}
    return [_without_titles(value) for value in part] if isinstance(part, list) else part


def _unknown(config: Mapping[str, Any]) -> Iterator[str]:
    import difflib

    for key, value in config.items():
        if key not in KEYS and isinstance(value, Mapping) and set(value) & set(KEYS):
            yield f"{key!r}: it holds keys of its own; 'framefeat plan --section {key}' reads such a part, that of a module"
        elif key not in KEYS:
            near = difflib.get_close_matches(str(key), KEYS, n=1) or [
                name for name in KEYS if len(str(key)) > 1 and str(key) in name
            ]
            yield f"{key!r}" + (f": did you mean {near[0]!r}?" if near else "")


def _read(key: str, value: Any) -> Any:
    """``value`` as it is meant: Snakemake's command line strips quotes, gives 'null' as text and digits as a number."""
    if value == "null" and type(None) in get_args(get_args(Settings.__annotations__[key])[0]):
        return None
    return str(value) if key == "dataset" and type(value) is int else value


def _sentences(error: Any, given: Mapping[str, Any]) -> Iterator[str]:
    """One sentence for each wrong value, about its innermost part that is wrong."""
    parts = schema()["properties"]
    found = dict(_finding(problem["loc"], given, parts) for problem in error.errors(include_url=False))
    for place, sentence in found.items():
        if not any(other[: len(place)] == place for other in found if other != place):
            yield f"{'.'.join(map(str, place))}: {sentence}"


def _finding(
    location: Sequence[Any], given: Mapping[str, Any], parts: Mapping[str, Any]
) -> tuple[tuple[Any, ...], str]:
    """Where the wrong value is, and what is wrong with it. ``location`` also names pydantic's types on the way."""
    value, part, place = given[location[0]], parts[location[0]], location[:1]
    for step in location[1:]:
        inside = _inside(part, step)
        if inside is not None and _holds(value, step):
            value, part, place = value[step], inside, (*place, step)
    if location[-1] == "[key]":
        if not isinstance(location[-2], str):
            return tuple(place), f"the name {location[-2]!r} is not text"
        return tuple(place), "there is no such entry, only 'file' and 'sha256'"
    return tuple(place), _what_is_wrong(place, value, part)


def _what_is_wrong(place: Sequence[Any], value: Any, part: Mapping[str, Any]) -> str:
    if value in ("", []):
        return "it is empty"
    pattern = part.get("pattern")
    if pattern and not re.fullmatch(pattern, str(value)):
        return f"{value!r} does not fit: {part['description']}"
    shown = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    hint = ""
    if len(place) == 1 and isinstance(value, int | float) and _takes_text(part):
        hint = f'; in a file, quotes make text of it: {place[0]}: "{shown}"'
        hint += f"; with --config write ./{shown}" if place[0] in _PATHS else ""
    return f"{shown} is not {_expected(part)}{hint}"


def _takes_text(part: Mapping[str, Any]) -> bool:
    """Whether a value may be any text, or any of a pattern."""
    alternatives = part.get("anyOf", [part])
    return any(one.get("type") == "string" and not {"enum", "const"} & set(one) for one in alternatives)


def _holds(value: Any, step: Any) -> bool:
    if isinstance(value, Mapping):
        return step in value
    return isinstance(value, list) and isinstance(step, int)


def _inside(part: Mapping[str, Any], step: Any) -> Mapping[str, Any] | None:
    """The schema of an item or entry, in any of the alternatives of ``part``."""
    for one in part.get("anyOf", [part]):
        found = one.get("items" if isinstance(step, int) else "additionalProperties")
        if isinstance(found, dict):
            return found
    return None


def _expected(part: Mapping[str, Any]) -> str:
    """What a value may be, in words."""
    if "anyOf" in part:
        return " or ".join(map(_expected, part["anyOf"]))
    if "const" in part:
        return repr(part["const"])
    if "enum" in part:
        return "one of " + ", ".join(map(repr, part["enum"]))
    match part["type"]:
        case "boolean":
            return "true or false"
        case "string":
            return "text"
        case "array":
            return "a list of names"
        case "object":
            names = part.get("propertyNames", {}).get("enum")
            return f"a map with {' and '.join(names)}" if names else "a map"
        case "integer" | "number" as kind:
            number = "a whole number" if kind == "integer" else "a number"
            limits = {"exclusiveMinimum": "above", "minimum": "from", "maximum": "up to"}
            return " ".join(
                [number, *(f"{word} {part[name]}" for name, word in limits.items() if name in part)]
            )
        case other:
            return str(other)


def _contradictions(settings: Settings) -> Iterator[str]:
    """What the values say against each other; each continues 'The configuration ...'."""
    if (settings.frame_index is None) != (settings.video_index is None):
        missing = "frame_index" if settings.frame_index is None else "video_index"
        yield (
            f"sets only one of frame_index and video_index: set {missing} too, or neither and name a folder in videos."
        )
    elif settings.frame_index is None and settings.videos is None:
        yield "names no input: set frame_index and video_index, or name a folder in videos."
    if settings.on_bad_frames == "drop" and not settings.from_folder:
        yield (
            "sets on_bad_frames: drop, but drop is for a folder given in videos, where no row is asked for by name; "
            "with frame_index and video_index set mask (rows marked 'bad') or fail."
        )
    if settings.sample_every is not None and not settings.from_folder:
        yield (
            "sets sample_every, but sample_every is for a folder given in videos; with frame_index and video_index the "
            "rows are those of frame_index: take it out."
        )
    elif settings.sample_every is not None and settings.sample_fps != DEFAULTS["sample_fps"]:
        yield "sets both sample_fps and sample_every: keep one."
    if twice := {name for name in settings.backbones if settings.backbones.count(name) > 1}:
        yield f"names a backbone twice in backbones: {', '.join(sorted(twice))}."
    if isinstance(settings.weights, Mapping):
        yield from _bad_weights(settings.weights, settings.backbones)
    if settings.export_labels_from and (settings.annotations or settings.export_segments_from):
        yield (
            "sets export_labels_from together with annotations or export_segments_from: the first brings labels and "
            "shots of its own; keep one."
        )


def _bad_weights(weights: Mapping[str, Any], backbones: Collection[str]) -> Iterator[str]:
    """Of the backbones in use: an entry for another may be a placeholder."""
    for name, entry in weights.items():
        if not isinstance(entry, Mapping) or name not in backbones:
            continue
        if "file" not in entry:
            yield f"has no file in weights.{name}: write {{file: PATH, sha256: DIGEST}}, or the path alone."
        if not _SHA256.fullmatch(entry.get("sha256", "0" * 64)):
            yield f"has no sha256 in weights.{name}.sha256: {entry['sha256']!r}; 64 hexadecimal digits are one."


def _expanded(value: Any) -> Any:
    """``~`` made the home folder, as the shell does, in a path or in each path of a map."""
    if isinstance(value, Mapping):
        return {name: _expanded(part) for name, part in value.items()}
    return os.path.expanduser(value) if isinstance(value, str) else value


def check_inputs(settings: Settings) -> None:
    """Raises ``UserError`` where an index or a folder does not exist, or where nothing is named and the example is not
    here."""
    if settings.from_folder:
        videos = str(settings.videos)
        if settings.videos == DEFAULTS["videos"] and not os.path.isdir(videos):
            raise UserError(
                f"The configuration names no input, and the example's folder {settings.videos!r} is not below "
                f"{os.getcwd()!r}. Set videos to a folder of videos, or frame_index and video_index to two tables: in "
                "config/config.yaml, in a file given with --configfile, or with --config videos=FOLDER."
            )
        missing = [] if glob.has_magic(videos) or os.path.exists(videos) else [f"videos: {videos!r}"]
    else:
        paths = {"frame_index": str(settings.frame_index), "video_index": str(settings.video_index)}
        missing = [f"{key}: {path!r}" for key, path in paths.items() if not os.path.isfile(path)]
        if settings.video_root and not os.path.isdir(settings.video_root):
            missing.append(f"video_root: {settings.video_root!r}")
    if missing:
        raise complain(
            "The configuration names files or folders that do not exist:",
            missing,
            "Correct the paths, or fetch the files.",
        )


def schema_file() -> str:
    """The text of ``workflow/schemas/config.schema.yaml``."""
    import yaml

    heading = "# Made by 'python -m framefeat.settings' from the model there; not to be edited.\n"
    return heading + yaml.safe_dump(schema(), sort_keys=False, width=120, allow_unicode=True)


if __name__ == "__main__":
    sys.stdout.write(schema_file())
