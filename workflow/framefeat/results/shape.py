"""Whether a manifest that somebody may have edited has the shape of one: ``records.Manifest`` says which."""

from collections.abc import Iterator, Mapping
from functools import cache
from types import NoneType, UnionType
from typing import Any, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

from framefeat.records import ManifestHead, VideoEntry


def misfit(manifest: Any) -> str:
    """The first of its members that is of another type, or a video whose rows are not rows; empty where there is none.
    Members that are not there are not missed: earlier editions wrote fewer."""
    return next(_misfits(manifest), "")


def misfit_of_video(entry: Mapping[str, Any]) -> str:
    """As ``misfit``, of one video's entry and all of its members."""
    return next(_wrong(entry, VideoEntry, "it"), "")


def _misfits(manifest: Any) -> Iterator[str]:
    yield from _wrong(manifest, ManifestHead, "it")
    if not isinstance(manifest.get("videos", []), list):
        yield "videos is no list"
        return
    total = manifest.get("total_frames", 0)
    if total < 0 or manifest.get("feature_dim", 1) < 1:
        yield "total_frames or feature_dim is no number of rows or features"
    for number, entry in enumerate(manifest.get("videos", [])):
        if not isinstance(entry, dict) or not isinstance(entry.get("video_id"), str):
            yield f"videos[{number}] is no video"
        elif not _has_rows(entry, total):
            yield f"videos[{number}] ({entry['video_id']!r}) has no rows between 0 and {total - 1}"


def _has_rows(entry: Mapping[str, Any], total: int) -> bool:
    if "row_numbers" in entry:
        rows = entry["row_numbers"]
        if not isinstance(rows, list) or not rows or set(map(type, rows)) != {int}:
            return False
        ascending = all(one < next_one for one, next_one in zip(rows, rows[1:], strict=False))
        return ascending and rows[0] >= 0 and rows[-1] < total
    first, last = entry.get("first_row"), entry.get("last_row")
    return type(first) is int and type(last) is int and 0 <= first <= last < total


@cache
def _members(kind: Any) -> Mapping[str, Any]:
    return get_type_hints(kind)


def _wrong(value: Any, kind: Any, where: str) -> Iterator[str]:
    """What of ``value`` is not of the type ``kind``."""
    if not _is_a(value, kind):
        yield f"{where} is {repr(value)[:40]}"
    elif is_typeddict(kind):
        for name, inner in _members(kind).items():
            if name in value:
                yield from _wrong(value[name], inner, name if where == "it" else f"{where}.{name}")
    elif get_origin(kind) in (list, dict):
        for inside in value if isinstance(value, list) else value.values():
            yield from _wrong(inside, get_args(kind)[-1], where)
    elif get_origin(kind) is NotRequired:
        yield from _wrong(value, get_args(kind)[0], where)
    elif get_origin(kind) in (Union, UnionType):
        yield from min((list(_wrong(value, one, where)) for one in get_args(kind)), key=len)


def _is_a(value: Any, kind: Any) -> bool:
    """Of containers the outside alone."""
    origin = get_origin(kind)
    if kind is Any or origin is NotRequired or origin in (Union, UnionType):
        return True
    if is_typeddict(kind) or origin is dict:
        return isinstance(value, dict)
    if origin is list:
        return isinstance(value, list)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else NoneType if kind is None else kind)
