"""Imports go in one direction: from a folder only to those below it, and never in a circle."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import framefeat
import pytest

ROOT = Path(framefeat.__file__).parent
#: From the ground up: folders of one floor do not import each other. What is not named here is the foundation.
FLOORS = (
    ("video",),
    ("index", "sample"),
    ("backbone",),
    ("extract",),
    ("results",),
    ("summaries", "run"),
    ("report",),
    ("proof", "example"),
    ("cli",),
)


def _modules() -> dict[str, Path]:
    """Files of the package by the module's name: ``framefeat.video.reader``."""
    names = {path: (ROOT.name, *path.relative_to(ROOT).with_suffix("").parts) for path in ROOT.rglob("*.py")}
    return {".".join(name).removesuffix(".__init__"): path for path, name in names.items()}


def _imports(path: Path, modules: dict[str, Path]) -> set[str]:
    """The package's modules that the file imports, wherever in it: late imports are arrows too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in modules else str(node.module) for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & modules.keys()


@pytest.fixture(scope="module")
def arrows() -> dict[str, set[str]]:
    modules = _modules()
    return {name: _imports(path, modules) for name, path in modules.items()}


def _floor(module: str) -> int:
    room = module.split(".")[1] if "." in module else ""
    return next((number for number, rooms in enumerate(FLOORS, 1) if room in rooms), 0)


def _room(module: str) -> str:
    return ".".join(module.split(".")[:2])


def test_no_import_goes_up_or_across(arrows: dict[str, set[str]]) -> None:
    wrong = [
        f"{source} imports {target}"
        for source in sorted(arrows)
        for target in sorted(arrows[source])
        if _floor(target) > _floor(source)
        or (_floor(target) == _floor(source) > 0 and _room(target) != _room(source))
    ]
    # The package's own surface (framefeat.load) reaches down into the house from its door.
    assert [line for line in wrong if not line.startswith("framefeat imports ")] == []


def test_no_circles(arrows: dict[str, set[str]]) -> None:
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_what_the_rules_import_is_light() -> None:
    """Snakemake's own process pays for it at each start, and on a cluster each job does."""
    rules = ROOT.parent / "rules"
    lines = [line for path in sorted(rules.glob("*.smk")) for line in path.read_text("utf-8").splitlines()]
    imports = [line for line in lines if line.startswith("from framefeat")]
    assert len(imports) > 5
    heavy = "{'numpy', 'pandas', 'pyarrow', 'safetensors', 'PIL', 'av', 'decord', 'torch'}"
    script = [*imports, "import sys", f"sys.exit(str({heavy} & sys.modules.keys() or ''))"]
    done = subprocess.run([sys.executable, "-c", "\n".join(script)], capture_output=True, text=True)
    assert done.stderr.strip() == ""
