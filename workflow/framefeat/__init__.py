"""Row-aligned frame features of many videos, with proof that every row is its frame.

The package knows nothing of Snakemake: each stage is a function over files and a subcommand of ``framefeat``.
Importing it is cheap; numpy, torch and the decoders are imported by the modules that use them.
"""

from typing import Any

__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    if name == "load":
        from framefeat.results.dataset import load

        return load
    if name == "pad_collate":
        from framefeat.results.sequences import pad_collate

        return pad_collate
    raise AttributeError(f"module 'framefeat' has no attribute {name!r}")
