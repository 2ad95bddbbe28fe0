"""docs/benchmarks.md: what stands between two of its markers is a command's to write."""

import os
import platform
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
DATA = ROOT / "bench" / "data"
CORES = len(os.sched_getaffinity(0))


def machine() -> str:
    info = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in info if "model name" in line), platform.processor())
    memory = psutil.virtual_memory().total / 2**30
    return f"{model}, {CORES} cores, {memory:.0f} GiB, Linux {platform.release()}"


def write_section(name: str, text: str) -> None:
    """Put ``text`` between ``<!-- name:start -->`` and ``<!-- name:end -->``."""
    target, start, end = ROOT / "docs" / "benchmarks.md", f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    before, _, rest = target.read_text().partition(start)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"{target}: no {start} with its {end}")
    target.write_text(f"{before}{start}\n\n{text.strip()}\n\n{end}{after}")
