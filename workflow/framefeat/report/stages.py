"""Time per stage, from the benchmark tables that Snakemake writes (``benchmarks/{dataset}/{rule}/.../{job}.tsv``)."""

import csv
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from framefeat import shard_files
from framefeat.layout import RULES_OF_SHARDS

ORDER = ("fetch_weights", "merge_index", "sample_frames", "extract_features", "assemble", "report")


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


def read_stages(benchmarks: Path | None, logs: Path | None, shards: Collection[str]) -> list[Stage]:
    """The stages that have benchmarks, in the order of the pipeline. Jobs of shards that are no more do not count."""
    if benchmarks is None or not benchmarks.is_dir():
        return []
    stages: dict[tuple[str, str], Stage] = {}
    for path in sorted(benchmarks.rglob("*.tsv")):
        parts = path.relative_to(benchmarks).parts
        rule, between = parts[0], "/".join(parts[1:-1])
        if len(parts) < 2 or (rule in RULES_OF_SHARDS and path.stem not in shards):
            continue
        stage = stages.setdefault((rule, between), Stage(rule, between))
        row = _last_row(path)
        seconds = _number(row.get("s"))
        stage.jobs += 1
        stage.seconds += seconds
        stage.cpu_seconds += _number(row.get("cpu_time"))
        stage.max_rss_mb = max(stage.max_rss_mb, _number(row.get("max_rss")))
        log = logs.joinpath(*parts[:-1], f"{path.stem}.log") if logs else None
        if rule in RULES_OF_SHARDS and log is not None and (work := shard_files.work_in(log)):
            stage.frames += work.rows
            if seconds > 0:
                stage.rates.append(work.rows / seconds)
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
