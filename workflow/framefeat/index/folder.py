"""What of a folder or a glob is a video, and what is left out and why.

The name tells it for most files; where it does not, the content does (``why_no_video``). Links are followed, each real
folder is visited once, and nothing but a regular file is ever opened: a named pipe would wait forever.
"""

import fnmatch
import glob
import os
import stat
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from framefeat.errors import UserError
from framefeat.files import read_json
from framefeat.layout import LEFT_OUT, ResultsFolder
from framefeat.words import many

#: A file with one of these suffixes counts as a video. If it is damaged, it is a damaged video.
VIDEO_SUFFIXES = frozenset(
    ".264 .265 .266 .3g2 .3gp .amv .apng .asf .avc .avi .av1 .bik .dav .dif .divx .dv .f4v .flv .gif .h261 .h263 .h264"
    " .h265 .h266 .hevc .ismv .ivf .m1v .m2t .m2ts .m2v .m4v .mj2 .mjpeg .mjpg .mk3d .mkv .mov .mp4 .mpe .mpeg .mpg"
    " .mpv .mts .mxf .nsv .nut .obu .ogm .ogv .qt .rm .rmvb .ts .vc1 .vivo .vob .vvc .webm .wmv .wtv .y4m".split()
)
#: Those of them that source code has too: such a file is no video if it holds text.
_ALSO_TEXT = frozenset({".ts", ".mts"})
TEXT = "text and data"
_STILL, _SOUND, _UNFINISHED = "still images", "sound", "unfinished downloads"
#: Suffixes of files that are something else. They are counted and not looked at.
_OTHER_SUFFIXES = {
    suffix: kind
    for kind, suffixes in {
        _STILL: ".avif .bmp .cr2 .dng .exr .heic .heif .ico .j2k .jp2 .jpeg .jpg .jxl .nef .pbm .pgm .png .pnm .ppm .psd"
        " .svg .tga .tif .tiff .webp",
        _SOUND: ".aac .ac3 .aif .aiff .alac .amr .ape .dts .eac3 .flac .m4a .m4b .mid .midi .mka .mp2 .mp3 .oga .opus .wav"
        " .wma",
        TEXT: ".7z .ass .bz2 .cfg .conf .cpp .css .csv .db .doc .docx .gz .h .h5 .hdf5 .htm .html .idx .ini .ipynb .js"
        " .json .jsonl .log .lrc .m .m3u .m3u8 .mat .md .mpd .nfo .npy .npz .odt .onnx .parquet .pdf .pkl .pt .pth .py"
        " .pyc .r .rar .rst .rtf .safetensors .sbv .sdp .sh .smk .sql .sqlite .srt .ssa .sub .sup .tar .tex .toml .tsv"
        " .ttml .txt .url .vtt .xls .xlsx .xml .xz .yaml .yml .zip .zst",
        _UNFINISHED: ".aria2 .crdownload .download .part .partial .tmp .ytdl",
    }.items()
    for suffix in suffixes.split()
}
_HIDDEN, _FOLDERS = "hidden", "folders"
_EXAMPLES = 3
_STILL_FORMATS = frozenset({"ico", "image2", "image2pipe", "tty"})
_HEAD_BYTES = 4096
_LOOKED_AT_PACKETS = 300
#: Control characters that text has: tab, line feed, form feed, carriage return, escape and backspace.
_TEXT_CONTROLS = frozenset(b"\t\n\f\r\x1b\b")

FILE, DANGLING, FOLDER = "a file", "a link to nothing", "a folder"
_KINDS = {
    stat.S_IFREG: FILE,
    stat.S_IFDIR: FOLDER,
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}
_REPORT_SCHEMA = 1


@dataclass(frozen=True)
class LeftOut:
    """A file or folder that is not taken, and why (``reason`` follows its name in a sentence)."""

    path: str
    reason: str


@dataclass
class Listing:
    """``videos`` by their names; ``unsure``: whose content must tell. ``counts``: by kind, what needs no naming;
    ``examples``: the first names of each kind that a person may have meant."""

    videos: list[str] = field(default_factory=list)
    unsure: list[str] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, path: str, kind: str) -> None:
        suffix = os.path.splitext(path)[1].lower()
        if suffix in _OTHER_SUFFIXES:
            kind_told = f"{_OTHER_SUFFIXES[suffix]} ({suffix})"
            self.counts[kind_told] += 1
            if _OTHER_SUFFIXES[suffix] in (_STILL, _SOUND, _UNFINISHED):
                named = self.examples.setdefault(kind_told, [])
                if len(named) < _EXAMPLES:
                    named.append(_text(os.path.basename(path)))
        elif kind in (FILE, DANGLING) and suffix in VIDEO_SUFFIXES - _ALSO_TEXT:
            self.videos.append(os.path.abspath(path))  # a link to nothing stands for a video that is missed
        elif kind == FILE:
            self.unsure.append(os.path.abspath(path))
        else:
            self.left_out.append(LeftOut(path, f"it is {kind}"))


