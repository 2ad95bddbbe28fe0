"""The ``framefeat`` command: one subcommand per stage, each usable by hand.

Nothing heavy is imported before a subcommand needs it: the extract subcommand is a client that starts in milliseconds.
"""

import argparse
import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import framefeat
from framefeat.errors import UserError, machine_trouble


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand; returns its exit status (a user's mistake: 1, and one sentence on standard error)."""
    # Importing makes thousands of objects that stay: looking for garbage among them is a twentieth of a short job.
    gc.set_threshold(100_000, 20, 100)
    command, options = _parse(sys.argv[1:] if arguments is None else arguments)
    try:
        return int(_COMMANDS[command].run(options) or 0)
    except UserError as error:
        print(f"framefeat {command}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader of our output is gone (`framefeat show | head`): not a failure, but nothing more can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception as error:
        told = machine_trouble(error)
        if told is None:
            # The last line of a job's log is what the run's last lines quote.
            traceback.print_exc()
        print(
            f"framefeat {command}: {told or f'{type(error).__name__}: {error} (not foreseen)'}",
            file=sys.stderr,
        )
        return 1


def _merge(options: argparse.Namespace) -> None:
    from framefeat import settings
    from framefeat.index import merge

    config = {key: value for key, value in vars(options).items() if key in settings.KEYS}
    merge.merge(settings.resolve(config | {"dataset": "by-hand"}), options.out, options.threads)


def _sample(options: argparse.Namespace) -> None:
    from framefeat.files import read_json
    from framefeat.sample import stage as sample_stage

    gone = [str(path) for path in (options.video, options.slice) if path is not None and not path.is_file()]
    if gone:
        raise UserError(f"{', '.join(map(repr, gone))} is gone; run Snakemake with --forcerun merge_index.")
    record = read_json(options.video)
    if options.slice is not None:
        wanted = read_json(options.slice)
        differing = [name for name in wanted if record.get(name) != wanted[name]]
        if differing:
            raise UserError(
                f"{str(options.video)!r} and {str(options.slice)!r} differ in {', '.join(differing)}: they are not of "
                "one merge; run Snakemake with --forcerun merge_index."
            )
    if options.path is not None:
        record["path"] = os.path.abspath(
            options.path
        )  # FFmpeg takes what stands before a colon for a protocol
        _check_fetched(record)
    if "FRAMEFEAT_PREWARM" in os.environ:
        import json

        from framefeat.extract import stage as extract_stage

        extract_stage.prewarm(json.loads(os.environ["FRAMEFEAT_PREWARM"]))
    if options.backlog:
        from framefeat.extract import backlog

        backlog.wait_for_room(options.frames.parent, options.backlog)
    sample_stage.sample_video(
        record,
        geometry=options.geometry,
        alignment=options.alignment,
        decoder=options.decoder,
        frames_path=options.frames,
        recheck_path=options.recheck,
        thumbnails_path=options.thumbnails,
        evidence_path=options.evidence,
        timeout=options.timeout,
    )


def _check_fetched(record: Mapping[str, Any]) -> None:
    """A file fetched for this job is what the index's column sha256 says, where it says anything."""
    from framefeat.index.fingerprints import file_sha256

    wanted = record["fingerprint"]
    if not wanted.startswith("address:") and (found := file_sha256(record["path"])) != wanted:
        raise UserError(
            f"{record['video_id']!r}: the index says sha256 {wanted}, but {record['path']!r} has {found}; fetch it again."
        )


def _extract(options: argparse.Namespace) -> None:
    from framefeat.extract import stage as extract_stage

    extract_stage.run(options)


def _assemble(options: argparse.Namespace) -> None:
    import json

    from framefeat.results import assemble

    assemble.assemble(
        options.results,
        options.geometry,
        json.loads(options.spec),
        dataset=options.dataset,
        alignment=options.alignment,
        decoder=options.decoder,
        precision=options.precision,
        weights_identity=options.weights_identity,
        on_bad_frames=options.on_bad_frames,
    )


def _fetch_weights(options: argparse.Namespace) -> None:
    from framefeat.backbone import weights

    weights.fetch(options.backbone, options.weights, options.to)


def _example(options: argparse.Namespace) -> None:
    from framefeat import example

    example.prepare(options.clips, options.weights)


def _describe(options: argparse.Namespace) -> None:
    import json

    from framefeat.backbone import resolve

    print(
        json.dumps(resolve.resolve(options.backbone, options.weights, options.preprocess).to_json(), indent=1)
    )


def _verify(options: argparse.Namespace) -> int:
    from framefeat.results import verify

    return verify.run(
        options.results, rows_per_video=options.rows, weights=options.weights, as_json=options.json
    )


def _plan(options: argparse.Namespace) -> None:
    from framefeat.run import plan as run_plan

    run_plan.run(options.configfile, as_json=options.json)


def _stale(options: argparse.Namespace) -> None:
    from framefeat.run import stale

    stale.run(options.results, options.delete)


def _export_h5(options: argparse.Namespace) -> None:
    from framefeat.summaries import export_h5

    export_h5.run(
        options.features,
        options.out,
        annotations=options.annotations,
        l2=options.l2,
        drop_bad=options.drop_bad,
        segments_from=options.segments_from,
        labels_from=options.labels_from,
        vmax=options.vmax,
        force=options.force,
    )


def _export(options: argparse.Namespace) -> None:
    if options.format == "h5":
        _export_h5(options)
        return
    from framefeat.summaries import export_files

    export_files.run(
        options.format,
        options.features,
        options.out,
        l2=options.l2,
        drop_bad=options.drop_bad,
        every=options.every,
        force=options.force,
        videos_per_shard=options.videos_per_shard,
    )


def _backbones(options: argparse.Namespace) -> None:
    from framefeat.backbone import known

    known.run(options.word)


def _controls(options: argparse.Namespace) -> None:
    from framefeat.summaries import controls

    controls.run(options.features, options.out, seed=options.seed, kinds=tuple(options.kinds))


def _report(options: argparse.Namespace) -> None:
    from framefeat.report import build

    build.build(
        options.results,
        options.out,
        backbones=options.backbones,
        benchmarks=options.benchmarks,
        logs=options.logs,
    )


def _show(options: argparse.Namespace) -> None:
    from framefeat.report import show

    show.run(options.results, options.video)


def _proof(options: argparse.Namespace) -> int:
    from framefeat.proof import run as proof_run

    return proof_run.run_with(options)


def _of_key(
    part: argparse.ArgumentParser, key: str, *, option: str = "", help: str = "", **more: Any
) -> None:
    """An option that stands for a key of the configuration: it takes the key's choices and default."""
    from framefeat import settings

    part.add_argument(
        option or f"--{key.replace('_', '-')}",
        choices=settings.choices(key) or None,
        default=settings.DEFAULTS[key],
        help=help if settings.DEFAULTS[key] is None else f"{help} (default: %(default)s)".lstrip(),
        **more,
    )


def _merge_options(part: argparse.ArgumentParser) -> None:
    part.add_argument("--frame-index", metavar="TABLE")
    part.add_argument("--video-index", metavar="TABLE")
    part.add_argument("--video-root", metavar="FOLDER")
    part.add_argument("--videos", metavar="FOLDER_OR_GLOB", help="instead of both indexes")
    _of_key(part, "sample_fps", type=float, metavar="N", help="with --videos")
    _of_key(
        part, "sample_every", type=int, metavar="K", help="instead of --sample-fps: every K-th native frame"
    )
    _of_key(part, "alignment")
    _of_key(part, "on_bad_frames")
    part.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="results/{dataset}")
    part.add_argument("--threads", type=int, default=1, metavar="N")


def _sample_options(part: argparse.ArgumentParser) -> None:
    part.add_argument(
        "--video", type=Path, required=True, metavar="JSON", help="the video's record written by merge"
    )
    part.add_argument("--slice", type=Path, metavar="JSON", help="the slice that the record must agree with")
    part.add_argument(
        "--path",
        type=Path,
        nargs="?",
        metavar="FILE",
        help="where the video is, if not where the record says (nothing: it is)",
    )
    part.add_argument(
        "--geometry",
        default="squash224",
        metavar="NAME",
        help="how frames are resized (default: %(default)s)",
    )
    _of_key(part, "alignment")
    _of_key(part, "decoder")
    _of_key(
        part, "decoder_timeout", option="--timeout", type=float, metavar="SECONDS", help="without a frame"
    )
    part.add_argument(
        "--backlog",
        type=int,
        default=0,
        metavar="N",
        help="wait while a device is at work and N videos' frames lie on the disk",
    )
    for name in ("frames", "recheck", "evidence", "thumbnails"):
        part.add_argument(f"--{name}", type=Path, required=True, metavar="FILE", help="output")


def _extract_options(part: argparse.ArgumentParser) -> None:
    part.add_argument(
        "--spec", required=True, metavar="JSON", help="the backbone, as printed by 'framefeat describe'"
    )
    part.add_argument("--weights", required=True, metavar="FILE")
    part.add_argument(
        "--weights-identity",
        default="",
        metavar="TEXT",
        help="what identifies the weights: their sha256, or a name",
    )
    _of_key(part, "precision")
    _of_key(part, "device", metavar="DEVICE", help="auto, cpu, cuda or cuda:N")
    part.add_argument("--gpus", type=int, default=1, metavar="N", help="GPUs this job may use; 0 means CPU")
    part.add_argument("--threads", type=int, default=1, metavar="N", help="on CPU: batches at a time")
    _of_key(part, "batch_size", metavar="N", help="frames per forward pass")
    part.add_argument("--frames", required=True, metavar="FILE")
    part.add_argument("--recheck", required=True, metavar="FILE")
    part.add_argument("--evidence", required=True, metavar="FILE")
    part.add_argument("--features", required=True, metavar="FILE", help="output")
    part.add_argument("--record", required=True, metavar="FILE", help="output")
    part.add_argument(
        "--embedder", choices=["auto", "off"], default="auto", help="off: embed in this process"
    )
    part.add_argument("--embedder-logs", default=None, metavar="FOLDER")


def _assemble_options(part: argparse.ArgumentParser) -> None:
    part.add_argument("results", type=Path, metavar="RESULTS", help="results/{dataset}")
    part.add_argument("--geometry", default="squash224", metavar="NAME")
    part.add_argument("--spec", required=True, metavar="JSON")
    part.add_argument("--weights-identity", required=True, metavar="TEXT")
    part.add_argument("--dataset", required=True, metavar="NAME")
    for key in ("precision", "alignment", "decoder", "on_bad_frames"):
        _of_key(part, key)


def _verify_options(part: argparse.ArgumentParser) -> None:
    part.add_argument(
        "results", type=Path, metavar="RESULTS", help="results/{dataset}, or one backbone's folder in it"
    )
    part.add_argument(
        "--rows",
        type=int,
        default=4,
        metavar="K",
        help="rows of each video decoded and embedded again; 0: all (default: %(default)s)",
    )
    part.add_argument(
        "--weights",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="where they are, if not in resources/weights or torch's cache",
    )
    part.add_argument("--json", action="store_true", help="print JSON instead of tables")


def _report_options(part: argparse.ArgumentParser) -> None:
    part.add_argument("results", type=Path, metavar="RESULTS", help="results/{dataset}")
    part.add_argument("--backbones", nargs="+", metavar="FOLDER", help="of them; default: all")
    part.add_argument(
        "--benchmarks", type=Path, metavar="FOLDER", help="benchmarks/{dataset}, for the time per stage"
    )
    part.add_argument("--logs", type=Path, metavar="FOLDER", help="logs/{dataset}")
    part.add_argument("--out", type=Path, required=True, metavar="FILE")


def _show_options(part: argparse.ArgumentParser) -> None:
    part.add_argument(
        "results", type=Path, metavar="RESULTS", help="results/{dataset}, or one backbone's folder in it"
    )
    part.add_argument("video", nargs="?", metavar="VIDEO", help="one video's rows")


def _plan_options(part: argparse.ArgumentParser) -> None:
    part.add_argument(
        "--configfile", type=Path, metavar="FILE", help="laid over config/config.yaml, as for Snakemake"
    )
    part.add_argument("--json", action="store_true", help="print JSON instead of sentences")


def _stale_options(part: argparse.ArgumentParser) -> None:
    part.add_argument("results", type=Path, metavar="RESULTS", help="results/{dataset}")
    part.add_argument("--delete", action="store_true", help="delete them")


def _export_h5_options(part: argparse.ArgumentParser) -> None:
    part.add_argument("features", type=Path, metavar="FEATURES", help="results/{dataset}/{backbone}")
    part.add_argument("out", type=Path, metavar="OUT.h5")
    part.add_argument(
        "--annotations",
        type=Path,
        metavar="FILE",
        help="TVSum's ydata-tvsum50.mat or -anno.tsv, or SumMe's folder GT",
    )
    part.add_argument(
        "--labels-from",
        type=Path,
        metavar="OTHER.h5",
        help="take user_summary, gtscore and change_points from another file, by video",
    )
    part.add_argument(
        "--segments-from",
        type=Path,
        metavar="OTHER.h5",
        help="take change_points from another file, by video",
    )
    part.add_argument(
        "--vmax",
        type=float,
        default=1.0,
        metavar="X",
        help="penalty of the segmentation (default: %(default)s)",
    )
    _any_export_options(part)


def _any_export_options(part: argparse.ArgumentParser) -> None:
    part.add_argument("--l2", action="store_true", help="scale each feature row to length 1")
    part.add_argument("--drop-bad", action="store_true", help="leave out rows whose status is bad")
    part.add_argument("--force", action="store_true", help="replace files that framefeat did not write")


def _export_options(part: argparse.ArgumentParser) -> None:
    formats = part.add_subparsers(dest="format", required=True, metavar="FORMAT")
    _export_h5_options(formats.add_parser("h5", help="one HDF5 file, as summarisers load it"))
    for name, help in (
        ("npy", "per video VIDEO_BACKBONE.npy, VIDEO_fps.npy and VIDEO_timestamps_ms.npy"),
        ("npz", "per video VIDEO.npz with features and timestamps, as moment-retrieval loaders read it"),
        ("webdataset", "tar shards for the webdataset library, one sample per video"),
    ):
        one = formats.add_parser(name, help=help)
        one.add_argument("features", type=Path, metavar="FEATURES", help="results/{dataset}/{backbone}")
        one.add_argument("out", type=Path, metavar="FOLDER")
        one.add_argument(
            "--every",
            type=float,
            metavar="SECONDS",
            help="one row per so many seconds: the mean of its rows (default: rows as sampled)",
        )
        if name == "webdataset":
            one.add_argument(
                "--videos-per-shard", type=int, default=1000, metavar="N", help="(default: %(default)s)"
            )
        _any_export_options(one)


def _backbones_options(part: argparse.ArgumentParser) -> None:
    part.add_argument(
        "word", nargs="?", metavar="WORD", help="a part of the name; without it, torchvision's models"
    )


def _controls_options(part: argparse.ArgumentParser) -> None:
    part.add_argument("features", type=Path, metavar="FEATURES", help="results/{dataset}/{backbone}")
    part.add_argument("out", type=Path, metavar="FOLDER")
    part.add_argument("--seed", type=int, default=0, metavar="N")
    kinds = ["zero", "row_shuffled", "cross_video_shuffled"]
    part.add_argument("--kinds", nargs="+", choices=kinds, default=kinds)


def _describe_options(part: argparse.ArgumentParser) -> None:
    part.add_argument("backbone", metavar="NAME")
    part.add_argument("--weights", metavar="NAME_OR_FILE")
    _of_key(part, "preprocess")


def _fetch_weights_options(part: argparse.ArgumentParser) -> None:
    part.add_argument("backbone", metavar="NAME")
    part.add_argument("--weights", metavar="NAME")
    part.add_argument("--to", required=True, metavar="FILE")


def _example_options(part: argparse.ArgumentParser) -> None:
    part.add_argument("--clips", type=Path, required=True, metavar="FOLDER")
    part.add_argument("--weights", type=Path, required=True, metavar="FOLDER")


def _proof_options(part: argparse.ArgumentParser) -> None:
    from framefeat.proof import run as proof_run

    proof_run.add_options(part)


class _Command(NamedTuple):
    help: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int | None]


