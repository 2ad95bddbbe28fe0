"""torchvision's classification models as a table, so that naming one costs no import of torch.

``python -m framefeat.backbone.torchvision_table`` writes ``torchvision_models.json`` anew from the installed
torchvision; a test compares the two. Another torchvision than the table's is asked itself (``backbone.resolve``).
"""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from framefeat.backbone.weights import WeightsRef
from framefeat.files import read_json, write_json

PATH = Path(__file__).with_name("torchvision_models.json")


def lookup(name: str, reference: WeightsRef, preprocess: str) -> dict[str, Any] | None:
    """What ``backbone.resolve(...).to_json()`` gives, or None where the table does not know."""
    table = read_json(PATH)
    models = table["models"].get(name)
    if (
        table["torchvision"] != version("torchvision")
        or models is None
        or reference.kind not in ("enum", "file")
    ):
        return None
    if reference.kind == "enum":
        label = str(reference.value)
    else:
        base = Path(str(reference.value)).name
        label = next(
            (label for label, entry in models.items() if entry["squash224"]["file"] == base),
            next(iter(models)),
        )
    entry = models.get(label, {}).get(preprocess)
    if entry is None:
        return None
    if reference.kind == "file":
        path = str(reference.value)
        entry = entry | {"kind": "file", "weights": Path(path).name, "file": path, "sha256": reference.sha256}
    return entry


def make() -> dict[str, Any]:
    """Ask torchvision for every classification model and weights enum; what it refuses is left out."""
    from framefeat.backbone.libraries import torchvision_models
    from framefeat.backbone.resolve import resolve
    from framefeat.errors import UserError

    library = torchvision_models()
    models: dict[str, dict[str, Any]] = {}
    for name in library.list_models(module=library):
        for member in library.get_model_weights(name):
            for preprocess in ("squash224", "weights"):
                try:
                    spec = resolve(name, WeightsRef("enum", member.name), preprocess)
                except UserError:
                    continue
                models.setdefault(name, {}).setdefault(member.name, {})[preprocess] = spec.to_json()
    return {"torchvision": version("torchvision"), "models": models}


if __name__ == "__main__":
    write_json(PATH, json.loads(json.dumps(make())), indent=1)
