"""Where the files of a data set lie: the package and the rules take every path from here.

::

    results/{dataset}/
        index.parquet                               the merged index
        shards/{shard}.json                         which videos one job takes together, and what decides their frames
        videos/{shard}.json                         the rest that is known of them
        fingerprints.json                           what is remembered of each video file
        left_out.json                               what of a folder is no row's video
        merged.json                                 what the last merge was asked, for the plan
        former.json                                 a hint: whose evidence is of the content that a video has now
        evidence/{geometry}/{key}.safetensors       what was decoded of a video, and thumbnails
        frames/{geometry}/{key}.npy                 temporary: sampled frames
        rechecks/{geometry}/{key}.npy               temporary: some of them, decoded a second time
        sampled/{geometry}/{shard}.json             a shard's videos are sampled
        sampled/{geometry}/{shard}.frames           temporary: and their frames lie there as far as they are needed
        {backbone}/features/{key}.safetensors       a video's features, and what they were computed from
        {backbone}/extracted/{shard}.json           a shard's features are there
        {backbone}/{dataset}_features.npy, frame_index.parquet, feature_manifest.json, {dataset}.h5
        report.html
    logs/{dataset}/{rule}/.../{job}.log             and embedder/{device}.log
    benchmarks/{dataset}/{rule}/.../{job}.tsv

``key`` is a video's file-safe name (``names.video_key``) and may hold dots. Snakemake knows what is named by a shard;
what is named by a video is this package's own, so that a job that fails or runs again loses no video's results.

Any part of a path may be a Snakemake wildcard (``"{shard}"``): the rules' patterns come from the same methods as the
paths. Standard library only.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

MANIFEST = "feature_manifest.json"
FRAME_INDEX = "frame_index.parquet"
LEFT_OUT = "left_out.json"
#: The ending of what ``stored`` writes.
STORED = ".safetensors"
FRAMES_READY = ".frames"
_MATRIX_SUFFIX = "_features.npy"
#: The rules that have a job for each shard.
RULES_OF_SHARDS = ("sample_frames", "extract_features")


@dataclass(frozen=True)
class BackboneFolder:
    """``results/{dataset}/{backbone}``."""

    root: Path

    @property
    def results(self) -> "ResultsFolder":
        """The data set's folder around it."""
        return ResultsFolder(self.root.parent)

    @property
    def frame_index(self) -> Path:
        return self.root / FRAME_INDEX

    @property
    def manifest(self) -> Path:
        return self.root / MANIFEST

    def matrix(self, dataset: str) -> Path:
        return self.root / f"{dataset}{_MATRIX_SUFFIX}"

    def assembled_files(self, dataset: str) -> tuple[Path, ...]:
        """The outputs of assemble."""
        return self.matrix(dataset), self.frame_index, self.manifest

    def matrices(self) -> list[Path]:
        """The matrices that lie here, whatever data set they name."""
        return sorted(self.root.glob(f"*{_MATRIX_SUFFIX}"))

    def h5(self, dataset: str) -> Path:
        return self.root / f"{dataset}.h5"

    def features(self, key: str) -> Path:
        return self.root / "features" / (key + STORED)

    def extracted(self, shard: str) -> Path:
        return self.root / "extracted" / f"{shard}.json"


