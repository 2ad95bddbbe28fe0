"""Numbered clips that no careful muxer writes and that people have all the same: clocks that lie or go back, key
flags that are none, parameters that change on the way.

What is right is what a decode of everything in order gives, the container's discards honoured. Where that is known
before the clip is written it is told here; where it is not (damage), it has to be decoded.
"""

import io
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from framefeat.proof import boxes, numbered
from framefeat.proof.numbered import Clip, Recipe, draw_number
from framefeat.proof.raw_h264 import Stream, fields_of

RATE = Fraction(25)
#: Numbers of a second recording begin here, so that no frame of it is taken for one of the first.
SECOND = 1000


@dataclass(frozen=True)
class Known:
    """``numbers`` of the presented frames (None: only decoding tells) and their ``times`` in seconds (None: at a
    constant rate, by the file's own account of it)."""

    numbers: Sequence[int] | None = None
    times: Sequence[Fraction] | None = None


@dataclass(frozen=True)
class OddClip:
    """``build(folder, path)`` writes the clip and tells the truth about it.

    ``unusable``: a finding is right as well. ``damaged``: rows may be lost. ``cropped``: a warning that a crop is not
    applied is right as well.
    """

    name: str
    suffix: str
    build: Callable[[Path, Path], Known]
    rate: Fraction = RATE
    unusable: bool = False
    damaged: bool = False
    cropped: bool = False

    @property
    def file(self) -> str:
        return self.name + self.suffix


def make(odd: OddClip, folder: Path) -> tuple[Clip, Known]:
    """Write the clip into ``folder``; ``numbers`` and ``times`` of the clip are empty where the truth does not have
    them."""
    path = folder / odd.file
    work = folder / f".{odd.name}{odd.suffix}-parts"
    work.mkdir(exist_ok=True)
    temporary = work / odd.file
    truth = odd.build(work, temporary)
    temporary.rename(path)
    for part in work.iterdir():
        part.unlink()
    work.rmdir()
    recipe = Recipe(odd.name, odd.suffix, rate=odd.rate)
    return Clip(recipe, path, tuple(truth.numbers or ()), tuple(truth.times or ())), truth


# --- packets


@dataclass(frozen=True)
class Sample:
    """One packet; ``pts`` and ``dts`` in units of ``Samples.time_base``."""

    data: bytes
    pts: int
    dts: int
    key: bool
    duration: int
    packet: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Samples:
    time_base: Fraction
    samples: list[Sample]


def read(path: Path, options: dict[str, str] | None = None) -> Samples:
    import av

    with av.open(str(path), options=options or {}) as source:
        stream = source.streams.video[0]
        found = [
            Sample(
                bytes(packet),
                _known(packet.pts),
                _known(packet.dts),
                packet.is_keyframe,
                packet.duration or 0,
                packet,
            )
            for packet in source.demux(stream)
            if packet.size
        ]
        return Samples(Fraction(stream.time_base or 1), found)


def _known(value: int | None) -> int:
    return -(2**62) if value is None else value


def write(
    path: Path, like: Path | io.BytesIO, samples: Samples, options: dict[str, str] | None = None, **more: Any
) -> None:
    """Packets into a container; the stream's parameters are those of the clip ``like``. ``more``: extradata, the
    stream's time base, and the input format of ``like``."""
    import av

    source = str(like) if isinstance(like, Path) else like
    with (
        av.open(source, format=more.get("format")) as model,
        av.open(str(path), "w", options=options or {}) as output,
    ):
        stream: Any = output.add_stream_from_template(model.streams.video[0])
        if "time_base" in more:
            stream.time_base = more["time_base"]
        if "extradata" in more:
            stream.codec_context.extradata = more["extradata"]
        for sample in samples.samples:
            packet: Any = av.Packet(sample.data)
            if sample.packet is not None:
                for side in sample.packet.iter_sidedata():
                    packet.set_sidedata(side)
            packet.pts, packet.dts, packet.duration = sample.pts, sample.dts, sample.duration
            packet.time_base = samples.time_base
            packet.is_keyframe, packet.stream = sample.key, stream
            output.mux(packet)


def steady(count: int, suffix: str, rate: Fraction = RATE) -> list[Fraction]:
    """Times of a constant rate, rounded as the container keeps them."""
    clock = numbered._CLOCKS.get(suffix)
    return [numbered._round_to(Fraction(k) / rate, clock) for k in range(count)]


def _base(folder: Path, recipe: Recipe) -> Path:
    return numbered.make(recipe, folder).path


# --- clocks

