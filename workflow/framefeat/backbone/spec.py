"""What a backbone is: all that decides its features but the bytes of its weights."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

#: What a timm name ends in where the features are to be CLIP's image embedding and not what enters the projection.
PROJECTED = ":projected"


@dataclass(frozen=True)
class BackboneSpec:
    """All that decides a backbone's features but the weights' bytes. JSON-able."""

    name: str  # as the configuration says it
    display: str  # as the manifest says it
    source: str  # "torchvision" | "timm"
    arch: str  # builder's name; for timm with its tag, and PROJECTED where that is asked for
    kind: str  # "enum" | "tag" | "file"
    weights: str  # enum name, tag, or the file's base name
    file: str  # file: the user's path; else the base name of the file that ``fetch`` makes
    sha256: str | None  # pinned by the user
    dim: int
    geometry: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    folder: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "BackboneSpec":
        return cls(**{**record, "mean": three_numbers(record["mean"]), "std": three_numbers(record["std"])})


def folder_name(name: str) -> str:
    return name.replace(":", "_").replace("/", "_")


def three_numbers(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