def kind_of(path: str | os.PathLike[str]) -> str:
    """What lies there (a link counts for what it leads to): ``FILE``, ``FOLDER``, ``DANGLING`` or other words."""
    try:
        return _KINDS.get(stat.S_IFMT(os.stat(path).st_mode), "no file")
    except FileNotFoundError:
        return DANGLING if os.path.islink(path) else "not there"
    except (OSError, ValueError) as error:
        return f"not to be looked at ({getattr(error, 'strerror', None) or error})"


def listing(pattern: str) -> Listing:
    """What a folder (searched recursively), one file, or a glob holds. A path that exists is never read as a glob."""
    found = Listing()
    kind = kind_of(pattern)
    if kind == FOLDER:
        for path, what in files_below(pattern, found):
            found.add(path, what)
    elif kind in (FILE, DANGLING):
        found.videos.append(os.path.abspath(pattern))  # named by the user: taken whatever its suffix
    elif os.path.lexists(pattern):
        raise UserError(f"videos: {pattern!r} is {kind}; name a folder, a glob or a file that holds videos.")
    else:
        for path in _each_once(_matches(pattern, found)):
            what = kind_of(path)
            if what == FOLDER:
                found.counts[_FOLDERS] += 1
            else:
                found.add(path, what)
    return found


def files_below(top: str, found: Listing) -> Iterator[tuple[str, str]]:
    """Path and kind of everything below a folder that is no folder, real folders before linked ones.

    What is hidden is counted in ``found``; a folder that may not be read is told there.
    """
    seen: set[tuple[int, int]] = set()
    folders, linked = deque([top]), deque[str]()
    while folders or linked:
        folder = folders.popleft() if folders else linked.popleft()
        try:
            identity = os.stat(folder)
            if (identity.st_dev, identity.st_ino) in seen:
                continue
            seen.add((identity.st_dev, identity.st_ino))
            with os.scandir(folder) as entries:
                ordered = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            found.left_out.append(LeftOut(folder, f"this folder cannot be read ({error.strerror})"))
            continue
        for entry in ordered:
            if entry.name.startswith("."):
                found.counts[_HIDDEN] += 1
                continue
            kind = _entry_kind(entry)
            if kind == FOLDER:
                (linked if entry.is_symlink() else folders).append(entry.path)
            else:
                yield entry.path, kind


def _entry_kind(entry: os.DirEntry[str]) -> str:
    """As ``kind_of``, without a look at the disk where the folder's own entry tells it."""
    if not entry.is_symlink():
        if entry.is_file(follow_symlinks=False):
            return FILE
        if entry.is_dir(follow_symlinks=False):
            return FOLDER
    return kind_of(entry.path)


def _matches(pattern: str, found: Listing) -> Iterator[str]:
    """The glob's paths. ``**`` is not left to ``glob``, which follows a link to a parent folder forty times."""
    head, stars, tail = pattern.partition("**")
    if not stars or (head and not head.endswith("/")) or (tail and not tail.startswith("/")):
        yield from glob.iglob(pattern)
        return
    wanted = ["**", *(part for part in tail.split("/") if part)]
    for base in sorted(glob.glob(head)) if head else ["."]:
        for path, _ in files_below(base, found):
            below = os.path.relpath(path, base)
            if _fits(below.split("/"), wanted):
                yield os.path.join(base, below) if head else below


def _fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_fits(parts[start:], pattern[1:]) for start in range(len(parts) + 1))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])


def _each_once(paths: Iterable[str]) -> Iterator[str]:
    """Of several ways through linked folders to one entry the one without a link, or the first by name."""
    real: dict[str, str] = {}

    def real_folder(path: str) -> str:
        folder = os.path.dirname(path) or "."
        if folder not in real:
            real[folder] = os.path.realpath(folder)
        return real[folder]

    def linked(path: str) -> bool:
        return real_folder(path) != os.path.abspath(os.path.dirname(path) or ".")

    seen: set[tuple[str, str]] = set()
    for path in sorted(paths, key=lambda path: (linked(path), path)):
        entry = (real_folder(path), os.path.basename(path))
        if entry not in seen:
            seen.add(entry)
            yield path


