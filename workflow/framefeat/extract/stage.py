"""The extract stage, from the job's side: which videos of a shard are to be embedded, and who computes them.

Standard library only: the job is a client of the warm embedder and lives for milliseconds.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from framefeat import needs, shard_files
from framefeat.backbone.device_errors import is_lost
from framefeat.errors import UserError, complain, first_line
from framefeat.extract import devices
from framefeat.files import write_json
from framefeat.identity import features_key
from framefeat.layout import ResultsFolder
from framefeat.records import Embedded, EmbedRequest, FeatureRecord, Former, Slice, VideoToEmbed
from framefeat.sample.rowfile import checksum_of
from framefeat.sample.stage import SampleShard, remove_spent_frames
from framefeat.sample.stage import run as sample
from framefeat.settings import DEFAULTS
from framefeat.signals import polite_end
from framefeat.words import many


@dataclass(frozen=True)
class Computing:
    """How features are computed, not which. ``weights``: their file; ``gpus``: how many the job may use; ``embedder``:
    ``auto`` or ``off``."""

    weights: str
    precision: str
    device: str
    gpus: int
    batch_size: int | str
    threads: int
    embedder: str = "auto"
    embedder_logs: str = "logs"


@dataclass(frozen=True)
class ExtractShard:
    """What an extraction job is asked for: the features of a shard's videos by the backbone whose results are in
    ``folder``, one of those that are ``wanted``.

    ``keep_frames``: whether frames that no backbone needs any more stay. ``again``: embed even what is embedded
    already. ``timeout``: of decoders, for frames that somebody removed."""

    results: ResultsFolder
    shard: str
    folder: str
    wanted: needs.Wanted
    computing: Computing
    keep_frames: bool = False
    again: bool = False
    timeout: float = DEFAULTS["decoder_timeout"]

    @property
    def backbone(self) -> needs.WantedBackbone:
        return next(one for one in self.wanted.backbones if one.folder == self.folder)


def run(asked: ExtractShard) -> None:
    """Embed what is to be embedded, and write down that the shard is done.

    Raises ``UserError`` naming the videos whose features could not be had; the others are done and kept then.
    """
    results, backbone = asked.results, asked.backbone
    slices = shard_files.read_slices(results, asked.shard)
    former: Former = {} if asked.again else shard_files.read_former(results)
    found = _needs(asked, slices, former)
    for key, need in found.items():
        if source := need.features_from.get(asked.folder):
            needs.take_over(source, results.backbone(asked.folder).features(key), slices[key]["video_id"])
    todo = [key for key, need in found.items() if asked.again or asked.folder in need.embed]
    outcome = _Outcome([], [])
    try:
        if todo:
            _embed(asked, slices, found, todo, outcome)
    except UserError as error:
        if len(slices) == 1:
            raise
        kept = len(slices) - len(todo) + len(outcome.done)
        raise UserError(
            f"{error}\nThe features of {kept} of the {len(slices)} videos of this job are kept."
        ) from error
    rows = sum(slices[key]["rows"] for key in outcome.done)
    print(shard_files.Work(len(outcome.done), len(slices), rows), file=sys.stderr, flush=True)
    if not asked.keep_frames:
        remove_spent_frames(results, asked.wanted, backbone.geometry, slices, former)
    if len(outcome.failures) == len(slices) == 1:
        raise UserError(outcome.failures[0])
    if outcome.failures:
        raise complain(
            f"{len(outcome.failures)} of the {len(slices)} videos of this job could not be embedded; the others are done and "
            "kept:",
            outcome.failures,
            "Run again when this is mended.",
        )
    digests = {
        key: features_key(backbone.request, need.evidence[backbone.geometry])["evidence_sha256"]
        for key, need in found.items()
    }
    every = sum(entry["rows"] for entry in slices.values())
    write_json(results.backbone(asked.folder).extracted(asked.shard), {"rows": every, "videos": digests})


def _needs(asked: ExtractShard, slices: Mapping[str, Slice], former: Former) -> dict[str, needs.Needs]:
    """What each video needs. Frames that are needed and not there, or are not those that were sampled (somebody removed
    or changed them, or the disk did), are sampled here."""
    results, geometry = asked.results, asked.backbone.geometry

    def look() -> dict[str, needs.Needs]:
        return {
            key: needs.of_video(results, asked.wanted, key, entry, former.get(key))
            for key, entry in slices.items()
        }

    found = look()
    if dropped := [key for key, need in found.items() if _drop_changed(asked, key, need)]:
        print(f"{many(len(dropped), 'video')} to be sampled again", file=sys.stderr, flush=True)
        found = look()
    gone = any(
        (asked.folder in need.embed and geometry in need.decode) or geometry in need.evidence_from
        for need in found.values()
    )
    if asked.again:
        gone = not all(results.frames(geometry, key).is_file() for key in slices)
    if gone:
        sample(
            SampleShard(
                results,
                asked.shard,
                geometry,
                asked.wanted,
                asked.timeout,
                again=asked.again,
                keep_frames=asked.keep_frames,
            )
        )
        found = look()
    return found


def _drop_changed(asked: ExtractShard, key: str, need: needs.Needs) -> bool:
    """Remove frames that are to be embedded and are not those that the evidence tells of; says whether it did."""
    results, geometry = asked.results, asked.backbone.geometry
    evidence = need.evidence.get(geometry)
    path = results.frames(geometry, key)
    embedded = asked.again or asked.folder in need.embed
    if not embedded or evidence is None or "frames_checksum" not in evidence or not path.is_file():
        return False
    with suppress(OSError):
        if checksum_of(path, len(evidence["rows"]["status"])) == evidence["frames_checksum"]:
            return False
    print(
        f"{evidence['video_id']}: {str(path)!r} is not what was sampled",
        file=sys.stderr,
        flush=True,
    )
    path.unlink(missing_ok=True)
    return True


@dataclass(frozen=True)
class _Outcome:
    """The keys of the videos whose features are in place, and a sentence for each that failed."""

    done: list[str]
    failures: list[str]


def _embed(
    asked: ExtractShard,
    slices: Mapping[str, Slice],
    found: Mapping[str, needs.Needs],
    todo: Sequence[str],
    outcome: _Outcome,
) -> None:
    """Embed the videos ``todo`` and put each one's features in place as they come; ``outcome`` is filled."""
    features = asked.results.backbone(asked.folder).features
    with polite_end(), _scratch(features(asked.shard)) as scratch:

        def receive(answer: Embedded) -> None:
            if "trace" in answer:
                print(answer["trace"], file=sys.stderr)
            if "failure" in answer:
                print(answer["failure"], file=sys.stderr, flush=True)
                outcome.failures.append(answer["failure"])
                return
            # The job alone puts results in place: what an embedder finishes for a job that has ended never appears.
            key = todo[answer["place"]]
            os.replace(_made(scratch, answer["place"]), features(key))
            outcome.done.append(key)
            _tell(answer["record"])

        videos = [_video(asked, place, key, slices, found, scratch) for place, key in enumerate(todo)]
        _compute(_message(asked, videos, scratch), asked.computing, receive)


