"""The extract stage, from the job's side: what is asked for, whether it is stored already, and who computes it.

Standard library only: the job is a client of the warm embedder and lives for milliseconds.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from framefeat.backbone.device_errors import is_lost
from framefeat.errors import UserError, first_line
from framefeat.extract import devices
from framefeat.files import atomic_path, read_json
from framefeat.signals import polite_end

#: Part of what identifies a result: a change of the numbers that this stage gives must change it.
ALGORITHM = 1
#: The same for the half precisions, in which BatchNorm that could not be folded keeps float32 since 2.
HALF_ALGORITHM = 2


def algorithm(precision: str) -> int:
    return ALGORITHM if precision == "float32" else HALF_ALGORITHM


def request_key(spec_json: str, weights_identity: str, precision: str) -> dict[str, Any]:
    """What decides the features of given frames."""
    return {
        "spec": json.loads(spec_json),
        "weights": weights_identity,
        "precision": precision,
        "algorithm": algorithm(precision),
    }


def identifying(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A backbone's description without what does not decide its features: path and name of a weights file."""
    return {**spec} | ({"weights": "", "file": "", "sha256": None} if spec["kind"] == "file" else {})


def evidence_digest(evidence: Mapping[str, Any]) -> str:
    """Ties features to the frames they were computed from: what was asked of the sampling, and what came out."""
    kept = [evidence["key"], evidence["rows"], evidence["recheck"], evidence["decoder"]]
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def run(options: Any) -> None:
    """The subcommand: ``options`` are those of ``framefeat extract``."""
    message = {
        "kind": "extract",
        "spec": options.spec,
        "weights": os.path.abspath(options.weights),
        "weights_identity": options.weights_identity,
        "precision": options.precision,
        "batch_size": options.batch_size,
        "threads": options.threads,
        **{name: os.path.abspath(getattr(options, name)) for name in ("frames", "recheck", "evidence")},
    }
    features, record = (Path(os.path.abspath(path)) for path in (options.features, options.record))
    evidence = read_json(message["evidence"])
    message["video"] = evidence["video_id"]
    message["key"] = request_key(options.spec, options.weights_identity, options.precision) | {
        "evidence_sha256": evidence_digest(evidence)
    }
    store = Store(features)
    if store.fetch(message["key"], features, record):
        print(f"{message['video']}: stored features are still valid", file=sys.stderr)
        return
    with polite_end(), _scratch(features) as scratch:
        made = [scratch / "features.npy", scratch / "record.json"]
        names = ("scratch", "features", "record")
        message |= {name: str(path) for name, path in zip(names, (scratch, *made), strict=True)}
        trace = _compute(message, options).get("trace")
        # The job alone puts results in place: what an embedder finishes for a job that has ended never appears.
        record.parent.mkdir(parents=True, exist_ok=True)
        record.unlink(missing_ok=True)
        for path, target in zip(made, (features, record), strict=True):
            os.replace(path, target)
    found = read_json(record)
    if found.get("problems"):
        # Not for the store: whoever deletes these files wants another try.
        if trace:
            print(trace, file=sys.stderr)
        _tell_finding(message["video"], found)
    else:
        store.keep(features, record)


def _tell_finding(video_id: str, record: Mapping[str, Any]) -> None:
    from framefeat.sample.stage import tell_finding

    tell_finding(video_id, len(record["bad_rows"]), record["rows"], record["problems"])


def _compute(message: Mapping[str, Any], options: Any) -> dict[str, Any]:
    """The record, with a ``trace`` where something happened that nobody foresaw."""
    from framefeat.extract import client

    found = []
    if options.gpus > 0:
        if warning := devices.settle(options.device):
            print(warning, file=sys.stderr)
            message = {**message, "warnings": [warning]}
        found = devices.wanted(options.device)
    owner = client.owner_here()
    folder = client.runtime_folder(owner) if owner and found else None
    served = bool(owner) and options.embedder != "off"
    clients = devices.CLIENTS if served else 1  # without an embedder each would load a model of its own
    with devices.hold(folder, found, clients) if folder else nullcontext((*found, devices.CPU)[0]) as device:
        if owner and served:
            log = Path(options.embedder_logs or "logs") / f"{devices.file_name(device)}.log"
            return client.request(message, owner, device, log)["record"]
        return _compute_here(message, device)


