"""The ``framefeat`` command: one subcommand per stage, each usable by hand.

Nothing heavy is imported before a subcommand needs it: the extract subcommand is a client that starts in milliseconds.
"""

import argparse
import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import framefeat
from framefeat import environment, signals
from framefeat.errors import UserError, machine_trouble, path_trouble
from framefeat.needs import Wanted


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand; returns its exit status (a user's mistake: 1, and one sentence on standard error)."""
    # Importing makes thousands of objects that stay: looking for garbage among them is a twentieth of a short job.
    gc.set_threshold(100_000, 20, 100)
    command, options = _parse(sys.argv[1:] if arguments is None else arguments)
    try:
        with signals.polite_end():
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
        told = machine_trouble(error) or path_trouble(error)
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
    from framefeat.files import write_json
    from framefeat.index import merge, stamp
    from framefeat.layout import ResultsFolder

    config = {key: value for key, value in vars(options).items() if key in settings.KEYS}
    asked = settings.resolve(config | {"dataset": "by-hand"})
    merged = ResultsFolder(options.out).merged
    merged.unlink(missing_ok=True)
    merge.merge(asked, options.out, options.threads)
    if options.collection:
        write_json(merged, stamp.asked_of_merge(asked, options.collection))


def _sample(options: argparse.Namespace) -> None:
    from framefeat.layout import ResultsFolder
    from framefeat.sample import stage

    results = ResultsFolder(options.results)
    prewarm = cache(_prewarm)

    def before_each() -> None:
        prewarm()  # while the first video is decoded
        if options.backlog:
            from framefeat.extract import backlog

            backlog.wait_for_room(results.frames_ready(options.geometry, "any").parent, options.backlog)

    asked = stage.SampleShard(
        results,
        options.shard,
        options.geometry,
        Wanted.from_json(options.wanted),
        options.timeout,
        tuple(options.fetched),
        options.again,
        options.keep_frames,
    )
    stage.run(asked, before_each)


def _prewarm() -> None:
    """Let the run's embedder load what the first extraction will need."""
    if environment.PREWARM in os.environ:
        import json

        from framefeat.extract import stage

        stage.prewarm(json.loads(os.environ[environment.PREWARM]))


def _extract(options: argparse.Namespace) -> None:
    from framefeat.extract import stage
    from framefeat.layout import ResultsFolder

    computing = stage.Computing(
        options.weights,
        options.precision,
        options.device,
        options.gpus,
        options.batch_size,
        options.threads,
        options.embedder,
        options.embedder_logs,
    )
    asked = stage.ExtractShard(
        ResultsFolder(options.results),
        options.shard,
        options.backbone,
        Wanted.from_json(options.wanted),
        computing,
        options.keep_frames,
        options.again,
        options.timeout,
    )
    stage.run(asked)


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
        origin=json.loads(options.origin) if options.origin else None,
    )


def _fetch_weights(options: argparse.Namespace) -> None:
    from framefeat.backbone.fetch import fetch

    fetch(options.backbone, options.weights, options.to)


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

    run_plan.run(
        options.configfile,
        options.config,
        directory=options.directory,
        as_json=options.json,
        wanted_alone=options.wanted,
        section=options.section,
        prefix=options.prefix,
    )


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
        command=options.command_line,
    )


def _show(options: argparse.Namespace) -> None:
    from framefeat.report import show

    show.run(options.results, options.video)


def _proof(options: argparse.Namespace) -> int:
    from framefeat.proof import run as proof_run

    return proof_run.run_with(options)


