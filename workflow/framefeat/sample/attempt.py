"""One attempt at one video: choose a reader, take the planned frames, judge them, look at a few again, tell it all."""

import hashlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

import numpy as np

from framefeat.errors import MachineError, UserError
from framefeat.records import Evidence, Findings, PixelCheck, Rows, SampleJob
from framefeat.sample.child import Line
from framefeat.sample.rowfile import RowFile, thumbnail, thumbnail_size, write_strip
from framefeat.video import choice
from framefeat.video.alignment import Aligned, align
from framefeat.video.container import Container, facts, read_container
from framefeat.video.geometry import Geometry
from framefeat.video.passes import decode_cost, least_pass
from framefeat.video.pyav import SHORT_FRAMES, in_order_reader, is_read_whole
from framefeat.video.reader import Contradiction, Decoded, Reader, ReaderMistake
from framefeat.video.second_look import SecondLook, look_again, spread
from framefeat.words import many

EVIDENCE_SCHEMA = 2
THUMBNAILS = 24
_MOST_DECODED_AGAIN = 2000
#: So many bytes of a video's frames stay at hand as they were decoded, for the second look.
_KEPT_WHOLE = 64 << 20
_NO_LOOK = SecondLook("", ())


class Frames:
    """What is kept of the frames of one video as they are decoded: rows of pixels, times and thumbnails; with
    ``holds`` the first of them also ``whole``, as they were decoded."""

    def __init__(
        self,
        rows: RowFile,
        rows_of: Mapping[int, Sequence[int]],
        geometry: Geometry,
        aspect: Fraction,
        holds: bool = False,
    ) -> None:
        """``rows_of``: the rows that mean each frame number. ``aspect``: of a displayed pixel, width to height."""
        self._room = _KEPT_WHOLE if holds else 0
        self._rows, self._rows_of, self._geometry, self._aspect = rows, rows_of, geometry, aspect
        self._with_thumbnail = frozenset(spread(sorted(rows_of), THUMBNAILS))
        self.pts: dict[int, int] = {}
        self.thumbnails: dict[int, np.ndarray] = {}
        self.whole: dict[int, np.ndarray] = {}
        #: Height and width of each frame: a stream may change them on its way.
        self.sizes: dict[int, tuple[int, int]] = {}
        self.thumbnail_size = thumbnail_size(9, 16, Fraction(1))

    def keep(self, frame: Decoded) -> None:
        height, width = frame.rgb.shape[0], frame.rgb.shape[1]
        if not self.sizes:
            self.thumbnail_size = thumbnail_size(height, width, self._aspect)
        self.sizes[frame.native] = (height, width)
        pixels = self._geometry.apply(frame.rgb)
        for row in self._rows_of[frame.native]:
            self._rows.write(row, pixels)
        self.pts[frame.native] = frame.pts
        if (len(self.whole) + 1) * frame.rgb.nbytes <= self._room:
            self.whole[frame.native] = frame.rgb
        if frame.native in self._with_thumbnail:
            self.thumbnails[frame.native] = thumbnail(frame.rgb, self.thumbnail_size)

    def drop(self, numbers: Iterable[int]) -> None:
        """Forget frames that did not come cleanly; their rows are zeros again."""
        for number in numbers:
            self.pts.pop(number, None)
            self.thumbnails.pop(number, None)
            self.whole.pop(number, None)
            for row in self._rows_of[number]:
                self._rows.clear(row)

    def pixels(self, number: int) -> np.ndarray:
        """The resized frame, uint8 [h, w, 3]."""
        return self._rows.read(self._rows_of[number][0])


@dataclass(frozen=True)
class Taken:
    """The frames of one reader, judged: ``problems`` says why each frame that is not clean is not. ``lost``: frames of
    the file that damage took."""

    reader: str
    reason: str
    frames: Frames
    problems: Mapping[int, str]
    warnings: tuple[str, ...] = ()
    lost: int = 0

    def clean(self, wanted: Sequence[int]) -> list[int]:
        return [number for number in wanted if number not in self.problems]


