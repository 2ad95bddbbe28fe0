"""What a person can mend is a ``UserError``: the command line prints it without a traceback."""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class UserError(Exception):
    """A sentence (or several) that names the file, the row or key, and what to do next."""


class MachineError(UserError):
    """Trouble that is not a video's: no room, no memory, an output that cannot be written. It is never a finding about
    a file: the job fails, and the next run takes it up again."""


def complain(heading: str, problems: Sequence[str], advice: str = "", most: int = 50) -> UserError:
    """One error that lists all ``problems`` of a kind (cut at ``most``, saying how many more there are)."""
    lines = [heading, *(f"  - {problem}" for problem in problems[:most])]
    if len(problems) > most:
        lines.append(f"  ... and {len(problems) - most} more")
    if advice:
        lines.append(advice)
    return UserError("\n".join(lines))


def first_line(error: BaseException) -> str:
    """The first line of what it says: torch adds advice."""
    return (str(error).strip() or type(error).__name__).partition("\n")[0]


#: Of the machine, whoever meets it: too many open files, no process or memory to be had, a disk that takes no writes.
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EROFS)


def machine_trouble(error: BaseException) -> MachineError | None:
    """``error`` as trouble of the machine; None where a video's file can be the cause.

    FFmpeg reads the video and writes nothing, so its errors are the file's, whatever their number: it says 'no memory'
    to a frame size that no memory suffices for.
    """
    if isinstance(error, MachineError):
        return error
    if type(error).__module__.partition(".")[0] == "av":
        return None
    if full := no_room(error):
        return MachineError(str(full))
    if isinstance(error, MemoryError):
        return MachineError(
            f"There is not enough memory ({error or 'MemoryError'}); give the job more (mem_mb), or run fewer at once, and "
            "run again."
        )
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return MachineError(
            "The system lets this user start no more threads; run fewer jobs at once, or raise the limit (ulimit -u), and "
            "run again."
        )
    if isinstance(error, OSError) and error.errno in _EXHAUSTED:
        where = f": {error.filename!r}" if error.filename else ""
        return MachineError(f"{error.strerror}{where}; this is the machine's trouble: mend it and run again.")
    return None


def path_trouble(error: BaseException) -> UserError | None:
    """What the system says of a path as a sentence; None where ``error`` is something else. Paths are a person's."""
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        name = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else str(error.filename)
        shown = repr(name if len(name) <= 200 else f"{name[:100]}...{name[-40:]}")
        return UserError(f"{shown}: {error.strerror}; name another path, or mend this one, and run again.")
    return None


@contextmanager
def writing(path: str) -> Iterator[None]:
    """Whatever goes wrong while an output is written is the machine's trouble."""
    try:
        yield
    except OSError as error:
        full = no_room(error)
        raise MachineError(
            str(full)
            if full
            else f"{path!r} cannot be written ({error.strerror or error}); mend this and run again."
        ) from error


def no_room(error: BaseException) -> UserError | None:
    """The sentence for a disk, quota or file size that is used up; None for any other ``error``."""
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return None
    where = f": {error.filename!r}" if error.filename else ""
    return UserError(
        f"{error.strerror}{where}. Nothing half written was kept; make room and run again: what is finished stays."
    )
