"""The NVIDIA driver, asked without torch: how many GPUs there are, and its version. Standard library only."""

import re
from pathlib import Path

_GPUS = Path("/proc/driver/nvidia/gpus")
_NODES = (Path("/dev/nvidiactl"), Path("/dev/dxg"))


def present_devices() -> int:
    """How many GPUs the machine (or the container) shows."""
    if _GPUS.is_dir():
        return len(list(_GPUS.iterdir()))
    if not any(node.exists() for node in _NODES):
        return 0
    return sum(line.startswith("GPU ") for line in _nvidia_smi("-L"))


def _nvidia_smi(*options: str) -> list[str]:
    """The lines that it prints; none where there is no such tool."""
    import subprocess

    try:
        done = subprocess.run(
            ["nvidia-smi", *options], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.splitlines()


def version() -> str:
    """The NVIDIA driver's version; empty where it cannot be read."""
    try:
        found = re.search(r"\d{3}\.[\d.]+", (_GPUS.parent / "version").read_text().partition("\n")[0])
    except OSError:
        found = re.search(
            r"\d{3}\.[\d.]+", "\n".join(_nvidia_smi("--query-gpu=driver_version", "--format=csv,noheader"))
        )
    return found.group() if found else ""
