"""What the manifest says, told again from what is stored of each video: an edit of it does not go unseen."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from framefeat import stored
from framefeat.identity import identifying
from framefeat.layout import BackboneFolder
from framefeat.names import video_key
from framefeat.records import Manifest, Origin, VideoEntry
from framefeat.results.assemble import (
    Asked,
    Columns,
    Part,
    Summary,
    manifest_head,
    rows_by_video,
    seen,
    video_entry,
)
from framefeat.words import many


class ToldAgain:
    """``failures``: what the manifest says otherwise than what is stored. ``warnings``: what could not be compared,
    because it is not there or is newer than the manifest."""

    def __init__(
        self, folder: Path, manifest: Manifest, entries: Sequence[VideoEntry], index: pa.Table
    ) -> None:
        """``entries``: those of the manifest's videos that have the shape of one; ``index``: the merged one."""
        self._folder, self._manifest = BackboneFolder(folder), manifest
        self._columns = Columns(
            np.full(index.num_rows, -1, dtype=np.int64),
            np.full(index.num_rows, np.nan),
            np.empty(index.num_rows, dtype=object),
        )
        self._summary = Summary()
        self._entries = {video_key(entry["video_id"]): entry for entry in entries}
        self._asked: dict[str, Any] = {
            "geometry": manifest["spec"].get("geometry"),
            "decoder": manifest["decoder"],
            "precision": manifest["precision"],
            "spec": identifying(manifest["spec"]),
        }
        if "frame_index" in manifest.get("source", {}):  # in a folder a file may have one of its own
            self._asked["alignment"] = manifest["alignment"]
        self._made_otherwise: dict[tuple[str, str], list[Any]] = {}
        self.failures: list[str] = []
        self.warnings: list[str] = []
        left_out = [key for key, rows, places in rows_by_video(index) if not self._tell(key, rows, places)]
        for (name, value), values in self._made_otherwise.items():
            self.failures.append(
                f"the manifest says {name} is {value}, the features of {many(len(values), 'video')} were "
                f"made with {_short(values[0])}"
            )
        if left_out:
            self.warnings.append(
                f"of {many(len(left_out), 'video')} what the manifest says could not be compared: evidence or features are not "
                "there, or were computed again since"
            )
        else:
            self._tell_head()

    def _tell(self, key: str, rows: np.ndarray, places: np.ndarray) -> bool:
        """Whether one video could be compared."""
        entry = self._entries.get(key)
        part = self._part(key)
        if entry is None or part is None:
            return False
        mine = seen(part).take(places)
        told = video_entry(rows, places, part, mine)
        self._columns.put(rows, mine)
        self._summary.add(key, told, part, rows[mine.status == "bad"])
        self._compare(f"{entry['video_id']}: ", entry, told)
        made_with: dict[str, Any] = {**part.evidence["key"], **part.record["key"]}
        for name, value in self._asked.items():
            if made_with[name] != value:
                self._made_otherwise.setdefault((name, _short(value)), []).append(made_with[name])
        return True

    def _part(self, key: str) -> Part | None:
        """What is stored of a video, if it is what the manifest was written from."""
        geometry = str(self._manifest["preprocessing"].get("geometry"))
        paths = (self._folder.results.evidence(geometry, key), self._folder.features(key))
        try:
            if any(path.stat().st_mtime > self._folder.manifest.stat().st_mtime for path in paths):
                return None
            evidence, record = map(stored.read_record, paths)
            return Part(evidence, record, stored.read_array(paths[1], "features"))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _tell_head(self) -> None:
        manifest = self._manifest
        members = Origin.__annotations__
        origin: Any = {name: manifest[name] for name in members if name in manifest}  # type: ignore[literal-required]
        asked = Asked(
            self._folder.results,
            str(manifest["spec"].get("geometry")),
            manifest["spec"],
            manifest["dataset"],
            manifest["alignment"],
            manifest["decoder"],
            manifest["precision"],
            "",
            manifest["on_bad_frames"],
            origin,
        )
        told: Any = manifest_head(
            asked,
            self._columns,
            self._summary,
            manifest["matrix_sha256"],
            manifest["frame_index_sha256"],
        )
        told["versions"]["framefeat"] = manifest["versions"].get("framefeat")
        self._compare("", manifest, told)

    def _compare(self, where: str, said: Mapping[str, Any], told: Mapping[str, Any]) -> None:
        for name, value in told.items():
            if name not in said:
                self.failures.append(f"{where}the manifest does not say {name}")
            elif said[name] != json.loads(json.dumps(value)):
                self.failures.append(
                    f"{where}the manifest says {name} is {_short(said[name])}, by what is stored it is {_short(value)}"
                )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
