"""Time per stage, from the benchmark tables that Snakemake writes (``benchmarks/{dataset}/{rule}/.../{job}.tsv``)."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

ORDER = ("fetch_weights", "merge_index", "sample_frames", "extract_features", "assemble", "report")
PER_VIDEO = ("sample_frames", "extract_features")


@dataclass
class Stage:
    """All jobs of one rule (of one backbone, for the extraction): seconds summed over jobs, memory as the largest."""

    rule: str
    part: str = ""
    jobs: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    max_rss_mb: float = 0.0
    frames: int = 0
    rates: list[float] = field(default_factory=list)

    @property
    def label(self) -> str:
        return f"{self.rule} · {self.part}" if self.part else self.rule

    @property
    def frames_per_second(self) -> float | None:
        return self.frames / self.seconds if self.frames and self.seconds else None


def read_stages(benchmarks: Path | None, frames_of: Mapping[str, int]) -> list[Stage]:
    """The stages that have benchmarks, in the order of the pipeline; ``frames_of``: rows per file-safe video key."""
    if benchmarks is None or not benchmarks.is_dir():
        return []
    stages: dict[tuple[str, str], Stage] = {}
    for path in sorted(benchmarks.rglob("*.tsv")):
        parts = path.relative_to(benchmarks).parts
        if len(parts) < 2:
            continue
        rule, between = parts[0], "/".join(parts[1:-1])
        stage = stages.setdefault((rule, between), Stage(rule, between))
        row = _last_row(path)
        seconds = _number(row.get("s"))
        stage.jobs += 1
        stage.seconds += seconds
        stage.cpu_seconds += _number(row.get("cpu_time"))
        stage.max_rss_mb = max(stage.max_rss_mb, _number(row.get("max_rss")))
        if rule in PER_VIDEO and path.stem in frames_of:
            stage.frames += frames_of[path.stem]
            if seconds > 0:
                stage.rates.append(frames_of[path.stem] / seconds)
    known = {rule: place for place, rule in enumerate(ORDER)}
    return sorted(stages.values(), key=lambda stage: (known.get(stage.rule, len(ORDER)), stage.label))


def _last_row(path: Path) -> Mapping[str, str]:
    try:
        with open(path, encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t"))
    except (OSError, UnicodeDecodeError):
        return {}
    return rows[-1] if rows else {}


def _number(text: str | None) -> float:
    """Snakemake writes NA or - where a value was not measured."""
    try:
        value = float(text or 0)
    except ValueError:
        return 0.0
    return value if value == value else 0.0
