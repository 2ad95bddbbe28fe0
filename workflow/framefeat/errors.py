"""What a person can mend is a ``UserError``: the command line prints it without a traceback."""

import errno
from collections.abc import Sequence


class UserError(Exception):
    """A sentence (or several) that names the file, the row or key, and what to do next."""


def complain(heading: str, problems: Sequence[str], advice: str = "", most: int = 50) -> UserError:
    """One error that lists all ``problems`` of a kind (cut at ``most``, saying how many more there are)."""
    lines = [heading, *(f"  - {problem}" for problem in problems[:most])]
    if len(problems) > most:
        lines.append(f"  ... and {len(problems) - most} more")
    if advice:
        lines.append(advice)
    return UserError("\n".join(lines))


def no_room(error: BaseException) -> UserError | None:
    """The sentence for a disk, quota or file size that is used up; None for any other ``error``."""
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return None
    where = f": {error.filename!r}" if error.filename else ""
    return UserError(
        f"{error.strerror}{where}. Nothing half written was kept; make room and run again: what is finished stays."
    )