#: Widths that are multiples of 64: decord does not serve others of this size.
SMALL = (64, 128)
H264_B = Recipe("b", ".mp4", frames=60, size=SMALL, options=numbered._b_frames(g="12"))
H264_PYRAMID = Recipe("pyramid", ".mp4", frames=60, size=SMALL, options={**numbered._PYRAMID, "g": "20"})
H264_PLAIN = Recipe("plain", ".mp4", frames=60, size=SMALL, options=numbered._x264(g="12"))
HEVC_B = Recipe("hevc", ".mp4", encoder="libx265", frames=60, options=numbered._X265)
_X265_OPEN = "log-level=none:keyint=48:bframes=3:open-gop=1:pools=1:frame-threads=1"
ASP_B = Recipe("asp", ".mp4", encoder="mpeg4", frames=60, size=SMALL, options={**numbered._MPEG4, "bf": "2"})
MPEG2_B = Recipe(
    "mpeg2", ".mpg", encoder="mpeg2video", frames=60, size=SMALL, options={**numbered._MPEG4, "bf": "2"}
)


def pts_is_dts(
    folder: Path, path: Path, base: Recipe = H264_B, since: int = 0, from_zero: bool = True
) -> Known:
    """Presentation times equal to decoding times, from packet ``since`` on, though the pictures are reordered.

    Not ``from_zero``: the first of them are negative, and the container hides their packets.
    """
    whole = _base(folder, base)
    packets = read(whole)
    begin = packets.samples[0].dts if from_zero else 0
    changed = [
        replace(
            sample, dts=sample.dts - begin, pts=sample.dts - begin if place >= since else sample.pts - begin
        )
        for place, sample in enumerate(packets.samples)
    ]
    write(path, whole, Samples(packets.time_base, changed))
    return Known(range(base.frames) if from_zero else None)


def generated_times(folder: Path, path: Path, base: Recipe) -> Known:
    """A copy of a file without presentation times for which FFmpeg made some up (``-fflags +genpts -c copy``)."""
    whole = _base(folder, base)
    packets = read(whole, {"fflags": "+genpts"})
    unknown = _known(None)
    changed = [replace(s, pts=s.dts if s.pts == unknown else s.pts) for s in packets.samples]
    write(path, whole, Samples(packets.time_base, changed))
    return Known(range(base.frames))


def vfw_asp(folder: Path, path: Path) -> Known:
    """MPEG-4 ASP as AVI tools put it into Matroska: the codec is told by a Windows header, a block's time is that
    of decoding."""
    import av

    whole = _base(folder, ASP_B)
    packets = read(whole)
    with av.open(str(whole)) as source:
        headers = bytes(source.streams.video[0].codec_context.extradata or b"")
    height, width = ASP_B.size
    windows = struct.pack(
        "<IiiHH4sIiiII", 40 + len(headers), width, height, 1, 24, b"XVID", width * height * 3, 0, 0, 0, 0
    )
    by_decoding = [replace(sample, pts=sample.dts) for sample in packets.samples]
    write(path, whole, Samples(packets.time_base, by_decoding), extradata=windows + headers)
    data = path.read_bytes()
    assert data.count(b"V_MPEG4/ISO/ASP") == 1
    path.write_bytes(data.replace(b"V_MPEG4/ISO/ASP", b"V_MS/VFW/FOURCC"))
    return Known(range(ASP_B.frames))


def packed_asp(folder: Path, path: Path) -> Known:
    """MPEG-4 with "packed" B-frames in AVI: a picture and the B-frame after it in one chunk, then a chunk that says
    "no picture"."""
    base = replace(ASP_B, options={**numbered._MPEG4, "bf": "1", "b_strategy": "0", "b_sensitivity": "1"})
    whole = _base(folder, base)
    packets = read(whole)
    chunks: list[bytes] = []
    waiting = [sample.data for sample in packets.samples]
    while waiting:
        chunk = waiting.pop(0)
        if waiting and _is_b_picture(waiting[0]):
            chunks += [chunk + waiting.pop(0), _NO_PICTURE]
        else:
            chunks.append(chunk)
    if not chunks[0].startswith(b"\x00\x00\x01\xb2"):
        chunks[0] = b"\x00\x00\x01\xb2DivX503b1393p" + chunks[0]
    step = int(1 / RATE / packets.time_base)
    laid = [Sample(data, k * step, k * step, k == 0, step) for k, data in enumerate(chunks)]
    write(path, whole, Samples(packets.time_base, laid), time_base=1 / RATE)
    return Known(range(base.frames))


_NO_PICTURE = b"\x00\x00\x01\xb6\x50\x80\x7f"[:6]


def _is_b_picture(data: bytes) -> bool:
    return data[data.index(b"\x00\x00\x01\xb6") + 4] >> 6 == 2


