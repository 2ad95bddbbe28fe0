"""Bounds the temporary frames on the disk where the device is slower than the decoders."""

import fcntl
import os
import time
from pathlib import Path

from framefeat.extract import client
from framefeat.layout import FRAMES_READY


def wait_for_room(sampled: Path, most: int) -> None:
    """Wait while the frames of ``most`` shards or more wait for their extraction, as the files in ``sampled`` tell,
    *and* a device is at work to use them up.

    Only a device at work is waited for: its job holds a core of its own, so waiting decoders cannot keep it from
    ending. Without an owner (by hand) there is nothing to wait for.
    """
    owner = client.owner_here()
    if not owner:
        return
    folder = client.runtime_folder(owner)
    while _count(sampled) >= most and any(_is_held(slot) for slot in folder.glob("*.slot")):
        time.sleep(0.25)


def _count(sampled: Path) -> int:
    if not sampled.is_dir():
        return 0
    names = [entry.name for entry in os.scandir(sampled)]
    return sum(name.endswith(FRAMES_READY) and not name.startswith(".") for name in names)


def _is_held(slot: Path) -> bool:
    with open(slot) as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
