"""Shards: which videos one job takes together.

A video's shard follows from its id, and from how many videos and rows there are: not from the index's order, the other
videos or the machine. Few videos are a shard each. More are dealt into buckets by a hash of their ids; the number of
buckets is a power of two, so that it stays what it is until the collection doubles or halves.
"""

import hashlib
import math
from collections.abc import Mapping

#: Up to so many videos each is a shard of its own, and there are never fewer buckets, unless a number of rows is asked
#: for.
FEWEST = 64
#: Rows of a shard where ``shard_rows`` is ``auto``: about five seconds of a core on MobileNetV3-Large.
AUTO_ROWS = 512
#: Videos of a shard, on average: Snakemake compares no more than a million bytes of a file by content.
_MOST_VIDEOS = 1000


def deal(rows: Mapping[str, int], shard_rows: int | None = None) -> dict[str, str]:
    """The shard of each video. ``rows``: how many rows each has, by its file-safe key; ``shard_rows``: how many a shard
    is to have, about (None: ``AUTO_ROWS``, and no fewer shards than there are videos, or ``FEWEST``).

    A shard is named by its only video's key, or by its place among the buckets; no key has a ``+``.
    """
    videos, every = len(rows), sum(rows.values())
    if videos <= FEWEST and (shard_rows is None or every >= videos * shard_rows):
        return {key: key for key in rows}
    count = buckets(videos, every, shard_rows)
    digits = len(str(count - 1))
    return {key: f"shard+{_bucket(key, count):0{digits}}of{count}" for key in rows}


def buckets(videos: int, rows: int, shard_rows: int | None = None) -> int:
    """The power of two that brings a bucket nearest to ``shard_rows`` rows: at most ``videos``; where it is None, at
    least ``FEWEST``. Who names a number of rows wants jobs of that length, however few."""
    wanted = max(1.0, rows / (shard_rows or AUTO_ROWS), videos / _MOST_VIDEOS)
    fewest = FEWEST if shard_rows is None else 1
    return min(max(fewest, 1 << round(math.log2(wanted))), 1 << int(math.log2(videos)))


def _bucket(key: str, count: int) -> int:
    """Its first bits: where the number of buckets doubles, each becomes two."""
    first = int.from_bytes(hashlib.sha256(key.encode("ascii")).digest()[:8])
    return first * count >> 64