def joined(
    folder: Path,
    path: Path,
    base: Recipe = H264_B,
    starts: Sequence[Fraction | int] = (0, 0),
    skip: int = 0,
    second: Recipe | None = None,
    container_options: Any = None,
    known: bool = True,
) -> Known:
    """Recordings joined with ``cat``: each begins at its own clock time. ``skip``: bytes left out of the later
    ones' beginning."""
    parts: list[bytes] = []
    numbers: list[int] = []
    for place, start in enumerate(starts):
        recipe = replace(
            second if place and second else base,
            name=f"part{place}",
            suffix=path.suffix,
            offset=Fraction(start),
            first=SECOND * place,
            container_options=container_options or {},
        )
        data = _base(folder, recipe).read_bytes()
        parts.append(data[skip:] if place else data)
        numbers += range(SECOND * place, SECOND * place + base.frames)
    path.write_bytes(b"".join(parts))
    return Known(numbers if known else None)


def wrapping(folder: Path, path: Path) -> Known:
    """A transport stream whose 33-bit clock starts anew in mid file."""
    base = replace(H264_B, suffix=".ts", offset=Fraction(2**33, 90000) - 2)
    path.write_bytes(_base(folder, base).read_bytes())
    return Known(range(base.frames), steady(base.frames, ".ts"))


def same_times(folder: Path, path: Path) -> Known:
    """Five frames of a sample table last no time: they share one time, and each is shown."""
    data = _base(folder, H264_PLAIN).read_bytes()
    path.write_bytes(boxes.edit(data, (*boxes.VIDEO, "stts"), boxes.same_time(20, 5)))
    return Known(range(H264_PLAIN.frames))


# --- fields and the decoder's delay


def _raw(path: Path, units: Sequence[bytes], pts: Sequence[int], keys: Iterable[int], rate: Fraction) -> None:
    """Access units of raw H.264 into a container; decoding times are in order and end before the presentation times
    do."""
    key_places = set(keys)
    late = max(k - at for k, at in enumerate(pts))
    step = 1000
    laid = [
        Sample(data, pts[k] * step, (k - late) * step, k in key_places, step) for k, data in enumerate(units)
    ]
    write(path, io.BytesIO(b"".join(units)), Samples(1 / rate / step, laid), format="h264")


def field_pictures(folder: Path, path: Path, frames: int = 40, group: int = 10) -> Known:
    """H.264 coded as fields, each a packet of its own."""
    stream = Stream(64, 64, fields=True)
    units: list[bytes] = []
    for number in range(frames):
        place = number % group
        first, second = fields_of(stream, draw_number(number, 64, 64), place, place, place == 0)
        units += [(stream.sps() + stream.pps() if place == 0 else b"") + first, second]
    _raw(path, units, range(len(units)), range(0, len(units), 2 * group), 2 * RATE)
    return Known(range(frames), steady(frames, path.suffix))


_REORDERED = (0, 4, 2, 1, 3)


def fields_amid(folder: Path, path: Path, frames: int = 640, fields: range = range(300, 340)) -> Known:
    """A long recording of frames, a few of which are coded as fields, each a packet of its own."""
    stream = Stream(64, 128, fields=True)
    units: list[bytes] = []
    keys: list[int] = []
    begins: list[int] = []
    for number in range(frames):
        place = number % 20
        grey = draw_number(number, 64, 128)
        begins.append(len(units))
        if place == 0:
            keys.append(len(units))
        if number in fields:
            pictures = list(fields_of(stream, grey, place, place, place == 0))
        else:
            pictures = [stream.picture(grey, display=place, decoding=place, key=place == 0)]
        if place == 0:
            pictures[0] = stream.sps() + stream.pps() + pictures[0]
        units += pictures
    _raw(path, units, range(len(units)), keys, RATE)
    clock = steady(len(units), path.suffix)
    return Known(range(frames), [clock[begin] for begin in begins])


def promised_recovery(folder: Path, path: Path, every: int = 37) -> Known:
    """P pictures that promise a recovery at once and are flagged as key frames."""
    recovery = b"\0\0\0\5\x06\x06\x01\xc4\x80"
    base = _base(folder, replace(H264_PLAIN, frames=640, options=numbered._x264(g="9999")))
    clip = read(base)
    told = [
        replace(sample, data=recovery + sample.data, key=True) if place and place % every == 0 else sample
        for place, sample in enumerate(clip.samples)
    ]
    write(path, base, replace(clip, samples=told))
    return Known(range(640), steady(640, path.suffix))


def broken_link(folder: Path, path: Path, at: int = 3) -> Known:
    """HEVC cut amid: at a key frame of an open group the references of the pictures that it leads with are gone."""
    options = {"preset": "ultrafast", "x265-params": _X265_OPEN}
    base = _base(folder, replace(HEVC_B, name="open", frames=640, size=SMALL, options=options))
    clip = read(base)
    keys = [place for place, sample in enumerate(clip.samples) if sample.key]
    begins = keys[at]
    told = [
        replace(sample, data=_renamed(sample.data)) if place == begins else sample
        for place, sample in enumerate(clip.samples)
    ]
    write(path, base, replace(clip, samples=told))
    return Known()


