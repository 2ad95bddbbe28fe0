"""The file that a video's fingerprint stands for, watched while it is decoded: what was made of another file, or of one
that went away, must not be stored as this one's."""

import os

from framefeat.errors import MachineError
from framefeat.files import Stamp, file_sha256, file_stamp
from framefeat.records import VideoRecord


class Source:
    """A local file, as the merge read it. Of a remote one, or one that the merge could not read, nothing is known.

    Raises ``MachineError`` where it is another file than the merge read, or is gone: the next merge reads it anew.
    """

    def __init__(self, record: VideoRecord) -> None:
        self._path, self._merged = record["path"], record.get("stamp")
        if self._merged is None:
            return
        self._stamp = self._found()
        if self._stamp != tuple(self._merged) and self._sha256() != record["fingerprint"]:
            raise MachineError(
                f"{self._path!r} was replaced since this run read it; run again: the next run reads it anew."
            )

    @property
    def is_known(self) -> bool:
        """Whether the merge read it whole: if it cannot be read now, that is not the file's fault."""
        return self._merged is not None

    def check(self) -> None:
        """Raises ``MachineError`` where it is not what it was when this was made."""
        if self.is_known and self._found() != self._stamp:
            raise MachineError(
                f"{self._path!r} was replaced while it was decoded; run again: the next run reads it anew."
            )

    def _found(self) -> Stamp:
        try:
            return file_stamp(os.stat(self._path))
        except OSError as error:
            raise self._gone(error) from None

    def _sha256(self) -> str:
        try:
            return file_sha256(self._path)
        except OSError as error:
            raise self._gone(error) from None

    def _gone(self, error: OSError) -> MachineError:
        return MachineError(
            f"{self._path!r} cannot be read ({error.strerror or error}), and could when this run began: is its disk still "
            "there? Mend this and run again."
        )