def _count(text: str) -> int:
    """A number of things that are there: an argparse type."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def _count_or_auto(text: str) -> int | str:
    return text if text == "auto" else _count(text)


#: What options that stand for a key of the configuration say, and how they are read.
_KEYS: dict[str, dict[str, Any]] = {
    "alignment": {"help": "frame round(time * fps), or the frame presented nearest to the time"},
    "batch_size": {"type": _count_or_auto, "metavar": "N", "help": "frames per forward pass"},
    "decoder": {"help": "auto: decord where it agrees with PyAV"},
    "decoder_timeout": {
        "option": "--timeout",
        "type": float,
        "metavar": "SECONDS",
        "help": "without a frame",
    },
    "device": {"metavar": "DEVICE", "help": "auto, cpu, cuda or cuda:N"},
    "on_bad_frames": {"help": "rows without a frame: refuse, mark, or leave out their videos"},
    "precision": {"help": "of the forward pass"},
    "preprocess": {"help": "squash frames to 224 x 224, or as the weights were trained"},
    "shard_rows": {
        "type": _count_or_auto,
        "metavar": "N",
        "help": "of more than 64 videos: rows of a shard, about",
    },
    "sample_every": {"type": _count, "metavar": "K", "help": "instead of a rate: every K-th native frame"},
    "sample_fps": {"type": float, "metavar": "N", "help": "rows per second"},
}
#: Other options of several subcommands.
_SHARED: dict[str, dict[str, Any]] = {
    "--geometry": {
        "default": "squash224",
        "metavar": "NAME",
        "help": "how frames are resized (default: %(default)s)",
    },
    "--spec": {
        "required": True,
        "metavar": "JSON",
        "help": "the backbone, as printed by 'framefeat describe'",
    },
    "--weights-identity": {
        "required": True,
        "metavar": "TEXT",
        "help": "what identifies the weights: their sha256, or a name",
    },
    "--l2": {"action": "store_true", "help": "scale each feature row to length 1"},
    "--drop-bad": {"action": "store_true", "help": "leave out rows whose status is bad"},
    "--force": {"action": "store_true", "help": "replace files that framefeat did not write"},
}
_EXPORT = ("--l2", "--drop-bad", "--force")


def _of_keys(part: argparse._ActionsContainer, *keys: str) -> None:
    """Options that stand for keys of the configuration: they take the keys' choices and defaults."""
    from framefeat import settings

    for key in keys:
        more = dict(_KEYS[key])
        part.add_argument(
            more.pop("option", f"--{key.replace('_', '-')}"),
            choices=settings.choices(key) or None,
            default=settings.DEFAULTS[key],
            help=more.pop("help") + (" (default: %(default)s)" if settings.DEFAULTS[key] is not None else ""),
            **more,
        )


def _shared(part: argparse._ActionsContainer, *names: str) -> None:
    for name in names:
        part.add_argument(name, **_SHARED[name])