def _renamed(data: bytes) -> bytes:
    """An HEVC packet whose CRA slices (unit type 21) have become BLA (16)."""
    changed = bytearray(data)
    place = 0
    while place + 4 < len(data):
        if data[place + 4] >> 1 & 0x3F == 21:
            changed[place + 4] = 16 << 1
        place += 4 + int.from_bytes(data[place : place + 4], "big")
    return bytes(changed)


def unannounced_delay(folder: Path, path: Path, calm: int = 40, broken: bool = False) -> Known:
    """Pictures that are reordered after ``calm`` frames, announced nowhere, so that the decoder gives out its first
    ones too early. ``broken``: the very first is unreadable."""
    stream = Stream(64, 64)
    places = [*range(calm), *(first + k for first in range(calm, 80, 5) for k in _REORDERED)]
    units: list[bytes] = []
    keys: list[int] = []
    coded = origin = 0
    for at, number in enumerate(places):
        key = number % 20 == 0
        if key:
            keys.append(at)
            coded, origin = 0, number
        needed = at < calm or number % 5 in (0, 4, 2)
        picture = stream.picture(
            draw_number(number, 64, 64), display=number - origin, decoding=coded, key=key, needed=needed
        )
        if broken and at == 0:
            picture = picture[:40]
        units.append((stream.sps() + stream.pps() if key else b"") + picture)
        coded += needed
    _raw(path, units, places, keys, RATE)
    return Known()  # a picture that comes too late to be given out in order is dropped


def late_parameter_set(folder: Path, path: Path, at: int = 3, first_use: int = 25) -> Known:
    """A picture parameter set that comes once, with a packet that is no key frame, and is used from a later group
    on."""
    stream = Stream(64, 64)
    units = []
    for number in range(60):
        place = number % 10
        headers = stream.sps() + stream.pps() if number == 0 else b""
        if number == at:
            headers += stream.pps(1)
        units.append(
            headers
            + stream.picture(
                draw_number(number, 64, 64),
                display=place,
                decoding=place,
                key=place == 0,
                pps=int(number >= first_use),
            )
        )
    _raw(path, units, range(60), range(0, 60, 10), RATE)
    return Known(range(60), steady(60, path.suffix))


def new_sets_in_band(folder: Path, path: Path) -> Known:
    """Other parameter sets of the same number in mid stream, once, with the first of several key frames.

    With every key frame in a transport stream: its muxer would repeat the first ones.
    """
    streams = (Stream(64, 64, poc_bits=8), Stream(64, 64, poc_bits=5))
    units = []
    for number in range(80):
        stream, place = streams[number >= 40], number % 10
        told = place == 0 if path.suffix == ".ts" else number in (0, 40)
        headers = stream.sps() + stream.pps() if told else b""
        units.append(
            headers
            + stream.picture(draw_number(number, 64, 64), display=place, decoding=place, key=place == 0)
        )
    _raw(path, units, range(80), range(0, 80, 10), RATE)
    return Known(range(80), steady(80, path.suffix))


# --- what travels with packets


_OTHER_SETS = numbered._x264(g="12", **{"x264-params": "cabac=0:8x8dct=0:cqm=jvt:chroma-qp-offset=6"})


def _two_encodes(folder: Path, second_size: tuple[int, int]) -> Path:
    """Two encodes with other parameter sets, one after the other, as FLV: its second header is told as a change."""
    first = replace(H264_PYRAMID, name="one", suffix=".flv", frames=40)
    # The first one's pictures are shown two frames later than they are decoded.
    second = Recipe(
        "two",
        ".flv",
        frames=40,
        first=SECOND,
        options=_OTHER_SETS,
        offset=Fraction(42) / RATE,
        size=second_size,
    )
    both = folder / "both.flv"
    both.write_bytes(_base(folder, first).read_bytes() + _base(folder, second).read_bytes()[_FLV_HEADER:])
    return both


_FLV_HEADER = 13


def two_descriptions(folder: Path, path: Path, second_size: tuple[int, int] = SMALL) -> Known:
    """A second sample description (MP4) or sequence header (FLV) in mid file: other parameter sets, perhaps another
    size."""
    both = _two_encodes(folder, second_size)
    if path.suffix == ".flv":
        both.rename(path)
    else:
        write(path, both, read(both))
    numbers = [*range(40), *range(SECOND, SECOND + 40)]
    return Known(numbers, steady(80, ".flv"))


def _palette(upwards: bool) -> np.ndarray:
    """256 greys (uint8 [256, 4], ARGB), dark to light or the other way."""
    greys = np.arange(256, dtype=np.uint8)[:: 1 if upwards else -1, None]
    return np.hstack([np.full((256, 1), 255, dtype=np.uint8), np.repeat(greys, 3, axis=1)])


