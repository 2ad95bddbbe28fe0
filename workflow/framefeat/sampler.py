"""One attempt at one video: choose a reader, take the planned frames, judge them, look at a few again, tell it all."""

import hashlib
import sys
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from framefeat import readers
from framefeat.child import Line
from framefeat.container import Container, facts, read_container
from framefeat.errors import UserError
from framefeat.plan import Plan, decode_cost, plan_samples
from framefeat.preprocess import Geometry
from framefeat.readers import Decoded, Reader, ReaderMistake, SequentialReader
from framefeat.rowfile import RowFile, spread, thumbnail, thumbnail_size, write_strip

EVIDENCE_SCHEMA = 1
THUMBNAILS = 24
_MOST_DECODED_AGAIN = 2000


class Sampler:
    """``job``: what ``sampling.sample_video`` was asked for, its ``key`` and the ``paths`` to write."""

    def __init__(self, job: Mapping[str, Any], line: Line) -> None:
        self.job, self.line = job, line
        self.record = job["record"]
        self.path: str = self.record["path"]
        self.times = np.asarray(self.record["timestamps"], dtype=np.float64)
        self.geometry = Geometry.from_name(job["geometry"])
        self.rows = RowFile(job["paths"]["frames"], len(self.times), self.geometry.output)
        self.warnings: list[str] = list(self.record.get("warnings", []))
        # By frame number: the rows that mean it, what was decoded for it, its thumbnail, its pixels if looked at again.
        self.rows_of: dict[int, list[int]] = {}
        self.pts: dict[int, int] = {}
        self.thumbnails: dict[int, np.ndarray] = {}
        self.full: dict[int, np.ndarray] = {}
        self.with_thumbnail: set[int] = set()
        self.looked_at_again: set[int] = set()
        self.thumbnail_size: tuple[int, int] | None = None
        self.frame_size: list[int] | None = None
        self.sample_aspect = Fraction(1)

    def close(self) -> None:
        self.rows.close()

    def run(self) -> dict[str, Any]:
        """Returns the evidence; the frames, the recheck and the thumbnails are written.

        What is wrong with the file stands in the evidence: rows that are ``bad``, and ``problems`` that say why.
        """
        if "hopeless" in self.job:
            return self._nothing(self.job["hopeless"])
        self.line.say(phase="container")
        try:
            container = read_container(self.path, self.line.tick)
        except UserError as error:
            return self._nothing(str(error))
        self.warnings += [*([container.damage] if container.damage else []), *container.warnings]
        self.sample_aspect = (
            container.sample_aspect if container.rotation % 180 == 0 else 1 / container.sample_aspect
        )
        plan = plan_samples(container, self.times, float(self.record["fps"]), self.job["alignment"])
        return self._sample(container, plan)

    def _sample(self, container: Container, plan: Plan) -> dict[str, Any]:
        for row, number in enumerate(plan.native.tolist()):
            if number >= 0:
                self.rows_of.setdefault(number, []).append(row)
        wanted = sorted(self.rows_of)
        self.with_thumbnail = set(spread(wanted, THUMBNAILS))
        self.looked_at_again = {
            number
            for in_order in (True, False)
            for number in self._draw(self._bearable(container, wanted, in_order))
        }
        reader, reason = self._decode(container, wanted)
        problems = self._judge(container, reader, wanted)
        decord_serves = self.job["decoder"] == "pyav" or reader.name == "decord"
        recheck = self._look_again(
            container, reader.name, [n for n in wanted if n not in problems], decord_serves
        )
        if not recheck["agrees"] and reader.name != SequentialReader.name and self.job["decoder"] != "decord":
            # decord is replaced by PyAV, and PyAV that skips by PyAV that does not.
            reason = f"a second decode gave other pixels than {reader.name}'s"
            reader = self._instead_of(container, reader)
            self._take(reader, wanted)
            problems = self._judge(container, reader, wanted)
            recheck = self._look_again(
                container, reader.name, [n for n in wanted if n not in problems], False
            )
        if not recheck["agrees"]:
            self._disagreement(recheck)
        return self._evidence(container, plan, reader.name, reason, problems, recheck)

    # --- decoding

    def _decode(self, container: Container, wanted: Sequence[int]) -> tuple[Reader, str]:
        """Take all wanted frames; the reader that gave them, and why it."""
        tick = self.line.tick
        decoder = "pyav" if "not_decord" in self.job else self.job["decoder"]
        self.line.say(phase="pyav" if decoder == "pyav" else "decord")
        reader, reason = readers.choose_reader(container, decoder, wanted or [0], tick)
        reason = self.job.get("not_decord", reason)
        self.line.say(phase=reader.name)
        try:
            self._take(reader, wanted)
        except ReaderMistake as mistake:
            if decoder == "decord":
                raise UserError(readers.misread(container, mistake)) from None
            reader, reason = readers.pyav_reader(container, tick), str(mistake)
            self.line.say(phase=reader.name)
            self._take(reader, wanted)
        return reader, reason

    def _instead_of(self, container: Container, reader: Reader) -> Reader:
        other = readers.pyav_reader(container, self.line.tick)
        if other.name == reader.name:
            other = SequentialReader(container, self.line.tick)
        self.line.say(phase=other.name)
        return other

    def _judge(self, container: Container, reader: Reader, wanted: Sequence[int]) -> dict[int, str]:
        """Frames that did not come cleanly are decoded again strictly in order; those that are bad even then, and why."""
        if not reader.problems or reader.name == SequentialReader.name:
            return dict(reader.problems)
        strict = SequentialReader(container, self.line.tick)
        self._take(strict, sorted(reader.problems))
        mended = len(reader.problems) - len(strict.problems)
        if mended:
            self.warnings.append(f"{mended} frames came cleanly only when everything was decoded in order")
        return dict(strict.problems)

    def _take(self, reader: Reader, wanted: Sequence[int]) -> None:
        for frame in reader.frames(wanted):
            self._keep(frame)
        for number in reader.problems:
            for kept in (self.pts, self.thumbnails, self.full):
                kept.pop(number, None)

    def _keep(self, frame: Decoded) -> None:
        number = frame.native
        if self.frame_size is None or self.thumbnail_size is None:
            self.frame_size = [*frame.rgb.shape[:2]]
            self.thumbnail_size = thumbnail_size(frame.rgb.shape[0], frame.rgb.shape[1], self.sample_aspect)
        pixels = self.geometry.apply(frame.rgb)
        for row in self.rows_of[number]:
            self.rows.write(row, pixels)
        self.pts[number] = frame.pts
        if number in self.with_thumbnail:
            self.thumbnails[number] = thumbnail(frame.rgb, self.thumbnail_size)
        if number in self.looked_at_again:
            self.full[number] = frame.rgb
        row = self.rows_of[number][-1]
        self.line.say(done=row + 1, time=float(self.times[row]))

    # --- the second decode

    @staticmethod
    def _bearable(container: Container, numbers: Sequence[int], in_order: bool) -> list[int]:
        """Those that a second decode reaches at bearable cost: ``in_order`` from the file's start, else from a key."""
        if in_order or container.index_source != "packets":
            budget = min(_MOST_DECODED_AGAIN, max(300, container.n_presented // 8))
            return [number for number in numbers if number < budget] or list(numbers[:1])
        cost = decode_cost(container.packets, container.packet[np.asarray(numbers, dtype=np.int64)])
        most = max(_MOST_DECODED_AGAIN, int(cost.min()) if len(cost) else 0)
        return [number for number, price in zip(numbers, cost.tolist(), strict=True) if price <= most]

    def _draw(self, numbers: Sequence[int]) -> list[int]:
        """Frames to decode again: the last one, and others drawn by the content's own digest."""
        count = min(self.job["rechecks"], len(numbers))
        drawn = {numbers[-1]} if count > 0 else set()
        turn = 0
        while len(drawn) < count:
            seed = f"{self.record['fingerprint']} {self.record['times_sha256']} {turn}"
            drawn.add(numbers[int(hashlib.sha256(seed.encode()).hexdigest()[:15], 16) % len(numbers)])
            turn += 1
        return sorted(drawn)

    def _look_again(
        self, container: Container, used: str, clean: Sequence[int], decord_serves: bool
    ) -> dict[str, Any]:
        """Decode a few frames again through the other reader and compare: the evidence of it, and ``recheck.npy``."""
        self.line.say(phase="second decode")
        tick = self.line.tick
        strict = SequentialReader(container, tick)
        try:
            other = readers.other_reader(container, used, tick, decord_serves and bool(clean))
            in_order = other.name == strict.name
            found = self._compare(other, self._draw(self._bearable(container, clean, in_order)))
            if found["agrees"] or found["reader"] != "decord":
                return found
        except ReaderMistake:
            pass
        # decord is no judge: PyAV in order is.
        return self._compare(strict, self._draw(self._bearable(container, clean, True)))

    def _compare(self, other: Reader, chosen: list[int]) -> dict[str, Any]:
        again, problems = readers.take(other, chosen)
        output = RowFile(self.job["paths"]["recheck"], len(chosen), self.geometry.output)
        differences = []
        for place, number in enumerate(chosen):
            if number not in again:
                differences.append(255.0)
                continue
            pixels = self.geometry.apply(again[number])
            output.write(place, pixels)
            if number in self.full:
                difference = readers.mean_difference(self.full[number], again[number])
            else:
                difference = readers.mean_difference(self.rows.read(self.rows_of[number][0]), pixels)
            differences.append(round(min(difference, 255.0), 4))
        output.close()
        return {
            "reader": other.name,
            "rows": [self.rows_of[number][0] for number in chosen],
            "mean_abs_diff": differences,
            "agrees": bool(chosen)
            and not problems
            and all(difference <= readers.TOLERANCE for difference in differences),
        }

    def _disagreement(self, recheck: Mapping[str, Any]) -> None:
        self.warnings.append(
            f"{self.path!r}: two decodes of the same frames differ (rows {recheck['rows']}, by "
            f"{recheck['mean_abs_diff']} of 255): they cannot be verified"
        )

    # --- the evidence

    def _nothing(self, problem: str) -> dict[str, Any]:
        """Evidence of a video that gives no frame at all: every row is bad."""
        RowFile(self.job["paths"]["recheck"], 0, self.geometry.output).close()
        count = len(self.times)
        return self._write(
            None, None, problem, [-1] * count, [None] * count, ["bad"] * count, [problem], _no_recheck()
        )

    def _evidence(
        self,
        container: Container,
        plan: Plan,
        used: str,
        reason: str,
        problems: Mapping[int, str],
        recheck: dict[str, Any],
    ) -> dict[str, Any]:
        native = plan.native.tolist()
        status = list(plan.status)
        texts = [container.damage] if container.damage and plan.reasons else []
        texts += [f"row {row} is {why}" for row, why in plan.reasons.items()]
        for number, why in sorted(problems.items()):
            for row in self.rows_of[number]:
                self.rows.clear(row)
                texts.append(f"row {row}: frame {number} at {container.times()[number]:.3f} s: {why}")
                native[row], status[row] = -1, "bad"
        pts_sec = [
            None if number < 0 else float(container.seconds(np.array(self.pts[number]))) for number in native
        ]
        return self._write(facts(container), used, reason, native, pts_sec, status, texts, recheck)

    def _write(
        self,
        video: dict[str, Any] | None,
        used: str | None,
        reason: str,
        native: list[int],
        pts_sec: list[float | None],
        status: list[str],
        problems: list[str],
        recheck: dict[str, Any],
    ) -> dict[str, Any]:
        size = self.thumbnail_size or thumbnail_size(9, 16, Fraction(1))
        shown = sorted(self.thumbnails)
        write_strip(self.job["paths"]["thumbnails"], [self.thumbnails[number] for number in shown], size)
        return {
            "schema": EVIDENCE_SCHEMA,
            "video_id": self.record["video_id"],
            "key": self.job["key"],
            "versions": _versions(),
            "video": video,
            "decoder": used,
            "decoder_reason": reason,
            "frame_size": self.frame_size,
            "rows": {
                "timestamp_sec": self.times.tolist(),
                "native_idx": native,
                "pts_sec": pts_sec,
                "status": status,
            },
            "recheck": recheck,
            "thumbnails": {
                "rows": [self.rows_of[number][0] for number in shown],
                "height": size[0],
                "width": size[1],
            },
            "warnings": list(dict.fromkeys(self.warnings)),
            "problems": problems,
        }


def _no_recheck() -> dict[str, Any]:
    return {"reader": None, "rows": [], "mean_abs_diff": [], "agrees": False}


def _versions() -> dict[str, str]:
    """Versions of what decoded and resized, as the loaded modules tell them: looking packages up costs a tenth of a short job."""
    names = {"av": "av", "decord": "decord", "PIL": "pillow"}
    return {label: sys.modules[name].__version__ for name, label in names.items() if name in sys.modules}
