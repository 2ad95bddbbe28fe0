"""Words that several messages share."""


def many(count: int, noun: str) -> str:
    """``1 video``, ``2 videos``, ``10,000 videos``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