def palettes(folder: Path, path: Path, encoder: str = "rawvideo", since: int = 60) -> Known:
    """Eight-bit pictures: the palette travels with the first packet, and from frame ``since`` on it is another one."""
    import av

    height, width = SMALL
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream(encoder, rate=RATE)
        stream.width, stream.height, stream.pix_fmt = width, height, "pal8"
        for number in range(60):
            indices = draw_number(number, height, width)
            first = number < since
            drawn: Any = (indices if first else 255 - indices, _palette(upwards=first))
            frame = av.VideoFrame.from_ndarray(drawn, format="pal8")
            frame.pts = number
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return Known(range(60), steady(60, path.suffix))


def exif_pictures(folder: Path, path: Path) -> Known:
    """Motion JPEG whose pictures carry Exif data."""
    base = Recipe(
        "jpeg", ".avi", encoder="mjpeg", frames=40, size=SMALL, options={"q": "3"}, pix_fmt="yuvj420p"
    )
    whole = _base(folder, base)
    packets = read(whole)
    tiff = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x01\0\0\0\0\0\0\0"
    segment = b"\xff\xe1" + struct.pack(">H", len(tiff) + 2) + tiff
    changed = [replace(s, data=s.data[:2] + segment + s.data[2:]) for s in packets.samples]
    write(path, whole, Samples(packets.time_base, changed))
    return Known(range(40), steady(40, ".avi"))


# --- flags, edits and damage


def keys_left_out(folder: Path, path: Path, base: Recipe = H264_PLAIN, kept: Sequence[int] = (0, 3)) -> Known:
    """A sync table that does not have all key frames: the packets are flagged key, and a seek to them lands
    elsewhere."""
    data = _base(folder, base).read_bytes()
    path.write_bytes(boxes.edit(data, (*boxes.VIDEO, "stss"), boxes.forget_keys(kept)))
    return Known(range(base.frames), steady(base.frames, path.suffix))


def other_keys(
    folder: Path, path: Path, flags: Callable[[int, bool], bool], base: Recipe = H264_PLAIN
) -> Known:
    """Packets whose key flags are not those of their pictures."""
    whole = _base(folder, base)
    packets = read(whole)
    changed = [replace(s, key=flags(place, s.key)) for place, s in enumerate(packets.samples)]
    write(path, whole, Samples(packets.time_base, changed))
    return Known(range(base.frames), steady(base.frames, path.suffix))


def _some_flags(place: int, key: bool) -> bool:
    return key and place in (0, 36)


def _false_flags(place: int, key: bool) -> bool:
    return key or place % 7 == 0


