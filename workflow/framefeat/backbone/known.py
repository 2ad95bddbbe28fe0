"""The subcommand ``backbones``: which names the configuration takes, how many features they give, and their weights."""

from collections.abc import Iterator

from framefeat.backbone.torchvision_table import PATH
from framefeat.errors import UserError
from framefeat.files import read_json

_MOST = 40  # of timm's models: the features of each are counted by building it, a few tenths of a second


def run(word: str | None = None) -> None:
    """Print the backbones whose name holds ``word``; without it, torchvision's."""
    lines = [line for line in _torchvision() if word is None or word.lower() in line[0]]
    notes = []
    if word is None:
        notes.append(
            "timm has hundreds of others: framefeat backbones WORD, where WORD is dinov2, clip, convnext, ..."
        )
    else:
        models = _timm(word)
        lines += [_timm_line(name, tags) for name, tags in list(models.items())[:_MOST]]
        if models:
            notes.append("timm's names can be followed by one of their weights: timm:NAME.WEIGHTS")
        if len(models) > _MOST:
            notes.append(f"{len(models) - _MOST} more of timm's have such a name: give a longer word")
    if not lines:
        raise UserError(f"no backbone of torchvision or timm has {word!r} in its name; try a shorter word.")
    lines.insert(0, ("backbone", "features", "weights"))
    widths = [max(len(line[column]) for line in lines) for column in (0, 1)]
    for name, features, weights in lines:
        print(f"{name:<{widths[0]}}  {features:>{widths[1]}}  {weights}".rstrip())
    for note in notes:
        print(note)


def _torchvision() -> Iterator[tuple[str, str, str]]:
    for name, weights in read_json(PATH)["models"].items():
        dims = {str(entry["dim"]) for by_preprocess in weights.values() for entry in by_preprocess.values()}
        yield name, "/".join(sorted(dims)), ", ".join(weights)


def _timm(word: str) -> dict[str, list[str]]:
    """Tags of weights by model, of those whose name or tag holds ``word``."""
    from framefeat.backbone.libraries import timm

    word = word.lower().removeprefix("timm:")
    found: dict[str, list[str]] = {}
    for name in timm().list_pretrained():
        if word in name.lower():
            arch, _, tag = name.partition(".")
            found.setdefault(arch, []).append(tag)
    return found


def _timm_line(arch: str, tags: list[str]) -> tuple[str, str, str]:
    from framefeat.backbone.resolve import resolve

    name = f"timm:{arch}"
    try:
        dim = str(resolve(f"{name}.{tags[0]}" if tags[0] else name, preprocess="weights").dim)
    except UserError:
        return name, "-", "cannot be used: not one row of features per frame"
    return name, dim, ", ".join(tags)