class Sampler:
    """One attempt; ``line`` tells the parent how far it is."""

    def __init__(self, job: SampleJob, line: Line) -> None:
        self.job, self.line = job, line
        self.record = job.record
        self.path = self.record["path"]
        self.times = np.asarray(self.record["timestamps"], dtype=np.float64)
        self.geometry = Geometry.from_name(job.geometry)
        self.rows = RowFile(job.paths["frames"], len(self.times), self.geometry.output)

    def close(self) -> None:
        self.rows.close()

    def run(self) -> Evidence:
        """Returns the evidence; the frames, the recheck and the thumbnails are written.

        What is wrong with the file stands in the evidence: rows that are ``bad``, and ``problems`` that say why.
        """
        if self.job.hopeless:
            return self._nothing(self.job.hopeless)
        self.line.say(phase="container")
        try:
            known = self.record.get("facts")
            container = read_container(
                self.path, self.line.tick, trial=not known or known.get("index_source") != "packets"
            )
            try:
                return self._sample(container)
            except Contradiction as contradiction:
                # The plan made from packets does not hold: all rows again, counted in a decode in order.
                container = read_container(self.path, self.line.tick, str(contradiction))
                self._clear()
                return self._sample(container)
        except MachineError:
            raise
        except UserError as error:
            return self._nothing(str(error))

    def _sample(self, container: Container) -> Evidence:
        aligned = align(container, self.times, float(self.record["fps"]), self.job.alignment)
        rows_of: dict[int, list[int]] = {}
        for row, number in enumerate(aligned.native.tolist()):
            if number >= 0:
                rows_of.setdefault(number, []).append(row)
        wanted = sorted(rows_of)
        taken = self._take(container, rows_of)
        look = self._look_again(container, taken, wanted)
        if not look.agrees and taken.clean(wanted) and taken.reader != "pyav-sequential":
            if self.job.decoder == "decord":
                raise UserError(
                    choice.misread(container, ReaderMistake("a second decode gives other frames"))
                )
            reason = f"a second decode gave other frames than {taken.reader}'s"
            other = self._instead_of(container, taken.reader)
            taken = self._judged(container, other, reason, rows_of)
            look = self._look_again(container, taken, wanted, decord_serves=False)
        return self._evidence(container, aligned, taken, look, rows_of)

    def _clear(self) -> None:
        for row in range(len(self.times)):
            self.rows.clear(row)

    # --- the first decode

    def _take(self, container: Container, rows_of: Mapping[int, Sequence[int]]) -> Taken:
        """All wanted frames, by the reader that serves the file."""
        tick = self.line.tick
        decoder = "pyav" if self.job.not_decord else self.job.decoder
        self.line.say(phase="pyav" if decoder == "pyav" else "decord")
        reader, reason = choice.choose_reader(container, decoder, sorted(rows_of) or [0], tick)
        reason = self.job.not_decord or reason
        try:
            return self._judged(container, reader, reason, rows_of)
        except ReaderMistake as mistake:
            if isinstance(mistake, Contradiction):
                raise
            if decoder == "decord":
                raise UserError(choice.misread(container, mistake)) from None
            return self._judged(container, choice.pyav_reader(container, tick), str(mistake), rows_of)

    def _instead_of(self, container: Container, used: str) -> Reader:
        """decord is replaced by PyAV, and PyAV that leaves packets out by PyAV that does not."""
        other = choice.pyav_reader(container, self.line.tick)
        return in_order_reader(container, self.line.tick) if other.name == used else other

    def _judged(
        self, container: Container, reader: Reader, reason: str, rows_of: Mapping[int, Sequence[int]]
    ) -> Taken:
        """Take the frames; those that do not come cleanly are decoded again strictly in order."""
        self.line.say(phase=reader.name)
        turned = container.rotation % 180 != 0
        aspect = 1 / container.sample_aspect if turned else container.sample_aspect
        # Worth their memory where all of them are looked at again.
        holds = reader.name == "decord" and is_read_whole(container)
        frames = Frames(self.rows, rows_of, self.geometry, aspect, holds)
        problems = self._keep(frames, reader, sorted(rows_of), rows_of)
        warnings = []
        if problems and reader.name != "pyav-sequential":
            strict = in_order_reader(container, self.line.tick)
            found = len(problems)
            problems = self._keep(frames, strict, sorted(problems), rows_of)
            if found > len(problems):
                warnings.append(
                    f"{many(found - len(problems), 'frame')} came cleanly only when everything was decoded in order"
                )
        return Taken(reader.name, reason, frames, problems, tuple(warnings), getattr(reader, "lost", 0))

    def _keep(
        self, frames: Frames, reader: Reader, wanted: Sequence[int], rows_of: Mapping[int, Sequence[int]]
    ) -> dict[int, str]:
        for frame in reader.frames(wanted):
            frames.keep(frame)
            row = rows_of[frame.native][-1]
            self.line.say(done=row + 1, time=float(self.times[row]))
        frames.drop(reader.problems)
        return dict(reader.problems)

    # --- the second decode

    def _look_again(
        self, container: Container, taken: Taken, wanted: Sequence[int], decord_serves: bool = True
    ) -> SecondLook:
        """Decode frames again through another reader: all of them where it decodes everything anyway, else a few."""
        clean = taken.clean(wanted)
        self.line.say(phase="second decode")
        decord_serves = decord_serves and (self.job.decoder == "pyav" or taken.reader == "decord")
        if not clean:
            self._write_recheck([], {})
            return _NO_LOOK
        if taken.reader != "decord" and decord_serves:
            try:
                look = self._look(container, taken, clean, by_decord=True)
                if look.agrees:
                    return look
            except ReaderMistake:
                pass  # decord is no judge: PyAV in order is
        return self._look(container, taken, clean, by_decord=False)

    def _look(self, container: Container, taken: Taken, clean: Sequence[int], by_decord: bool) -> SecondLook:
        tick = self.line.tick
        used = "pyav" if by_decord else taken.reader
        make = partial(choice.other_reader, container, used, tick, decord_serves=by_decord)
        other = make()
        if by_decord and other.name != "decord":
            raise ReaderMistake("decord does not serve")
        whole = other.name == "pyav-sequential" or (other.name == "pyav" and is_read_whole(container))
        chosen = self._draw(bearable(container, clean, in_order=other.name == "pyav-sequential"))
        numbers = list(chosen)
        if taken.reader == "decord":
            numbers = list(clean) if whole else on_the_way(container, clean, chosen)
        readers_made = iter([other])
        look = look_again(
            lambda: next(readers_made, None) or make(),
            numbers,
            own=taken.frames.pixels,
            sizes=taken.frames.sizes,
            geometry=self.geometry,
            kept=chosen,
            count=container.n_presented,
            whole=taken.frames.whole,
        )
        self._write_recheck(chosen, look.pixels)
        return look

    def _write_recheck(self, chosen: Sequence[int], pixels: Mapping[int, np.ndarray]) -> None:
        output = RowFile(self.job.paths["recheck"], len(chosen), self.geometry.output)
        for place, number in enumerate(chosen):
            if number in pixels:
                output.write(place, pixels[number])
        output.close()

    def _draw(self, numbers: Sequence[int]) -> list[int]:
        """Frames to decode again: the last one, and others drawn by the content's own digest."""
        count = min(self.job.rechecks, len(numbers))
        drawn = {numbers[-1]} if count > 0 else set()
        turn = 0
        while len(drawn) < count:
            seed = f"{self.record['fingerprint']} {self.record['times_sha256']} {turn}"
            drawn.add(numbers[int(hashlib.sha256(seed.encode()).hexdigest()[:15], 16) % len(numbers)])
            turn += 1
        return sorted(drawn)

    # --- the evidence

    def _nothing(self, problem: str) -> Evidence:
        """Evidence of a video that gives no frame at all: every row is bad."""
        self._write_recheck([], {})
        frames = Frames(self.rows, {}, self.geometry, Fraction(1))
        self._clear()
        count = len(self.times)
        return self._write(
            frames,
            {
                "video": None,
                "decoder": None,
                "decoder_reason": problem,
                "rows": self._told_rows([-1] * count, [None] * count, ["bad"] * count),
                "recheck": _told_look(_NO_LOOK, {}),
                "warnings": [],
                "doubts": [],
                "problems": [problem],
            },
            {},
        )

    def _evidence(
        self,
        container: Container,
        aligned: Aligned,
        taken: Taken,
        look: SecondLook,
        rows_of: Mapping[int, Sequence[int]],
    ) -> Evidence:
        native = aligned.native.tolist()
        status = list(aligned.status)
        problems = [container.damage] if container.damage and aligned.reasons else []
        problems += aligned.reasons.values()
        for number, why in sorted(taken.problems.items()):
            problems.append(f"frame {number} at {container.times()[number]:.3f} s: {why}")
            for row in rows_of[number]:
                native[row], status[row] = -1, "bad"
        pts_sec = [
            None if number < 0 else float(container.seconds(np.array(taken.frames.pts[number])))
            for number in native
        ]
        warnings = [
            *([container.damage] if container.damage else []),
            *container.warnings,
            *taken.warnings,
            *self._disagreement(look, container.times()),
        ]
        return self._write(
            taken.frames,
            {
                "video": facts(container),
                "decoder": taken.reader,
                "decoder_reason": taken.reason,
                "rows": self._told_rows(native, pts_sec, status),
                "recheck": _told_look(look, rows_of),
                "warnings": list(dict.fromkeys(warnings)),
                "doubts": [*self.record.get("doubts", []), *container.doubts, *self._uncounted(taken)],
                "problems": problems,
            },
            rows_of,
        )

    def _uncounted(self, taken: Taken) -> list[str]:
        """Under ``index``, what a frame's number is worth after others were lost."""
        if not taken.lost or self.job.alignment != "index":
            return []
        return [
            f"{many(taken.lost, 'frame')} lost to damage: later frames are counted here as if nothing were lost, and a player "
            "that skips what is lost counts fewer, so which frame a number means cannot be told"
        ]

    def _disagreement(self, look: SecondLook, seconds: np.ndarray) -> list[str]:
        """``seconds``: when each frame is shown (float64 [n])."""
        if not look.unproved:
            return []
        first = min(look.unproved)
        return [
            f"{self.path!r}: {len(look.unproved)} of {len(look.numbers)} frames decoded a second time ({look.reader}) do not "
            f"prove the first decode, the first of them at {seconds[first]:.3f} s (frame {first} {look.unproved[first]}): they "
            "cannot be verified"
        ]

    def _told_rows(self, native: list[int], pts_sec: list[float | None], status: list[str]) -> Rows:
        return {
            "timestamp_sec": self.times.tolist(),
            "native_idx": native,
            "pts_sec": pts_sec,
            "status": status,
        }

    def _write(self, frames: Frames, found: Findings, rows_of: Mapping[int, Sequence[int]]) -> Evidence:
        """The evidence; the strip of thumbnails is written."""
        shown = sorted(frames.thumbnails)
        height, width = frames.thumbnail_size
        write_strip(
            self.job.paths["thumbnails"],
            [frames.thumbnails[number] for number in shown],
            frames.thumbnail_size,
        )
        return {
            "schema": EVIDENCE_SCHEMA,
            "video_id": self.record["video_id"],
            "key": self.job.key,
            "versions": _versions(),
            "frame_size": list(frames.sizes[min(frames.sizes)]) if frames.sizes else None,
            "thumbnails": {
                "rows": [rows_of[number][0] for number in shown],
                "height": height,
                "width": width,
            },
            "frames_checksum": self.rows.checksum,
            **found,
        }