def edited(folder: Path, path: Path, edits: Sequence[tuple[int, int]], base: Recipe = H264_B) -> Known:
    """An edit list of ``(frames, first frame or -1 for a gap)``: parts left out, shown twice, with gaps between."""
    data = _base(folder, base).read_bytes()
    clock = 1000
    media = _media_clock(data)
    delay = _first_offset(data)
    entries = [
        (frames * clock // int(base.rate), -1 if first < 0 else first * media // int(base.rate) + delay)
        for frames, first in edits
    ]
    # A constant frame duration needs no rounding at 25 fps by either clock.
    path.write_bytes(boxes.edit(data, ("moov", "trak", "edts", "elst"), boxes.edit_list(entries)))
    return Known(None)


def _media_clock(data: bytes) -> int:
    return struct.unpack_from(">I", boxes.find(data, ("moov", "trak", "mdia", "mdhd")), 12)[0]


def _first_offset(data: bytes) -> int:
    """Where the presentation begins by the track's clock, as the muxer's own edit list says."""
    return struct.unpack_from(">i", boxes.find(data, ("moov", "trak", "edts", "elst")), 12)[0]


def without_packets(folder: Path, path: Path, base: Recipe, lost: Sequence[int]) -> Known:
    """Packets that are missing."""
    whole = _base(folder, base)
    packets = read(whole)
    left = [sample for place, sample in enumerate(packets.samples) if place not in set(lost)]
    write(path, whole, Samples(packets.time_base, left))
    return Known()


def spoilt_packet(folder: Path, path: Path, base: Recipe, at: int = 0) -> Known:
    """A packet whose end is noise."""
    whole = _base(folder, base)
    packets = read(whole)
    random = np.random.default_rng(3)
    samples = list(packets.samples)
    data = samples[at].data
    tail = 12
    samples[at] = replace(samples[at], data=data[:-tail] + random.bytes(tail))
    write(path, whole, Samples(packets.time_base, samples))
    return Known()


def holes(
    folder: Path, path: Path, base: Recipe, piece: int = 188, lost: Sequence[int] = (40, 41, 90)
) -> Known:
    """A file that lacks pieces, as a transport stream received with losses."""
    data = _base(folder, replace(base, suffix=path.suffix)).read_bytes()
    pieces = [data[at : at + piece] for at in range(0, len(data), piece)]
    path.write_bytes(b"".join(part for place, part in enumerate(pieces) if place not in set(lost)))
    return Known()


def begun_late(folder: Path, path: Path, base: Recipe, part: Fraction = Fraction(1, 5)) -> Known:
    """A stream whose beginning is lost: it starts within a group of pictures."""
    data = _base(folder, replace(base, suffix=path.suffix)).read_bytes()
    path.write_bytes(data[int(len(data) * part) // 188 * 188 :])
    return Known()


# --- geometry and colour


def filtered(folder: Path, path: Path, filters: str, base: Recipe = H264_PLAIN) -> Known:
    """A copy through one of FFmpeg's bit stream filters."""
    import av

    whole = _base(folder, base)
    with av.open(str(whole)) as source, av.open(str(path), "w") as output:
        stream = source.streams.video[0]
        copy = output.add_stream_from_template(stream)
        filter_context = av.BitStreamFilterContext(filters, stream, copy)
        for packet in source.demux(stream):
            for changed in filter_context.filter(packet if packet.size else None):
                changed.stream = copy
                output.mux(changed)
    return Known(range(base.frames), steady(base.frames, path.suffix))


def clean_aperture(folder: Path, path: Path) -> Known:
    """Only the middle of the stored picture is to be shown; the numbers are drawn there, in a white border."""
    base = replace(H264_PLAIN, size=(SMALL[0] + 64, SMALL[1] + 64), border=32)
    data = _base(folder, base).read_bytes()
    path.write_bytes(boxes.edit(data, (*boxes.VIDEO, "stsd"), boxes.clean_aperture(SMALL[1], SMALL[0])))
    return Known(range(H264_PLAIN.frames), steady(H264_PLAIN.frames, path.suffix))


def turned(folder: Path, path: Path, matrix: Sequence[int]) -> Known:
    """A display matrix of half a turn but for rounding: the picture is stored upside down."""
    base = replace(H264_PLAIN, upside_down=True)
    data = _base(folder, base).read_bytes()
    path.write_bytes(boxes.edit(data, ("moov", "trak", "tkhd"), boxes.track_matrix(matrix)))
    return Known(range(base.frames), steady(base.frames, path.suffix))


def long_last_frame(folder: Path, path: Path, hundredths: int = 300) -> Known:
    """A GIF whose last frame stays long."""
    base = Recipe("short", ".gif", encoder="gif", rate=Fraction(10), frames=38, size=SMALL, pix_fmt="gray")
    data = bytearray(_base(folder, base).read_bytes())
    at = data.rindex(b"\x21\xf9\x04")
    data[at + 4 : at + 6] = struct.pack("<H", hundredths)
    path.write_bytes(data)
    return Known(range(38), steady(38, ".gif", Fraction(10)))


def recorded(folder: Path, path: Path, base: Recipe) -> Known:
    """A plain recording in a container or codec that is met seldom."""
    made = numbered.make(replace(base, suffix=path.suffix), folder)
    path.write_bytes(made.path.read_bytes())
    return Known(made.numbers)


def gappy(folder: Path, path: Path, base: Recipe) -> Known:
    """An AVI that has no frame for some of its slots: those before them stand longer."""
    made = numbered.make(
        replace(base, name=f"gappy_{base.name}", suffix=".avi", intervals=(1, 1, 1, 1, 9), clock=int(RATE)),
        folder,
    )
    path.write_bytes(made.path.read_bytes())
    return Known(made.numbers, made.times)


def _odd(
    name: str, suffixes: str, build: Callable[..., Known], *, traits: str = "", **settings: Any
) -> list[OddClip]:
    marks = dict.fromkeys(traits.split(), True)
    rate = settings.pop("rate", RATE)
    return [OddClip(name, suffix, partial(build, **settings), rate, **marks) for suffix in suffixes.split()]


_LONG = replace(H264_B, name="long", frames=75)
#: A clock whose times fall between those of another recording.
_BETWEEN = Fraction(11) + 1 / (2 * RATE)
_HALF_TURN = (-65536, 0, 0, 0, -65536, 0, 0, 0, 1 << 30)
_KINDS: list[list[OddClip]] = [
    _odd("pts_is_dts", ".mp4 .mkv .mov .flv .nut", pts_is_dts),
    _odd("pts_is_dts_below_zero", ".mp4 .mov", pts_is_dts, from_zero=False),
    _odd("pts_is_dts_pyramid", ".mp4 .mkv .ts", pts_is_dts, base=H264_PYRAMID),
    _odd("pts_is_dts_hevc", ".mp4 .mkv", pts_is_dts, base=HEVC_B),
    _odd("pts_is_dts_half", ".mp4 .mkv .mov", pts_is_dts, since=36),
    _odd("pts_is_dts_asp", ".mp4 .mkv", pts_is_dts, base=ASP_B),
    _odd("empty_slots", ".avi", gappy, base=H264_PLAIN),
    _odd("empty_slots_b", ".avi", gappy, base=H264_B),
    _odd("empty_slots_asp", ".avi", gappy, base=ASP_B),
    _odd("genpts", ".mp4 .mkv", generated_times, base=replace(H264_B, suffix=".avi")),
    _odd("asp_vfw", ".mkv", vfw_asp),
    _odd("asp_packed", ".avi", packed_asp),
    _odd("joined_back", ".ts", joined, base=_LONG, starts=(10, _BETWEEN)),
    _odd("joined_same_clock", ".ts", joined, starts=(0, 0)),
    _odd("joined_same_clock", ".mpg", joined, base=replace(MPEG2_B), starts=(0, 0)),
    _odd("joined_same_clock", ".flv", joined, starts=(0, 0), skip=_FLV_HEADER),
    _odd("joined_back", ".flv", joined, base=_LONG, starts=(10, _BETWEEN), skip=_FLV_HEADER),
    _odd("joined_far_lower", ".ts", joined, starts=(500, 0)),
    _odd("joined_far_higher", ".ts", joined, starts=(0, 5000)),
    _odd("joined_three", ".ts", joined, starts=(0, 20, _BETWEEN)),
    _odd(
        "joined_fragments",
        ".mp4",
        joined,
        container_options={"movflags": "frag_keyframe+empty_moov+default_base_moof"},
        known=False,
    ),
    _odd("joined_whole", ".mp4 .mkv .avi .flv", joined, base=H264_PLAIN, known=False),
    _odd("clock_wraps", ".ts", wrapping),
    _odd("same_times", ".mp4", same_times),
    _odd("fields", ".mp4 .mov .mkv .ts", field_pictures),
    _odd("fields_amid", ".mp4 .mkv", fields_amid),
    _odd("promised_recovery", ".mp4 .mkv", promised_recovery),
    _odd("broken_link", ".mp4 .mkv", broken_link),
    _odd("unannounced_delay", ".mp4 .mkv .ts", unannounced_delay),
    _odd(
        "unannounced_delay_broken",
        ".mp4 .mkv .ts",
        unannounced_delay,
        calm=0,
        broken=True,
        traits="damaged",
    ),
    _odd("late_parameter_set", ".mp4 .mkv .ts", late_parameter_set),
    _odd("new_sets_in_band", ".mp4 .mkv .ts", new_sets_in_band),
    _odd("two_descriptions", ".mp4 .mov .flv", two_descriptions),
    _odd("two_sizes", ".mp4 .flv", two_descriptions, second_size=(96, 128)),
    _odd(
        "two_sizes",
        ".ts .mpg",
        joined,
        base=MPEG2_B,
        starts=(0, 10),
        second=replace(MPEG2_B, size=(96, 128)),
        known=False,
        traits="damaged",
    ),
    _odd(
        "two_codecs",
        ".ts",
        joined,
        base=H264_B,
        starts=(0, 10),
        second=replace(MPEG2_B, size=(96, 128)),
        known=False,
    ),
    _odd("palette", ".avi .mov", palettes),
    _odd("palette_changes", ".avi", palettes, since=30),
    _odd("palette_msrle", ".avi", palettes, encoder="msrle", since=30),
    _odd("palette_smc", ".mov", palettes, encoder="smc"),
    _odd("palette_png", ".mov", palettes, encoder="png", since=30),
    _odd("palette_png", ".apng", palettes, encoder="apng"),
    _odd("palette_zmbv", ".avi", palettes, encoder="zmbv", since=30),
    _odd("palette_gif", ".gif", palettes, encoder="gif", since=30),
    _odd("exif", ".avi", exif_pictures),
    _odd("keys_left_out", ".mp4", keys_left_out),
    _odd("keys_left_out_late", ".mp4", keys_left_out, kept=(0, 1, 3)),
    _odd("keys_left_out_b", ".mp4", keys_left_out, base=H264_B),
    _odd(
        "keys_left_out_open",
        ".mp4",
        keys_left_out,
        base=Recipe("o", ".mp4", frames=60, options={**numbered._OPEN, "g": "12"}),
        kept=(0,),
    ),
    _odd("keys_left_out_hevc", ".mp4", keys_left_out, base=HEVC_B, kept=(0,)),
    _odd("keys_not_flagged", ".mkv .mp4 .flv", other_keys, flags=_some_flags),
    _odd("keys_falsely_flagged", ".mkv .mp4 .flv", other_keys, flags=_false_flags),
    _odd("keys_falsely_flagged_b", ".mkv .mp4", other_keys, flags=_false_flags, base=H264_B),
    _odd("edit_twice", ".mp4", edited, edits=[(25, 0), (25, 0)]),
    _odd("edit_leaves_out", ".mp4", edited, edits=[(20, 0), (24, 36)]),
    _odd("edit_gap", ".mp4", edited, edits=[(20, 0), (10, -1), (24, 36)]),
    _odd("edit_back", ".mp4", edited, edits=[(24, 36), (20, 0)]),
    _odd("edit_within_group", ".mp4", edited, edits=[(20, 5), (20, 30)]),
    _odd(
        "first_picture_missing",
        ".mp4 .mkv .ts",
        without_packets,
        base=H264_PYRAMID,
        lost=[0],
        traits="damaged",
    ),
    _odd("first_picture_spoilt", ".mp4 .mkv .ts", spoilt_packet, base=H264_PYRAMID, traits="damaged"),
    _odd(
        "pictures_missing",
        ".mp4 .mkv .ts",
        without_packets,
        base=H264_PYRAMID,
        lost=[20, 31, 47],
        traits="damaged",
    ),
    _odd("holes", ".ts", holes, base=H264_PYRAMID, traits="damaged"),
    _odd("begun_late", ".ts", begun_late, base=H264_PYRAMID, traits="damaged"),
    _odd("begun_late", ".mpg", begun_late, base=MPEG2_B, traits="damaged"),
    _odd("clean_aperture", ".mp4", clean_aperture, traits="cropped"),
    _odd("half_turn", ".mp4", turned, matrix=_HALF_TURN),
    _odd("half_turn_but_a_bit", ".mp4", turned, matrix=(-65536, 1, 0, 0, -65536, *_HALF_TURN[5:])),
    *(
        _odd(
            f"matrix_{number}",
            ".mp4",
            filtered,
            filters=f"h264_metadata=matrix_coefficients={number}",
            traits="unusable",
        )
        for number in (8, *range(10, 18))
    ),
    _odd("long_last_frame", ".gif", long_last_frame, rate=Fraction(10)),
    _odd("no_clock", ".h264", recorded, base=H264_B),
    _odd("no_clock", ".hevc", recorded, base=HEVC_B),
    _odd("no_clock", ".m4v", recorded, base=ASP_B),
    _odd(
        "no_clock",
        ".mjpeg",
        recorded,
        base=Recipe("j", "", encoder="mjpeg", frames=40, size=SMALL, pix_fmt="yuvj420p"),
    ),
    _odd(
        "ivf", ".ivf", recorded, base=Recipe("i", "", encoder="libvpx-vp9", frames=60, options=numbered._VP9)
    ),
    _odd("nut", ".nut", recorded, base=H264_PYRAMID),
    _odd("one_frame_groups", ".mp4 .ts", recorded, base=replace(H264_PLAIN, options=numbered._x264(g="1"))),
    _odd(
        "negative_offsets",
        ".mp4",
        recorded,
        base=replace(H264_PYRAMID, container_options={"movflags": "negative_cts_offsets"}),
    ),
    _odd(
        "low_delay",
        ".ts .mpg",
        recorded,
        base=replace(MPEG2_B, options={**numbered._MPEG4, "flags": "+low_delay"}),
    ),
    _odd("mpeg1", ".mpg", recorded, base=replace(MPEG2_B, encoder="mpeg1video")),
    _odd(
        "hidden_references",
        ".webm .mkv",
        recorded,
        base=Recipe(
            "a",
            "",
            encoder="libvpx-vp9",
            frames=60,
            options={
                "deadline": "good",
                "cpu-used": "8",
                "g": "30",
                "b": "200k",
                "auto-alt-ref": "1",
                "lag-in-frames": "25",
            },
        ),
    ),
    _odd(
        "av1_layers",
        ".mkv .ivf",
        recorded,
        base=Recipe(
            "v",
            "",
            encoder="libsvtav1",
            frames=60,
            options={**numbered._SVT, "svtav1-params": "lp=1:hierarchical-levels=4"},
        ),
    ),
    _odd(
        "wmv2",
        ".wmv",
        recorded,
        base=Recipe("w", "", encoder="wmv2", frames=60, size=SMALL, options=numbered._MPEG4),
    ),
    _odd(
        "rv20",
        ".rm",
        recorded,
        base=Recipe("r", "", encoder="rv20", frames=60, size=SMALL, options=numbered._MPEG4),
    ),
    _odd(
        "ffv1",
        ".mkv",
        recorded,
        base=Recipe("f", "", encoder="ffv1", frames=60, size=SMALL, options={"g": "12"}),
    ),
    _odd(
        "prores",
        ".mov",
        recorded,
        base=Recipe("p", "", encoder="prores", frames=40, pix_fmt="yuv422p10le", options={}),
    ),
    _odd(
        "svq1",
        ".mov",
        recorded,
        base=Recipe("s", "", encoder="svq1", frames=40, pix_fmt="yuv410p", options={"g": "12"}),
    ),
    _odd(
        "y4m",
        ".y4m",
        recorded,
        base=Recipe("y", "", encoder="wrapped_avframe", frames=40, size=SMALL, options={}),
    ),
]
ODD_CLIPS: tuple[OddClip, ...] = tuple(clip for kind in _KINDS for clip in kind)
