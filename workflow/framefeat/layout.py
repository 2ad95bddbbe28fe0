"""Where the files of a data set lie: the package and the rules take every path from here.

::

    results/{dataset}/
        index.parquet                          the merged index
        slices/{key}.json                      what decides a video's frames
        videos/{key}.json                      the rest that is known of a video
        fingerprints.json                      what is remembered of each video file
        left_out.json                          what of a folder is no row's video
        frames/{geometry}/{key}.npy            temporary: sampled frames
        rechecks/{geometry}/{key}.npy          temporary: some of them, decoded a second time
        evidence/{geometry}/{key}.json         what was decoded
        thumbnails/{geometry}/{key}.jpg
        {backbone}/features/{key}.npy, .json   a video's features, and what they were computed from
        {backbone}/store/{key}.npy, .json      its last features, which Snakemake does not delete
        {backbone}/{dataset}_features.npy, frame_index.parquet, feature_manifest.json, {dataset}.h5
        report.html
    logs/{dataset}/{rule}/.../{job}.log        and embedder/{device}.log
    benchmarks/{dataset}/{rule}/.../{job}.tsv

``key`` is a video's file-safe name (``names.video_key``) and may hold dots. Any part of a path may be a Snakemake
wildcard (``"{video}"``): the rules' patterns come from the same methods as the paths. Standard library only.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MANIFEST = "feature_manifest.json"
FRAME_INDEX = "frame_index.parquet"
LEFT_OUT = "left_out.json"
_MATRIX_SUFFIX = "_features.npy"


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

    def matrices(self) -> list[Path]:
        """The matrices that lie here, whatever data set they name."""
        return sorted(self.root.glob(f"*{_MATRIX_SUFFIX}"))

    def h5(self, dataset: str) -> Path:
        return self.root / f"{dataset}.h5"

    def features(self, key: str) -> Path:
        return self.root / "features" / f"{key}.npy"

    def record(self, key: str) -> Path:
        return record_of(self.features(key))


def record_of(features: Path) -> Path:
    """Where it is on record what a file of features was computed from."""
    return features.with_suffix(".json")


def stored(features: Path) -> Path:
    """Where a copy of a video's ``features`` is kept for when Snakemake deletes them; its record lies beside it."""
    # Named by the video alone: a job of one video among 100,000 must not look through all files to find its own.
    return features.parent.parent / "store" / features.name


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
    def fingerprints(self) -> Path:
        return self.root / "fingerprints.json"

    @property
    def slices(self) -> Path:
        return self.root / "slices"

    @property
    def videos(self) -> Path:
        return self.root / "videos"

    def slice(self, key: str) -> Path:
        return self.slices / f"{key}.json"

    def video(self, key: str) -> Path:
        return self.videos / f"{key}.json"

    def frames(self, geometry: str, key: str) -> Path:
        return self.root / "frames" / geometry / f"{key}.npy"

    def recheck(self, geometry: str, key: str) -> Path:
        return self.root / "rechecks" / geometry / f"{key}.npy"

    def evidence(self, geometry: str, key: str) -> Path:
        return self.root / "evidence" / geometry / f"{key}.json"

    def thumbnails(self, geometry: str, key: str) -> Path:
        return self.root / "thumbnails" / geometry / f"{key}.jpg"

    def part(self, part: str, parts: str) -> Path:
        return self.root / "parts" / f"{part}-of-{parts}"

    def backbone(self, folder: str) -> BackboneFolder:
        return BackboneFolder(self.root / folder)

    def video_keys(self) -> list[str]:
        """Keys of the videos that have rows, sorted; empty before the first merge."""
        # Snakemake keeps a time stamp of its own in the folder.
        return sorted(path.stem for path in self.slices.glob("*.json") if not path.name.startswith("."))

    def geometries(self) -> list[str]:
        """The frame geometries that evidence lies here for, sorted."""
        return sorted(folder.name for folder in (self.root / "evidence").glob("*/"))

    def assembled(self) -> list[BackboneFolder]:
        """The backbones whose manifest lies here, by name."""
        return [BackboneFolder(manifest.parent) for manifest in sorted(self.root.glob(f"*/{MANIFEST}"))]

    def files_of_videos(self) -> Iterator[tuple[str, Path]]:
        """``(key, path)`` of every file that is one video's and outlives the merge, whether or not it still has
        rows."""
        patterns = ("frames/*", "rechecks/*", "evidence/*", "thumbnails/*", "*/features", "*/store")
        for pattern in patterns:
            for folder in sorted(filter(Path.is_dir, self.root.glob(pattern))):
                for path in sorted(folder.iterdir()):
                    if path.is_file() and not path.name.startswith("."):
                        yield path.stem, path


def is_evidence(path: str) -> bool:
    """Whether a path, as Snakemake names it, is a video's evidence."""
    return "/evidence/" in path and path.endswith(".json")


def results_of_evidence(path: str) -> ResultsFolder:
    """The data set's folder around a video's evidence."""
    return ResultsFolder(Path(path).parent.parent.parent)


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

    @staticmethod
    def _named(root: Path, rule: str, job: tuple[str, ...], suffix: str) -> Path:
        *folders, name = job or (rule,)
        return root.joinpath(rule, *folders, name + suffix)


def results_of(dataset: str, root: Path = Path("results")) -> ResultsFolder:
    return ResultsFolder(root / dataset)


def jobs_of(dataset: str = "") -> JobFiles:
    """Without ``dataset``: of the jobs that serve every data set."""
    return JobFiles(Path("logs", dataset), Path("benchmarks", dataset))
