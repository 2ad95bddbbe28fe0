"""What the configuration's backbones need of a run: folders, geometries and weights, known before any job starts."""

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import framefeat
from framefeat.backbone.torchvision_table import lookup
from framefeat.backbone.weights import WeightsRef, weights_for
from framefeat.errors import UserError
from framefeat.files import read_json, remembered_sha256, write_json
from framefeat.identity import identifying
from framefeat.needs import Wanted
from framefeat.settings import Settings

CACHE = Path(".cache/framefeat")
WEIGHTS = Path("resources/weights")


@dataclass(frozen=True)
class ChosenBackbone:
    """One backbone of the run. ``spec`` is JSON-able (see ``spec.BackboneSpec``).

    ``weights_file`` is the path of the weights; ``weights_identity`` what recomputes the features when it changes: the
    sha256 of a local file, or the name of published weights (whose content never changes).
    """

    folder: str
    geometry: str
    spec: dict[str, Any]
    weights_file: str
    weights_identity: str
    is_local: bool

    @property
    def spec_json(self) -> str:
        """What decides the features: neither the path nor the name of a weights file does."""
        return _json(identifying(self.spec))

    @property
    def label_json(self) -> str:
        """What the manifest says: all of the specification but the folder of a weights file."""
        return _json(self.spec | {"file": Path(self.spec["file"]).name})


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def chosen_backbones(settings: Settings) -> list[ChosenBackbone]:
    """The backbones of ``settings``, in its order.

    Raises ``UserError`` for unknown names and weights, for a weights file that is missing or not what its sha256 says.
    """
    references = weights_for(settings.weights, settings.backbones)
    specs = _describe(settings, references)
    chosen = []
    for name in settings.backbones:
        spec, reference = specs[name], references[name]
        if reference.kind == "file":
            path = Path(str(reference.value))
            if not path.is_file():
                raise UserError(
                    f"weights: the file {str(path)!r} of {name} does not exist; correct the key weights in the configuration."
                )
            identity = remembered_sha256(path, CACHE / "files.json")
            if reference.sha256 and reference.sha256 != identity:
                raise UserError(
                    f"weights: {str(path)!r} has sha256 {identity}, but the configuration says {reference.sha256}; "
                    "fetch the file again or correct the key weights."
                )
        else:
            path = WEIGHTS / spec["file"]
            identity = f"{spec['source']}:{spec['arch']}:{spec['weights']}"
        chosen.append(
            ChosenBackbone(
                spec["folder"], spec["geometry"], spec, str(path), identity, reference.kind == "file"
            )
        )
    folders = [backbone.folder for backbone in chosen]
    doubled = sorted({folder for folder in folders if folders.count(folder) > 1})
    if doubled:
        raise UserError(f"backbones: two names share the folder {', '.join(doubled)}; keep one of them.")
    return chosen


def wanted_of(settings: Settings, backbones: Iterable[ChosenBackbone]) -> Wanted:
    """What the configuration asks of each video."""
    return Wanted.of(
        settings.alignment,
        settings.decoder,
        settings.precision,
        [
            {
                "folder": chosen.folder,
                "geometry": chosen.geometry,
                "spec": chosen.spec_json,
                "weights": chosen.weights_identity,
            }
            for chosen in backbones
        ],
    )


def _describe(settings: Settings, references: Mapping[str, WeightsRef]) -> dict[str, dict[str, Any]]:
    """The specification of each backbone: from the table, or from the libraries. These are asked once, in a process of
    their own: importing them takes seconds, and a run's own process must stay small and quick."""
    specs = {name: lookup(name, reference, settings.preprocess) for name, reference in references.items()}
    found = {name: spec for name, spec in specs.items() if spec is not None}
    return found | _ask(
        {name: ref for name, ref in references.items() if name not in found}, settings.preprocess
    )


def _ask(references: Mapping[str, WeightsRef], preprocess: str) -> dict[str, dict[str, Any]]:
    if not references:
        return {}
    stamp = [version("torch"), version("torchvision"), version("timm"), framefeat.__version__]
    requests = {
        name: [name, reference.kind, reference.value, reference.sha256, preprocess]
        for name, reference in references.items()
    }
    memory = CACHE / "backbones.json"
    known = _known(memory, stamp)
    missing = {name: request for name, request in requests.items() if _json(request) not in known}
    if missing:
        done = subprocess.run(
            [sys.executable, "-m", "framefeat.backbone.chosen"],
            input=json.dumps(list(missing.values())), text=True, capture_output=True, check=False,
        )  # fmt: skip
        if done.returncode == 3:
            raise UserError(done.stderr.strip())
        if done.returncode:
            raise RuntimeError(f"asking the libraries about {', '.join(missing)} failed:\n{done.stderr}")
        for request, spec in zip(missing.values(), json.loads(done.stdout), strict=True):
            known[_json(request)] = spec
        write_json(memory, {"stamp": stamp, "specs": known})
    return {name: known[_json(request)] for name, request in requests.items()}


def _known(memory: Path, stamp: list[str]) -> dict[str, Any]:
    try:
        stored = read_json(memory)
        return stored["specs"] if stored["stamp"] == stamp else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _answer() -> int:
    from framefeat.backbone.resolve import resolve

    try:
        specs = [
            resolve(name, WeightsRef(kind, value, sha256), preprocess).to_json()
            for name, kind, value, sha256, preprocess in json.load(sys.stdin)
        ]
    except UserError as error:
        print(error, file=sys.stderr)
        return 3
    json.dump(specs, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(_answer())
