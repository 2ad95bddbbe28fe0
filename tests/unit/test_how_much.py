"""What docs/how-much.md says is what was measured, scaled to an hour of video and to a thousand clips."""

import re
from pathlib import Path

from bench import how_much


def _cells(text: str, first: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {first}"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_scaled_to_an_hour_and_to_a_thousand_clips() -> None:
    long = how_much.Sampling(cpu=2.0, kept=50_000, temporary=20e6, memory=160e6)
    short = how_much.Sampling(cpu=0.25, kept=30_000, temporary=2e6, memory=150e6)
    network = how_much.Embedding(dim=960, cpu=0.01, kept=7680, record=4000, memory=1.2e9, weights=22e6)
    text = how_much.section(long, short, {"net": network}, "a machine")
    assert _cells(text, "an hour") == ["7,200", "120", "160", "3.0", "1,200"]
    assert _cells(text, "1,000 clips") == ["10,000", "250", "150", "30", "2,000"]
    assert _cells(text, "net") == ["960", "100.0", "72", "100", "1,200", "56", "81", "22"]
    assert "a machine" in text


def test_the_page_has_a_row_for_each_backbone() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "how-much.md").read_text(encoding="utf-8")
    measured = page[page.index(how_much.START) : page.index(how_much.END)]
    table = measured[measured.index("| embedding") :]
    assert re.findall(r"^\| ([a-z]\w+) \| \d", table, re.MULTILINE) == list(how_much.BACKBONES)