def _whole(text: str) -> int:
    """A number of things: an argparse type."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def _dataset(part: argparse.ArgumentParser, more: str = "") -> None:
    part.add_argument("results", type=Path, metavar="RESULTS", help=f"results/DATASET{more}")


def _features(part: argparse.ArgumentParser) -> None:
    part.add_argument("features", type=Path, metavar="FEATURES", help="results/DATASET/BACKBONE")


def _merge_options(part: argparse.ArgumentParser) -> None:
    tables = part.add_argument_group("two indexes")
    tables.add_argument("--frame-index", metavar="TABLE", help="video_id, timestamp_sec")
    tables.add_argument("--video-index", metavar="TABLE", help="video_id, video_path, fps")
    tables.add_argument("--video-root", metavar="FOLDER", help="where relative paths start")
    folder = part.add_argument_group("or a folder")
    folder.add_argument("--videos", metavar="FOLDER_OR_GLOB", help="instead of both indexes")
    _of_keys(folder, "sample_fps", "sample_every")
    _of_keys(part, "alignment", "on_bad_frames", "shard_rows")
    part.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="results/DATASET")
    part.add_argument("--collection", metavar="DIGEST", help="of tables and files, kept for the plan")
    part.add_argument(
        "--threads", type=_count, default=1, metavar="N", help="files read at a time (default: %(default)s)"
    )


def _shard_options(part: argparse.ArgumentParser) -> None:
    _dataset(part)
    part.add_argument("--shard", required=True, metavar="NAME", help="of those in RESULTS/shards")
    part.add_argument(
        "--wanted",
        required=True,
        metavar="JSON",
        help="all that the configuration asks of a video: 'framefeat plan --wanted' prints it",
    )


def _of_frames(part: argparse.ArgumentParser) -> None:
    part.add_argument("--again", action="store_true", help="also videos that are done already")
    part.add_argument(
        "--keep-frames", action="store_true", help="keep frames that no backbone needs any more"
    )


def _sample_options(part: argparse.ArgumentParser) -> None:
    _shard_options(part)
    _shared(part, "--geometry")
    _of_keys(part, "decoder_timeout")
    part.add_argument(
        "--fetched",
        type=Path,
        nargs="*",
        default=[],
        metavar="FILE",
        help="where the shard's remote videos are, in the order of their keys",
    )
    part.add_argument(
        "--backlog",
        type=_whole,
        default=0,
        metavar="N",
        help="wait while a device is at work and the frames of N shards lie on the disk",
    )
    _of_frames(part)


def _extract_options(part: argparse.ArgumentParser) -> None:
    _shard_options(part)
    part.add_argument("--backbone", required=True, metavar="FOLDER", help="its folder in RESULTS")
    part.add_argument("--weights", required=True, metavar="FILE")
    _of_keys(part, "precision")
    device = part.add_argument_group("where it runs")
    _of_keys(device, "device", "batch_size")
    device.add_argument(
        "--gpus", type=_whole, default=1, metavar="N", help="GPUs this job may use; 0 means CPU"
    )
    device.add_argument("--threads", type=_count, default=1, metavar="N", help="on CPU: batches at a time")
    device.add_argument(
        "--embedder", choices=["auto", "off"], default="auto", help="off: embed in this process"
    )
    device.add_argument("--embedder-logs", default="logs", metavar="FOLDER")
    _of_keys(part, "decoder_timeout")
    _of_frames(part)


def _assemble_options(part: argparse.ArgumentParser) -> None:
    _dataset(part)
    part.add_argument("--dataset", required=True, metavar="NAME")
    _shared(part, "--spec", "--weights-identity", "--geometry")
    _of_keys(part, "precision", "alignment", "decoder", "on_bad_frames")
    part.add_argument(
        "--origin",
        metavar="JSON",
        help="source, sampling and command, for the manifest (default: it does not say)",
    )


def _verify_options(part: argparse.ArgumentParser) -> None:
    _dataset(part, ", or one backbone's folder in it")
    part.add_argument(
        "--rows",
        type=_whole,
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
    _dataset(part)
    part.add_argument("--backbones", nargs="+", metavar="FOLDER", help="of them; default: all")
    part.add_argument(
        "--benchmarks", type=Path, metavar="FOLDER", help="benchmarks/DATASET, for the time per stage"
    )
    part.add_argument("--logs", type=Path, metavar="FOLDER", help="logs/DATASET")
    part.add_argument(
        "--command",
        dest="command_line",
        metavar="TEXT",
        help="what was typed to make these results (default: what the manifest says)",
    )
    part.add_argument("--out", type=Path, required=True, metavar="FILE")


def _show_options(part: argparse.ArgumentParser) -> None:
    _dataset(part, ", or one backbone's folder in it")
    part.add_argument("video", nargs="?", metavar="VIDEO", help="one video's rows")


class _Once(argparse.Action):
    """Of an option that is given twice Snakemake takes the last alone."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if getattr(namespace, self.dest):
            parser.error(f"{option_string} is given twice: name all its values after one {option_string}")
        setattr(namespace, self.dest, values)


def _plan_options(part: argparse.ArgumentParser) -> None:
    as_snakemake = part.add_argument_group("as for Snakemake")
    as_snakemake.add_argument(
        "--config",
        "-C",
        nargs="*",
        default=[],
        action=_Once,
        metavar="KEY=VALUE",
        help="laid over the configuration files",
    )
    as_snakemake.add_argument(
        "--configfile",
        "--configfiles",
        action=_Once,
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="laid over config/config.yaml",
    )
    as_snakemake.add_argument(
        "--directory", "-d", type=Path, metavar="FOLDER", help="where the results lie (default: here)"
    )
    of_module = part.add_argument_group("for a module of another workflow")
    of_module.add_argument("--section", metavar="NAME", help="the part of the configuration that it gets")
    of_module.add_argument(
        "--prefix",
        type=Path,
        default=Path(),
        metavar="FOLDER",
        help="its prefix, below which its results lie",
    )
    part.add_argument("--json", action="store_true", help="print JSON instead of sentences")
    part.add_argument(
        "--wanted",
        action="store_true",
        help="print what the configuration asks of each video, for --wanted elsewhere",
    )


def _stale_options(part: argparse.ArgumentParser) -> None:
    _dataset(part)
    part.add_argument("--delete", action="store_true", help="delete them")


