"""What a report was drawn of, as it says itself; and whether it is of the matrices that lie there now."""

import html
import json
import re
from collections.abc import Sequence
from pathlib import Path

from framefeat.files import file_sha256
from framefeat.layout import BackboneFolder, ResultsFolder

#: Of the page's head, beside ``charset``.
META = "framefeat-drawn-of"
#: Snakemake compares the content of smaller files, and of larger ones the time alone (its --max-checksum-file-size).
SNAKEMAKE_COMPARES_CONTENT = 1_000_000

_IN_PAGE = re.compile(rf'<meta name="{META}" content="([^"]*)">')
_HEAD = 1 << 20


def drawn_of(folders: Sequence[Path]) -> str:
    """For the page, as JSON: the backbones' folders in order, each with the sha256 of its manifest, which has those of
    matrix and index."""
    return json.dumps([[folder.name, file_sha256(BackboneFolder(folder).manifest)] for folder in folders])


def draws_again(results: ResultsFolder, dataset: str, backbones: Sequence[str]) -> bool:
    """Whether Snakemake draws the report of these finished ``backbones`` again that lies there: it is of others, or
    older than their results."""
    folders = [results.backbone(name) for name in backbones]
    told = _told(results.report)
    if told is not None and [name for name, _ in told] != list(backbones):
        return True
    drawn = results.report.stat().st_mtime_ns
    files = [path for folder in folders for path in folder.assembled_files(dataset)]
    newer = [found for path in files if (found := path.stat()).st_mtime_ns > drawn]
    if not newer:
        return False
    if any(found.st_size > SNAKEMAKE_COMPARES_CONTENT for found in newer):
        return True
    return told != json.loads(drawn_of([folder.root for folder in folders]))


def _told(report: Path) -> list[list[str]] | None:
    """None of a page that does not say."""
    with open(report, encoding="utf-8", errors="replace") as stream:
        found = _IN_PAGE.search(stream.read(_HEAD))
    try:
        told = json.loads(html.unescape(found[1])) if found else None
    except ValueError:
        return None
    whole = isinstance(told, list) and all(isinstance(one, list) and len(one) == 2 for one in told)
    return told if whole else None
