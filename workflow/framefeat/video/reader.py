"""What all readers share: one frame, one interface, and when two decodes agree."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

#: What decoders print as errors although the picture is whole.
_HARMLESS = re.compile(
    r"mmco: unref short failure|number of reference frames .* exceeds max|\bSEI\b|\bVUI\b|Overread"
    r"|co located POCs unavailable|deprecated pixel format",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Decoded:
    """One frame: its number among the presented frames, its presentation time in stream ticks, and its pixels as they
    are to be displayed: uint8 [H, W, 3], red, green, blue."""

    native: int
    pts: int
    rgb: np.ndarray


class Reader(Protocol):
    """``frames`` yields each of ``wanted`` (ascending frame numbers) at most once, in ascending order; after the last
    one ``problems`` names the frames that could not be had cleanly, and why: what was yielded for them is void."""

    name: str
    problems: dict[int, str]

    def frames(self, wanted: Sequence[int]) -> Iterator[Decoded]: ...


class ReaderMistake(Exception):
    """A reader's view of the file is not the container's: nothing that it gives can be trusted."""


class Contradiction(ReaderMistake):
    """What a decoder gave out is not what the packets foretold: the index made of them can no longer be trusted."""


def is_harmless(message: str) -> bool:
    """Whether a decoder's error message is of the kind that leaves pictures whole."""
    return _HARMLESS.search(message) is not None


def mean_difference(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference (of 255) of two frames uint8 [H, W, 3]; infinite where their shapes differ."""
    if a.shape != b.shape:
        return float("inf")
    return float(np.abs(a.astype(np.int16) - b.astype(np.int16)).mean())