_COMMANDS = {
    "merge": _Command("join and check the two indexes; write one slice per video", _merge_options, _merge),
    "sample": _Command("decode the frames of one video", _sample_options, _sample),
    "extract": _Command("embed the sampled frames of one video", _extract_options, _extract),
    "assemble": _Command("write the matrix, its index and its manifest", _assemble_options, _assemble),
    "verify": _Command("check finished results against the videos themselves", _verify_options, _verify),
    "report": _Command(
        "draw results/{dataset}/report.html, one page without a network", _report_options, _report
    ),
    "show": _Command("what came out, as a table in the terminal", _show_options, _show),
    "plan": _Command("which videos the next run will recompute, and why", _plan_options, _plan),
    "stale": _Command("list the files of videos that are no longer in the index", _stale_options, _stale),
    "export": _Command("the features in the layouts that people load", _export_options, _export),
    "export-h5": _Command("the HDF5 layout that summarisation code loads", _export_h5_options, _export_h5),
    "controls": _Command("zero and shuffled twins of a matrix", _controls_options, _controls),
    "backbones": _Command(
        "which backbones there are, their features and weights", _backbones_options, _backbones
    ),
    "describe": _Command(
        "what a backbone's name and weights stand for, as JSON", _describe_options, _describe
    ),
    "fetch-weights": _Command("put published weights into a file", _fetch_weights_options, _fetch_weights),
    "example": _Command(
        "put the example's clips and weights in place, out of their packages", _example_options, _example
    ),
    "proof": _Command("every row is its frame, over many codecs and containers", _proof_options, _proof),
}

_OLD_NAMES = {"export_h5": "export-h5"}


def _parse(arguments: Sequence[str]) -> tuple[str, argparse.Namespace]:
    """The subcommand and its options. Its parser alone is built: all of them are a tenth of an extraction client's time."""
    if arguments and arguments[0] in _OLD_NAMES:
        arguments = [_OLD_NAMES[arguments[0]], *arguments[1:]]
    if arguments and arguments[0] in _COMMANDS:
        name, *rest = arguments
        parser = argparse.ArgumentParser(prog=f"framefeat {name}")
        _COMMANDS[name].add_options(parser)
        return name, parser.parse_args(rest)
    parser = argparse.ArgumentParser(
        prog="framefeat",
        description="Videos and a frame index in; one row-aligned matrix of frozen-CNN frame features out. "
        "The workflow calls these stages; each can be used by hand.",
    )
    parser.add_argument("--version", action="version", version=f"framefeat {framefeat.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in _COMMANDS.items():
        command.add_options(commands.add_parser(name, help=command.help))
    options = parser.parse_args(arguments)
    return options.command, options


if __name__ == "__main__":
    sys.exit(main())
