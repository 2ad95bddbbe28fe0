"""FFmpeg's shared libraries for torchcodec, which brings none: those that PyAV's wheel brings, by their usual names.

So both decode with the same build of FFmpeg, and the benchmark needs no FFmpeg of the system.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

_NAME = re.compile(r"lib(avcodec|avdevice|avfilter|avformat|avutil|swresample|swscale)-\w+\.so\.(\d+)")


def environment(folder: Path) -> dict[str, str]:
    """The environment in which torchcodec finds FFmpeg. ``folder``: for links to PyAV's libraries; made anew."""
    here = dict(os.environ)
    if _loads(here):
        return here
    found = importlib.util.find_spec("av")
    libraries = Path(str(found and found.origin)).parents[1] / "av.libs"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in libraries.glob("*.so*"):
        (folder / path.name).symlink_to(path)  # they look for each other beside themselves
        if usual := _NAME.match(path.name):
            (folder / f"lib{usual[1]}.so.{usual[2]}").symlink_to(path)
    there = here | {
        "LD_LIBRARY_PATH": os.pathsep.join([str(folder), *filter(None, [here.get("LD_LIBRARY_PATH")])])
    }
    if not _loads(there):
        raise SystemExit(
            "torchcodec does not load: 'make env-bench' installs it, and it needs FFmpeg's shared libraries, of the system "
            f"or in {str(libraries)!r}."
        )
    return there


def _loads(environment: dict[str, str]) -> bool:
    command = [sys.executable, "-c", "from torchcodec.decoders import VideoDecoder; VideoDecoder(b'')"]
    said = subprocess.run(command, env=environment, capture_output=True, text=True).stderr
    return "libtorchcodec" not in said and "No module named" not in said