def _export_h5_options(part: argparse.ArgumentParser) -> None:
    _features(part)
    part.add_argument("out", type=Path, metavar="OUT.h5")
    labels = part.add_argument_group("shots and labels")
    labels.add_argument(
        "--annotations",
        type=Path,
        metavar="FILE",
        help="TVSum's ydata-tvsum50.mat or -anno.tsv, or SumMe's folder GT",
    )
    labels.add_argument(
        "--labels-from",
        type=Path,
        metavar="OTHER.h5",
        help="take user_summary, gtscore and change_points from another file, by video",
    )
    labels.add_argument(
        "--segments-from",
        type=Path,
        metavar="OTHER.h5",
        help="take change_points from another file, by video",
    )
    labels.add_argument(
        "--vmax",
        type=float,
        default=1.0,
        metavar="X",
        help="penalty of the segmentation (default: %(default)s)",
    )
    _shared(part, *_EXPORT)


def _export_options(part: argparse.ArgumentParser) -> None:
    formats = part.add_subparsers(dest="format", required=True, metavar="FORMAT")
    _export_h5_options(_format(formats, "h5", "one HDF5 file, as summarisers load it"))
    for name, help in (
        ("npy", "per video VIDEO_BACKBONE.npy, VIDEO_fps.npy and VIDEO_timestamps_ms.npy"),
        ("npz", "per video VIDEO.npz with features and timestamps, as moment-retrieval loaders read it"),
        ("webdataset", "tar shards for the webdataset library, one sample per video"),
    ):
        one = _format(formats, name, help)
        _features(one)
        one.add_argument("out", type=Path, metavar="FOLDER")
        one.add_argument(
            "--every",
            type=float,
            metavar="SECONDS",
            help="one row per so many seconds: the mean of its rows (default: rows as sampled)",
        )
        one.set_defaults(videos_per_shard=1000)
        if name == "webdataset":
            one.add_argument(
                "--videos-per-shard", type=_count, default=1000, metavar="N", help="(default: %(default)s)"
            )
        _shared(one, *_EXPORT)


def _format(formats: Any, name: str, help: str) -> argparse.ArgumentParser:
    out = "mine.h5" if name == "h5" else f"mine-{name}"
    return formats.add_parser(
        name,
        help=help,
        description=_sentence(help),
        epilog=f"example:\n  framefeat export {name} results/mine/resnet50 {out}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _backbones_options(part: argparse.ArgumentParser) -> None:
    part.add_argument(
        "word", nargs="?", metavar="WORD", help="a part of the name; without it, torchvision's models"
    )


def _controls_options(part: argparse.ArgumentParser) -> None:
    _features(part)
    part.add_argument("out", type=Path, metavar="FOLDER")
    part.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the shuffling (default: %(default)s)"
    )
    kinds = ["zero", "row_shuffled", "cross_video_shuffled"]
    part.add_argument("--kinds", nargs="+", choices=kinds, default=kinds, help="(default: all)")


def _describe_options(part: argparse.ArgumentParser) -> None:
    part.add_argument("backbone", metavar="NAME")
    part.add_argument("--weights", metavar="NAME_OR_FILE")
    _of_keys(part, "preprocess")


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
    """``help``: one sentence, begun small and without its full stop; ``example``: what follows the name."""

    help: str
    example: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int | None]