def _compute_here(message: Mapping[str, Any], device: str) -> dict[str, Any]:
    """In this process, as by hand and with ``--embedder off``: the same bytes, and torch's import for each video."""
    from framefeat.extract.embed import embed_video, load_network

    torch_device = devices.torch_device(device)
    if torch_device == "cuda":
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    try:
        return embed_video(message, *load_network(message, Path(message["weights"]), torch_device))
    except Exception as error:
        if not is_lost(error):
            raise
        raise UserError(
            f"{message['video']}: the device failed (device {device}, {first_line(error)}). Run again; where it "
            "stays so, the device or its driver is at fault: look at 'nvidia-smi -q', or set device: cpu."
        ) from error


def prewarm(described: Mapping[str, Any]) -> None:
    """Let the embedder start and load while the first videos are decoded. ``described``: see the rules' common.smk."""
    from framefeat.extract import client

    owner = client.owner_here()
    if not owner:
        return
    try:
        found = devices.wanted(described["device"]) if described["gpus"] else []
        device = (*found, devices.CPU)[0]
        log = Path(described["logs"]) / f"{devices.file_name(device)}.log"
        client.prewarm(described, owner, device, log)
    except (OSError, UserError):
        return  # the extraction will say what is wrong


@contextmanager
def _scratch(features: Path) -> Iterator[Path]:
    """A new folder beside ``features`` for what is half-made; it goes away, and what a killed job left with it."""
    mine = features.parent / f".{features.stem}.part"
    shutil.rmtree(mine, ignore_errors=True)
    mine.mkdir(parents=True, exist_ok=True)
    try:
        yield Path(tempfile.mkdtemp(dir=mine))
    finally:
        shutil.rmtree(mine, ignore_errors=True)


class Store:
    """A video's last features and what they were computed from, beside the results (hard links: no second copy on the disk).

    Snakemake deletes a job's outputs before it runs the job again; where nothing that decides them has changed, they
    are taken from here, the same bytes, without a forward pass.
    """

    def __init__(self, features: Path) -> None:
        # Named by the video alone: a job of one video among 100,000 must not look through all files to find its own.
        self.features = features.parent.parent / "store" / features.name
        self.record = self.features.with_name(f"{features.stem}.json")

    def fetch(self, key: Mapping[str, Any], features: Path, record: Path) -> bool:
        """Put the stored results in place; False where there are none, or of another ``key``, or other versions or a disk
        fault made them useless."""
        try:
            known = read_json(self.record)
            if known["key"] != key or not _same_versions(known["versions"]):
                return False
            with open(self.features, "rb") as stream:
                if known["file_sha256"] != hashlib.file_digest(stream, "sha256").hexdigest():
                    return False
        except (OSError, ValueError, KeyError, TypeError):
            return False
        _link(self.features, features)
        _link(self.record, record)
        return True

    def keep(self, features: Path, record: Path) -> None:
        """Store fresh results in place of the video's last ones.

        A store that cannot be written costs a forward pass one day, and not the results now.
        """
        with suppress(OSError):
            self.features.parent.mkdir(parents=True, exist_ok=True)
            _link(features, self.features)
            _link(record, self.record)


def _same_versions(versions: Mapping[str, str]) -> bool:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return all(version(name) == number for name, number in versions.items())
    except PackageNotFoundError:
        return False


def _link(source: Path, target: Path) -> None:
    """``target`` becomes the same file as ``source``, at once; a copy where the file system has no links."""
    with atomic_path(target) as temporary:
        temporary.unlink()
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
        os.utime(temporary)  # as new as any other output: Snakemake compares times with the inputs