def video_id(path: str) -> str:
    r"""The file's name without the suffix. Bytes that are not UTF-8 become ``\xNN``, so that the id is text."""
    return _text(Path(path).stem)


def why_no_video(path: str) -> str | None:
    """Why a file whose name does not tell is no video, by its content; None where it is one. May raise ``OSError``."""
    with open(path, "rb") as stream:
        head = stream.read(_HEAD_BYTES)
    if os.path.splitext(path)[1].lower() in VIDEO_SUFFIXES:
        return TEXT if head and _is_text(head) else None
    if not head:
        return "it is empty"
    # FFmpeg draws text as video, and opens the files and addresses that a playlist names.
    return TEXT if _is_text(head) else _why_no_video_to_ffmpeg(path)


def _is_text(head: bytes) -> bool:
    controls = {byte for byte in head if byte < 32}
    return controls <= _TEXT_CONTROLS and not head.startswith(b"YUV4MPEG2 ")


def _why_no_video_to_ffmpeg(path: str) -> str | None:
    import av
    from av.stream import Disposition

    try:
        with av.open(path, metadata_errors="replace") as source:
            if source.format.name.endswith("_pipe") or source.format.name in _STILL_FORMATS:
                return "it is a still image"
            streams = [s for s in source.streams.video if not s.disposition & Disposition.attached_pic]
            if not streams:
                kinds = sorted({stream.type for stream in source.streams if stream.type != "video"})
                return f"there is no video in it ({', '.join(kinds) or 'nothing'} only)"
            for number, packet in enumerate(source.demux(streams[0])):
                if packet.decode():
                    return None
                if number == _LOOKED_AT_PACKETS:
                    break
            return "no frame of it can be decoded"
    except av.FFmpegError as error:
        return f"FFmpeg finds no video in it ({error.strerror or error})"


def report(found: Listing, dropped: Mapping[str, LeftOut], unread: Sequence[LeftOut]) -> dict[str, Any]:
    """Everything that was found and is not in the index, as JSON.

    ``dropped``: by id, files without a video (``on_bad_frames: drop``). ``unread``: files that could not be read at
    this time; each next run looks at them again.
    """
    return {
        "schema": _REPORT_SCHEMA,
        "dropped": [{"video_id": name, **_told(file)} for name, file in dropped.items()],
        "files": [_told(file) for file in found.left_out],
        "counts": dict(sorted(found.counts.items())),
        "examples": found.examples,
        "unread": [_told(file) for file in unread],
    }


def _told(file: LeftOut) -> dict[str, str]:
    """For people: the path as text whatever its bytes, and not once more at the reason's beginning."""
    return {
        "path": _text(file.path),
        "reason": _text(file.reason.removeprefix(f"{file.path!r}: ")),
    }


def _text(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def unread_since(results: Path) -> int | None:
    """When (nanoseconds) the last merge met files that could not be read; None where it met none."""
    try:
        return ResultsFolder(results).left_out.stat().st_mtime_ns if unread_files(results) else None
    except OSError:
        return None


def unread_files(results: Path) -> list[str]:
    """The files, as text, that the last merge could not read."""
    try:
        return [str(file["path"]) for file in read_json(ResultsFolder(results).left_out)["unread"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def sentences(report: Mapping[str, Any], most: int = 20) -> Iterator[str]:
    """What was left out, for a person: the dropped videos, then files by name (``most`` of each), then counts."""
    dropped, files, counts = report["dropped"], report["files"], report["counts"]
    if dropped:
        yield f"{many(len(dropped), 'file')} without a video, left out (on_bad_frames: drop):"
        yield from _named([f"{entry['video_id']!r}: {entry['reason']}" for entry in dropped], most)
    if files:
        yield f"left out, files and folders ({len(files)}):"
        yield from _named([f"{entry['path']!r}: {entry['reason']}" for entry in files], most)
    if counts:
        yield f"ignored, being no videos: {counted(counts, report['examples'])}"


def counted(counts: Mapping[str, int], examples: Mapping[str, Sequence[str]]) -> str:
    """``3 sound (.m4a: a.m4a, b.m4a, c.m4a), 2 hidden``."""
    return ", ".join(
        f"{count} {kind.removesuffix(')')}: {', '.join(examples[kind])})"
        if examples.get(kind)
        else f"{count} {kind}"
        for kind, count in counts.items()
    )


def _named(lines: Sequence[str], most: int) -> Iterator[str]:
    yield from (f"  {line}" for line in lines[:most])
    if len(lines) > most:
        yield f"  ... and {len(lines) - most} more; {LEFT_OUT} has them all"