@dataclass(frozen=True)
class ResultsFolder:
    """``results/{dataset}``."""

    root: Path

    @property
    def index(self) -> Path:
        return self.root / "index.parquet"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def left_out(self) -> Path:
        return self.root / LEFT_OUT

    @property
    def of_the_merge(self) -> tuple[Path, ...]:
        """The outputs of merge_index."""
        return self.index, self.shards, self.videos, self.left_out

    @property
    def former(self) -> Path:
        return self.root / "former.json"

    @property
    def merged(self) -> Path:
        return self.root / "merged.json"

    @property
    def fingerprints(self) -> Path:
        return self.root / "fingerprints.json"

    @property
    def shards(self) -> Path:
        return self.root / "shards"

    @property
    def videos(self) -> Path:
        return self.root / "videos"

    def shard(self, shard: str) -> Path:
        return self.shards / f"{shard}.json"

    def videos_of(self, shard: str) -> Path:
        return self.videos / f"{shard}.json"

    def evidence(self, geometry: str, key: str) -> Path:
        return self.root / "evidence" / geometry / (key + STORED)

    def frames(self, geometry: str, key: str) -> Path:
        return self.root / "frames" / geometry / f"{key}.npy"

    def recheck(self, geometry: str, key: str) -> Path:
        return self.root / "rechecks" / geometry / f"{key}.npy"

    def sampled(self, geometry: str, shard: str) -> Path:
        return self.root / "sampled" / geometry / f"{shard}.json"

    def frames_ready(self, geometry: str, shard: str) -> Path:
        return self.root / "sampled" / geometry / (shard + FRAMES_READY)

    def backbone(self, folder: str) -> BackboneFolder:
        return BackboneFolder(self.root / folder)

    def shard_names(self) -> list[str]:
        """The shards of the last merge, sorted; empty before the first."""
        # Snakemake keeps a time stamp of its own in the folder.
        return sorted(path.stem for path in self.shards.glob("*.json") if not path.name.startswith("."))

    def with_evidence(self, geometry: str) -> set[str]:
        """The keys of the videos that evidence lies here for, whether or not they still have rows."""
        folder = self.evidence(geometry, "any").parent
        names = os.listdir(folder) if folder.is_dir() else []
        return {name.removesuffix(STORED) for name in names if name.endswith(STORED) and name[0] != "."}

    def geometries(self) -> list[str]:
        """The frame geometries that evidence lies here for, sorted."""
        return sorted(folder.name for folder in (self.root / "evidence").glob("*/"))

    def with_features(self) -> list[BackboneFolder]:
        """The backbones that videos have features of here, by name."""
        return [BackboneFolder(folder.parent) for folder in sorted(self.root.glob("*/features/"))]

    def assembled(self) -> list[BackboneFolder]:
        """The backbones whose manifest lies here, by name."""
        return [BackboneFolder(manifest.parent) for manifest in sorted(self.root.glob(f"*/{MANIFEST}"))]

    def files_of_videos(self) -> Iterator[tuple[str, Path]]:
        """``(key, path)`` of every file that is one video's and outlives the merge, whether or not it still has
        rows."""
        for pattern in ("frames/*", "rechecks/*", "evidence/*", "*/features"):
            yield from self._files_in(pattern)

    def files_of_shards(self) -> Iterator[tuple[str, Path]]:
        """``(shard, path)`` of every file that is one shard's and outlives the merge."""
        for pattern in ("sampled/*", "*/extracted"):
            yield from self._files_in(pattern)

    def _files_in(self, pattern: str) -> Iterator[tuple[str, Path]]:
        for folder in sorted(filter(Path.is_dir, self.root.glob(pattern))):
            yield from _files_in(folder)


def _files_in(folder: Path) -> Iterator[tuple[str, Path]]:
    """``(name without its ending, path)``, by path."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            yield path.stem, path


def promise_in(paths: Iterable[str]) -> Path | None:
    """Of the files of a job, as Snakemake names them, the one that tells that a shard is done; None where there is
    none."""
    for text in paths:
        path = Path(text)
        outer, inner = path.parent.parent.name, path.parent.name
        if path.suffix == ".json" and (outer == "sampled" or inner == "extracted"):
            return path
    return None


def results_of_promise(path: Path) -> ResultsFolder:
    """The data set's folder around a file that tells that a shard is done."""
    return ResultsFolder(path.parent.parent.parent)


@dataclass(frozen=True)
class JobFiles:
    """What jobs leave beside their results: ``logs/{dataset}`` and ``benchmarks/{dataset}``."""

    logs: Path
    benchmarks: Path

    @property
    def embedder_logs(self) -> Path:
        return self.logs / "embedder"

    def log(self, rule: str, *job: str) -> Path:
        """The log of a rule's job, which its wildcards name; of a rule with one job, the rule's name."""
        return self._named(self.logs, rule, job, ".log")

    def benchmark(self, rule: str, *job: str) -> Path:
        return self._named(self.benchmarks, rule, job, ".tsv")

    def files_of_shards(self) -> Iterator[tuple[str, Path]]:
        """``(shard, path)`` of every log and benchmark of a shard's job, by path."""
        for root in (self.logs, self.benchmarks):
            for rule in RULES_OF_SHARDS:
                for folder in sorted((root / rule).glob("*/")):
                    yield from _files_in(folder)

    @staticmethod
    def _named(root: Path, rule: str, job: tuple[str, ...], suffix: str) -> Path:
        *folders, name = job or (rule,)
        return root.joinpath(rule, *folders, name + suffix)


def results_of(dataset: str, root: Path = Path("results")) -> ResultsFolder:
    return ResultsFolder(root / dataset)


def jobs_of(dataset: str = "") -> JobFiles:
    """Without ``dataset``: of the jobs that serve every data set."""
    return JobFiles(Path("logs", dataset), Path("benchmarks", dataset))


def jobs_beside(results: ResultsFolder) -> JobFiles | None:
    """What the jobs of ``results/{dataset}`` left, in the folders beside ``results``; None where it is not called
    so."""
    folder = results.root if results.root.parent.name == "results" else results.root.absolute()
    if folder.parent.name != "results":
        return None
    around = folder.parent.parent
    return JobFiles(around / "logs" / folder.name, around / "benchmarks" / folder.name)