_FOR_PEOPLE = {
    "show": _Command(
        "show what came out of a run as a table in the terminal", "results/example", _show_options, _show
    ),
    "plan": _Command(
        "list the videos that the next run recomputes, and why",
        "--config dataset=mine videos=films/",
        _plan_options,
        _plan,
    ),
    "verify": _Command(
        "check finished results against the videos themselves",
        "results/example --rows 8",
        _verify_options,
        _verify,
    ),
    "report": _Command(
        "draw results/DATASET/report.html, one page without a network",
        "results/example --out report.html",
        _report_options,
        _report,
    ),
    "export": _Command(
        "write the features in a layout that others' loaders read",
        "npz results/example/mobilenet_v3_large features/",
        _export_options,
        _export,
    ),
    "export-h5": _Command(
        "write the HDF5 file that video summarisers load",
        "results/tvsum/mobilenet_v3_large tvsum.h5 --annotations ydata-tvsum50.mat",
        _export_h5_options,
        _export_h5,
    ),
    "controls": _Command(
        "write zero and shuffled twins of a matrix",
        "results/example/mobilenet_v3_large results/controls --seed 1",
        _controls_options,
        _controls,
    ),
    "backbones": _Command(
        "list backbones with the size of their features and their weights",
        "dinov2",
        _backbones_options,
        _backbones,
    ),
    "describe": _Command(
        "print what a backbone's name and weights stand for, as JSON",
        "resnet50 --weights IMAGENET1K_V2",
        _describe_options,
        _describe,
    ),
    "stale": _Command(
        "list or delete the files of videos that are no longer in the index",
        "results/example",
        _stale_options,
        _stale,
    ),
    "example": _Command(
        "take the example's clips and weights out of their packages",
        "--clips resources/example --weights resources/weights",
        _example_options,
        _example,
    ),
    "proof": _Command(
        "prove over many codecs and containers that every row is its frame",
        "--only vfr",
        _proof_options,
        _proof,
    ),
}
_FOR_RULES = {
    "merge": _Command(
        "join and check the two indexes, and deal the videos into shards",
        "--videos films/ --out results/mine",
        _merge_options,
        _merge,
    ),
    "fetch-weights": _Command(
        "put published weights into a file",
        "resnet50 --weights IMAGENET1K_V2 --to resnet50.pth",
        _fetch_weights_options,
        _fetch_weights,
    ),
    "sample": _Command(
        "decode the frames of a shard's videos, as far as they are needed",
        'results/mine --shard a --wanted "$(framefeat plan --wanted)"',
        _sample_options,
        _sample,
    ),
    "extract": _Command(
        "embed the sampled frames of a shard's videos",
        'results/mine --shard a --wanted "$(framefeat plan --wanted)" --backbone resnet50 --weights resnet50.pth',
        _extract_options,
        _extract,
    ),
    "assemble": _Command(
        "write the matrix, its index and its manifest",
        'results/mine --dataset mine --spec "$(framefeat describe resnet50)" --weights-identity IMAGENET1K_V2',
        _assemble_options,
        _assemble,
    ),
}
_COMMANDS = _FOR_PEOPLE | _FOR_RULES

_OLD_NAMES = {"export_h5": "export-h5"}


def _parse(arguments: Sequence[str]) -> tuple[str, argparse.Namespace]:
    """The subcommand and its options. Its parser alone is built: all of them are a tenth of an extraction client's
    time."""
    name, *rest = arguments or [""]
    name = _OLD_NAMES.get(name, name)
    if name not in _COMMANDS:
        _overview(arguments)
    command = _COMMANDS[name]
    parser = argparse.ArgumentParser(
        prog=f"framefeat {name}",
        description=_sentence(command.help),
        epilog=f"example:\n  framefeat {name} {command.example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_options(parser)
    options, unknown = parser.parse_known_args(rest)
    if len(unknown) == 1 and getattr(options, "video", "") is None:
        options.video = unknown[0]  # ids may begin with -
    elif unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return name, options


def _overview(arguments: Sequence[str]) -> NoReturn:
    """Help, the version, or what is wrong with the subcommand's name."""
    parts = []
    for heading, commands in (("commands", _FOR_PEOPLE), ("what the workflow's rules call", _FOR_RULES)):
        parts += [f"{heading}:", *(f"  {name:15}{command.help}" for name, command in commands.items()), ""]
    parser = argparse.ArgumentParser(
        prog="framefeat",
        usage="framefeat [-h] [--version] COMMAND ...",
        description="Videos and a frame index in; one row-aligned matrix of frozen-CNN frame features out.",
        epilog="\n".join([*parts, "'framefeat COMMAND --help' tells more of each."]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"framefeat {framefeat.__version__}")
    parser.add_argument("command", metavar="COMMAND", choices=list(_COMMANDS), help=argparse.SUPPRESS)
    if not arguments:
        parser.exit(2, parser.format_help())
    parser.parse_args(arguments)
    parser.error("the subcommand's name comes first")


def _sentence(help: str) -> str:
    return f"{help[0].upper()}{help[1:]}."


if __name__ == "__main__":
    sys.exit(main())
