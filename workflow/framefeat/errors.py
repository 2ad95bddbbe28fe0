"""What a person can mend is a ``UserError``: the command line prints it without a traceback."""

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
