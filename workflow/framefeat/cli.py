"""The ``framefeat`` command: one subcommand per stage, each usable by hand.

Nothing heavy is imported before a subcommand needs it: the extract subcommand is a client that starts in milliseconds.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

from framefeat.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand; returns its exit status (a user's mistake: 1, and one sentence on standard error)."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options) or 0)
    except UserError as error:
        print(f"framefeat {options.command}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader of our output is gone (`framefeat show | head`): not a failure, but nothing more can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _merge(options: argparse.Namespace) -> None:
    from framefeat import merge, settings

    config = {
        "dataset": "by-hand",
        "frame_index": options.frame_index,
        "video_index": options.video_index,
        "video_root": options.video_root,
        "videos": options.videos,
        "sample_fps": options.sample_fps,
        "alignment": options.alignment,
        "on_bad_frames": options.on_bad_frames,
    }
    merge.merge(settings.resolve(config), options.out, options.threads)


def _sample(options: argparse.Namespace) -> None:
    from framefeat import sampling
    from framefeat.files import read_json

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
        record["path"] = str(options.path)
    sampling.sample_video(
        record,
        geometry=options.geometry,
        alignment=options.alignment,
        decoder=options.decoder,
        on_bad_frames=options.on_bad_frames,
        frames_path=options.frames,
        recheck_path=options.recheck,
        thumbnails_path=options.thumbnails,
        evidence_path=options.evidence,
        timeout=options.timeout,
    )


def _extract(options: argparse.Namespace) -> None:
    from framefeat import extract

    extract.run(options)


def _assemble(options: argparse.Namespace) -> None:
    import json

    from framefeat import assemble

    assemble.assemble(
        options.results,
        options.geometry,
        json.loads(options.spec),
        dataset=options.dataset,
        alignment=options.alignment,
        decoder=options.decoder,
        on_bad_frames=options.on_bad_frames,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="framefeat",
        description="Videos and a frame index in; one row-aligned matrix of frozen-CNN frame features out. "
        "The workflow calls these stages; each can be used by hand.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    part = commands.add_parser("merge", help="join and check the two indexes; write one slice per video")
    part.add_argument("--frame-index", metavar="TABLE")
    part.add_argument("--video-index", metavar="TABLE")
    part.add_argument("--video-root", metavar="FOLDER")
    part.add_argument("--videos", metavar="FOLDER_OR_GLOB", help="instead of both indexes")
    part.add_argument("--sample-fps", type=float, default=2.0, metavar="N", help="with --videos (default: %(default)s)")
    part.add_argument("--alignment", choices=["index", "pts"], default="index")
    part.add_argument("--on-bad-frames", choices=["fail", "mask"], default="fail")
    part.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="results/{dataset}")
    part.add_argument("--threads", type=int, default=1, metavar="N")
    part.set_defaults(run=_merge)

    part = commands.add_parser("sample", help="decode the frames of one video")
    part.add_argument("--video", type=Path, required=True, metavar="JSON", help="the video's record written by merge")
    part.add_argument("--slice", type=Path, metavar="JSON", help="the slice that the record must agree with")
    part.add_argument("--path", type=Path, metavar="FILE", help="where the video is, if not where the record says")
    part.add_argument("--geometry", default="squash224", metavar="NAME", help="how frames are resized (default: %(default)s)")
    part.add_argument("--alignment", choices=["index", "pts"], default="index")
    part.add_argument("--decoder", choices=["auto", "decord", "pyav"], default="auto")
    part.add_argument("--on-bad-frames", choices=["fail", "mask"], default="fail")
    part.add_argument("--timeout", type=float, default=120.0, metavar="SECONDS", help="without a frame (default: %(default)s)")
    for name in ("frames", "recheck", "evidence", "thumbnails"):
        part.add_argument(f"--{name}", type=Path, required=True, metavar="FILE", help="output")
    part.set_defaults(run=_sample)

    part = commands.add_parser("extract", help="embed the sampled frames of one video")
    part.add_argument("--spec", required=True, metavar="JSON", help="the backbone, as printed by 'framefeat describe'")
    part.add_argument("--weights", required=True, metavar="FILE")
    part.add_argument("--weights-identity", default="", metavar="TEXT", help="what identifies the weights: their sha256, or a name")
    part.add_argument("--precision", choices=["float32", "bf16", "fp16"], default="float32")
    part.add_argument("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    part.add_argument("--gpus", type=int, default=1, metavar="N", help="GPUs this job may use; 0 means CPU")
    part.add_argument("--threads", type=int, default=1, metavar="N", help="on CPU: batches at a time")
    part.add_argument("--batch-size", default="auto", metavar="N", help="frames per forward pass (default: %(default)s)")
    part.add_argument("--frames", required=True, metavar="FILE")
    part.add_argument("--recheck", required=True, metavar="FILE")
    part.add_argument("--evidence", required=True, metavar="FILE")
    part.add_argument("--features", required=True, metavar="FILE", help="output")
    part.add_argument("--record", required=True, metavar="FILE", help="output")
    part.add_argument("--embedder", choices=["auto", "off"], default="auto", help="off: embed in this process")
    part.add_argument("--embedder-logs", default=None, metavar="FOLDER")
    part.set_defaults(run=_extract)

    part = commands.add_parser("assemble", help="write the matrix, its index and its manifest")
    part.add_argument("results", type=Path, metavar="RESULTS", help="results/{dataset}")
    part.add_argument("--geometry", default="squash224", metavar="NAME")
    part.add_argument("--spec", required=True, metavar="JSON")
    part.add_argument("--dataset", required=True, metavar="NAME")
    part.add_argument("--alignment", choices=["index", "pts"], default="index")
    part.add_argument("--decoder", choices=["auto", "decord", "pyav"], default="auto")
    part.add_argument("--on-bad-frames", choices=["fail", "mask"], default="fail")
    part.set_defaults(run=_assemble)
    return parser


if __name__ == "__main__":
    sys.exit(main())