def _video(
    asked: ExtractShard,
    place: int,
    key: str,
    slices: Mapping[str, Slice],
    found: Mapping[str, needs.Needs],
    scratch: Path,
) -> VideoToEmbed:
    results, backbone = asked.results, asked.backbone
    return {
        "place": place,
        "video": slices[key]["video_id"],
        "rows": slices[key]["rows"],
        "key": features_key(backbone.request, found[key].evidence[backbone.geometry]),
        "evidence": os.path.abspath(results.evidence(backbone.geometry, key)),
        "frames": os.path.abspath(results.frames(backbone.geometry, key)),
        "recheck": os.path.abspath(results.recheck(backbone.geometry, key)),
        "features": str(_made(scratch, place)),
    }


def _message(asked: ExtractShard, videos: list[VideoToEmbed], scratch: Path) -> EmbedRequest:
    backbone, computing = asked.backbone, asked.computing
    return {
        "spec": _spec(backbone),
        "weights": os.path.abspath(computing.weights),
        "weights_identity": backbone.request["weights"],
        "precision": computing.precision,
        "batch_size": computing.batch_size,
        "threads": computing.threads,
        "videos": videos,
        "scratch": str(scratch),
        "together": True,
        "warnings": [],
    }


def _spec(backbone: needs.WantedBackbone) -> str:
    import json

    return json.dumps(backbone.request["spec"], sort_keys=True, ensure_ascii=False)


def _made(scratch: Path, place: int) -> Path:
    return scratch / f"{place}.safetensors"


def _tell(record: FeatureRecord) -> None:
    print(f"{record['video_id']}: {record['rows']} rows on {record['device']}", file=sys.stderr, flush=True)
    if record.get("problems"):
        from framefeat.sample.video import tell_finding

        tell_finding(record["video_id"], len(record["bad_rows"]), record["rows"], record["problems"])


def _compute(message: EmbedRequest, computing: Computing, receive: Callable[[Embedded], None]) -> None:
    from framefeat.extract import client

    found = []
    if computing.gpus > 0:
        if warning := devices.settle(computing.device):
            print(warning, file=sys.stderr)
            message = {**message, "warnings": [warning]}
        found = devices.wanted(computing.device)
    owner = client.owner_here()
    served = bool(owner) and computing.embedder != "off"
    clients = devices.CLIENTS if served else 1  # without an embedder each would load a model of its own
    held = (
        devices.hold(partial(client.runtime_folder, owner), found, clients)
        if owner and found
        else nullcontext((*found, devices.CPU)[0])
    )
    with held as device:
        if owner and served:
            log = Path(computing.embedder_logs) / f"{devices.file_name(device)}.log"
            client.request(message, owner, device, log, receive)
        else:
            _compute_here(message, device, receive)


def _compute_here(message: EmbedRequest, device: str, receive: Callable[[Embedded], None]) -> None:
    """In this process, as by hand and with ``--embedder off``: the same bytes, and torch's import for each shard."""
    from framefeat.extract.embed import embed_videos, load_network

    torch_device = devices.torch_device(device)
    if torch_device == "cuda":
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    try:
        network, weights_sha256 = load_network(message, Path(message["weights"]), torch_device)
        embed_videos(message, network, weights_sha256, receive)
    except Exception as error:
        if not is_lost(error):
            raise
        raise UserError(
            f"the device failed (device {device}, {first_line(error)}). Run again; where it stays so, the device or its "
            "driver is at fault: look at 'nvidia-smi -q', or set device: cpu."
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
