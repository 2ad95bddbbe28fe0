"""The extract stage, from the job's side: what is asked for, whether it is stored already, and who computes it.

Standard library only: the job is a client of the warm embedder and lives for milliseconds.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from framefeat import layout
from framefeat.backbone.device_errors import is_lost
from framefeat.errors import UserError, first_line
from framefeat.extract import devices
from framefeat.files import atomic_path, file_sha256, read_json
from framefeat.identity import FeaturesKey, features_key, request_key
from framefeat.records import Embedded, EmbedRequest, Evidence, FeatureRecord
from framefeat.signals import polite_end


def run(options: Any) -> None:
    """The subcommand: ``options`` are those of ``framefeat extract``."""
    features, record = (Path(os.path.abspath(path)) for path in (options.features, options.record))
    evidence: Evidence = read_json(options.evidence)
    asked = request_key(options.spec, options.weights_identity, options.precision)
    key = features_key(asked, evidence)
    store = Store(features)
    if store.fetch(key, features, record):
        print(f"{evidence['video_id']}: stored features are still valid", file=sys.stderr)
        return
    with polite_end(), _scratch(features) as scratch:
        made = [scratch / "features.npy", scratch / "record.json"]
        message = _request(options, evidence["video_id"], key, scratch, made)
        trace = _compute(message, options).get("trace")
        # The job alone puts results in place: what an embedder finishes for a job that has ended never appears.
        record.parent.mkdir(parents=True, exist_ok=True)
        record.unlink(missing_ok=True)
        for path, target in zip(made, (features, record), strict=True):
            os.replace(path, target)
    found: FeatureRecord = read_json(record)
    if found.get("problems"):
        # Not for the store: whoever deletes these files wants another try.
        if trace:
            print(trace, file=sys.stderr)
        _tell_finding(found)
    else:
        store.keep(features, record)


def _request(
    options: Any, video_id: str, key: FeaturesKey, scratch: Path, made: Sequence[Path]
) -> EmbedRequest:
    """``made``: where the features and their record are to be written."""
    return {
        "kind": "extract",
        "spec": options.spec,
        "weights": os.path.abspath(options.weights),
        "weights_identity": options.weights_identity,
        "precision": options.precision,
        "batch_size": options.batch_size,
        "threads": options.threads,
        "frames": os.path.abspath(options.frames),
        "recheck": os.path.abspath(options.recheck),
        "evidence": os.path.abspath(options.evidence),
        "video": video_id,
        "key": key,
        "scratch": str(scratch),
        "features": str(made[0]),
        "record": str(made[1]),
        "warnings": [],
    }


def _tell_finding(record: FeatureRecord) -> None:
    from framefeat.sample.stage import tell_finding

    tell_finding(record["video_id"], len(record["bad_rows"]), record["rows"], record["problems"])


def _compute(message: EmbedRequest, options: Any) -> Embedded:
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
            record: Embedded = client.request(message, owner, device, log)["record"]
            return record
        return _compute_here(message, device)


def _compute_here(message: EmbedRequest, device: str) -> Embedded:
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
    """Let the embedder start and load while the first videos are decoded. ``described``: see the rules'
    settings.smk."""
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
    """A video's last features and what they were computed from, beside the results (hard links: no second copy on the
    disk).

    Snakemake deletes a job's outputs before it runs the job again; where nothing that decides them has changed, they
    are taken from here, the same bytes, without a forward pass.
    """

    def __init__(self, features: Path) -> None:
        self.features = layout.stored(features)
        self.record = layout.record_of(self.features)

    def fetch(self, key: FeaturesKey, features: Path, record: Path) -> bool:
        """Put the stored results in place; False where there are none, or of another ``key``, or other versions or a
        disk fault made them useless."""
        try:
            known: FeatureRecord = read_json(self.record)
            if known["key"] != key or not _same_versions(known["versions"]):
                return False
            if known["file_sha256"] != file_sha256(self.features):
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
