"""The documents name what is there: files, modules, commands, make's targets and each other's headings."""

import re
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from framefeat import cli

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    path.relative_to(ROOT)
    for folder in (".", "docs", "config", "results", "resources/example", "resources/weights")
    for path in (ROOT / folder).glob("*.md")
)
LONGEST = 120
_FENCE = re.compile(r"^\s*```")
_LINK = re.compile(r"\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)", re.M)
_MODULE = re.compile(r"\b(?:framefeat|bench|tests)(?:\.[a-z_0-9]+)+\b")
#: The page of a workflow on GitHub, relative so that it is right in every fork.
_CHECKS = re.compile(r"\.\./\.\./actions/(workflows/[\w-]+\.yml)(?:/badge\.svg.*)?")
_FILE = re.compile(r"\b(?:workflow|tests|docs|config|profiles|envs|bench|examples)/[\w./*-]+")


def _lines(document: Path) -> Iterator[tuple[int, str, bool]]:
    """Number, text, and whether it is in a code block or in a part that a program writes."""
    code = generated = False
    for number, line in enumerate((ROOT / document).read_text(encoding="utf-8").splitlines(), 1):
        fence = bool(_FENCE.match(line))
        generated = (generated or line.endswith(":start -->")) and not line.endswith(":end -->")
        yield number, line, code or fence or generated
        code ^= fence


def _anchors(document: Path) -> set[str]:
    headings = [line.lstrip("# ") for _, line, code in _lines(document) if line.startswith("#") and not code]
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _exists(module: str) -> bool:
    """A module, or what is in one."""
    parent, _, name = module.rpartition(".")
    try:
        return find_spec(module) is not None or hasattr(import_module(parent), name)
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_prose_is_at_most_120_characters_wide(document: Path) -> None:
    """Rows of tables cannot be broken, and code is as it is."""
    long = [
        number
        for number, line, code in _lines(document)
        if len(line) > LONGEST and not code and not line.startswith("|")
    ]
    assert not long, f"{document}: wrap these lines at {LONGEST} characters: {long}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_what_a_document_names_is_there(document: Path) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    missing = [f"module {name}" for name in set(_MODULE.findall(text)) if not _exists(name)]
    for name in set(_FILE.findall(text)):
        if not list(ROOT.glob(name.rstrip("./"))):
            missing.append(f"file {name}")
    for target in (inline or below for inline, below in _LINK.findall(text)):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        linked = (ROOT / document).parent / path if path else ROOT / document
        if checks := _CHECKS.fullmatch(target):
            linked = ROOT / ".github" / checks[1]
        if not linked.exists() or (anchor and anchor not in _anchors(linked.relative_to(ROOT))):
            missing.append(f"link {target}")
    assert not missing, f"{document} names what is not there: {sorted(missing)}"


def test_commands_in_the_documents_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    known = {
        "framefeat": set(re.findall(r"^ +([a-z][a-z0-9-]+)", capsys.readouterr().out, re.MULTILINE)),
        "make": set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)),
    }
    unknown = [
        f"{document}:{number}: {tool} {word}"
        for document in DOCUMENTS
        for number, line, code in _lines(document)
        for tool, word in re.findall(r"(?:^|`)(make|framefeat) ([a-z][a-z0-9-]*)", line)
        if (code or f"`{tool} {word}" in line) and word not in known[tool]
    ]
    assert not unknown
