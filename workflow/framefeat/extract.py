"""The extract stage, from the job's side: what is asked for, whether it is stored already, and who computes it.

Standard library only: the job is a client of the warm embedder and lives for milliseconds.
"""

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from framefeat import devices
from framefeat.errors import UserError
from framefeat.files import atomic_path, read_json

#: Part of what identifies a result: a change of the numbers that this stage gives must change it.
ALGORITHM = 1


def request_key(spec_json: str, weights_identity: str, precision: str) -> dict[str, Any]:
    """What decides the features of given frames."""
    return {
        "spec": json.loads(spec_json),
        "weights": weights_identity,
        "precision": precision,
        "algorithm": ALGORITHM,
    }


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
        **{
            name: os.path.abspath(getattr(options, name))
            for name in ("frames", "recheck", "evidence", "features", "record")
        },
    }
    evidence = read_json(message["evidence"])
    message["video"] = evidence["video_id"]
    message["key"] = request_key(options.spec, options.weights_identity, options.precision) | {
        "evidence_sha256": evidence_digest(evidence)
    }
    store = Store(Path(message["features"]))
    if store.fetch(message["key"], Path(message["features"]), Path(message["record"])):
        print(f"{message['video']}: stored features are still valid", file=sys.stderr)
        return
    _compute(message, options)
    store.keep(message["key"], Path(message["features"]), Path(message["record"]))


def _compute(message: Mapping[str, Any], options: Any) -> None:
    found = devices.wanted(options.device) if options.gpus > 0 else []
    owner = os.environ.get("FRAMEFEAT_OWNER")
    if options.embedder == "off" or not owner:
        from framefeat.embedding import Models, embed_video

        on_gpu = bool(found) and not devices.is_stand_in(found[0])
        if on_gpu:
            os.environ["CUDA_VISIBLE_DEVICES"] = found[0]
        embed_video(message, Models("cuda" if on_gpu else "cpu"))
        return
    from framefeat import embed_client

    folder = embed_client.runtime_folder(owner)
    logs = Path(options.embedder_logs or "logs")
    if not found:
        embed_client.request(message, owner, devices.CPU, logs / "cpu.log")
        return
    with devices.hold(folder, found) as device:
        embed_client.request(message, owner, device, logs / f"{devices.file_name(device)}.log")


def prewarm(described: Mapping[str, Any]) -> None:
    """Let the embedder start and load while the first videos are decoded. ``described``: see the rules' common.smk."""
    owner = os.environ.get("FRAMEFEAT_OWNER")
    if not owner:
        return
    from framefeat import embed_client

    try:
        found = devices.wanted(described["device"]) if described["gpus"] else []
        device = found[0] if found else devices.CPU
        log = Path(described["logs"]) / f"{devices.file_name(device)}.log"
        embed_client.prewarm(described, owner, device, log)
    except (OSError, UserError):
        return  # the extraction will say what is wrong


class Store:
    """Features by what they were computed from, beside the results (hard links: no second copy on the disk).

    Snakemake deletes a job's outputs before it runs the job again; where nothing that decides them has changed, they
    are taken from here, the same bytes, without a forward pass.
    """

    def __init__(self, features: Path) -> None:
        self.folder = features.parent.parent / "store"
        self.video = features.stem

    def _paths(self, key: Mapping[str, Any]) -> tuple[Path, Path]:
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return self.folder / f"{self.video}.{digest}.npy", self.folder / f"{self.video}.{digest}.json"

    def fetch(self, key: Mapping[str, Any], features: Path, record: Path) -> bool:
        """Put the stored results in place; False where there are none, or other versions or a disk fault made them useless."""
        stored_features, stored_record = self._paths(key)
        try:
            known = read_json(stored_record)
            with open(stored_features, "rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
        except (OSError, ValueError):
            return False
        if digest != known["file_sha256"] or not _same_versions(known["versions"]):
            return False
        _link(stored_features, features)
        _link(stored_record, record)
        return True

    def keep(self, key: Mapping[str, Any], features: Path, record: Path) -> None:
        """Store fresh results; those that the same video had before are dropped."""
        self.folder.mkdir(parents=True, exist_ok=True)
        places = self._paths(key)
        for old in self.folder.iterdir():
            if old.name[: -len(old.suffix) - 65] == self.video and old not in places:
                old.unlink(missing_ok=True)
        for source, target in zip((features, record), places, strict=True):
            _link(source, target)


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
            import shutil

            shutil.copyfile(source, temporary)
        os.utime(temporary)  # as new as any other output: Snakemake compares times with the inputs
