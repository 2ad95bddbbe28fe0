"""File-safe names for video ids: ids are the user's data, never paths, options or shell words."""

import hashlib
import re

_LONGEST = 180  # leaves room for the suffixes that Snakemake and temporary names add to a 255-byte file name
_PLAIN = re.compile(rb"[A-Za-z0-9._-]")


def video_key(video_id: str) -> str:
    """The file name that stands for ``video_id``: one to one, plain ASCII, never hidden, never an option.

    Bytes (UTF-8) other than ``A-Z a-z 0-9 . _ -`` become ``%XX`` as in URLs, and so do a leading ``-`` or ``.``.
    What would be too long for a file name is cut and ends in ``~`` and a digest of the whole id.
    """
    raw = video_id.encode("utf-8", "surrogatepass")
    key = "".join(
        chr(byte) if _PLAIN.match(bytes([byte])) and not (place == 0 and byte in b"-.") else f"%{byte:02X}"
        for place, byte in enumerate(raw)
    )
    if len(key) > _LONGEST:
        key = key[: _LONGEST - 33] + "~" + hashlib.sha256(raw).hexdigest()[:32]
    return key