def bearable(container: Container, numbers: Sequence[int], in_order: bool) -> list[int]:
    """Those that a second decode can reach cheaply: ``in_order`` from the file's start, else from a key frame."""
    if in_order or container.index_source != "packets":
        budget = min(_MOST_DECODED_AGAIN, max(SHORT_FRAMES, container.n_presented // 8))
        return [number for number in numbers if number < budget] or list(numbers[:1])
    cost = decode_cost(container.packets, container.packet[np.asarray(numbers, dtype=np.int64)])
    most = max(_MOST_DECODED_AGAIN, int(cost.min()) if len(cost) else 0)
    return [number for number, price in zip(numbers, cost.tolist(), strict=True) if price <= most]


def on_the_way(container: Container, numbers: Sequence[int], chosen: Sequence[int]) -> list[int]:
    """Those of ``numbers`` whose packets a pass decodes anyway to reach the frames ``chosen``."""
    packets = container.packets
    fed = least_pass(packets, container.packet[np.asarray(chosen, dtype=np.int64)]).feed
    return [number for number in numbers if fed[container.packet[number]]]


def _told_look(look: SecondLook, rows_of: Mapping[int, Sequence[int]]) -> PixelCheck:
    return {
        "reader": look.reader or None,
        "rows": [rows_of[number][0] for number in look.kept],
        "mean_abs_diff": [look.differences[number] for number in look.kept],
        "compared": len(look.numbers),
        "agrees": look.agrees,
    }


def _versions() -> dict[str, str]:
    """Versions of what decoded and resized, by the loaded modules: to look packages up costs a tenth of a short job."""
    names = {"av": "av", "decord": "decord", "PIL": "pillow"}
    return {label: sys.modules[name].__version__ for name, label in names.items() if name in sys.modules}
