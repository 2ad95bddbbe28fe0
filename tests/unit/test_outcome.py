"""The last lines of a run that failed."""

from pathlib import Path

from framefeat import outcome


def test_a_list_of_problems_is_not_cut_at_its_heading(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "a.log"
    log.parent.mkdir()
    log.write_text(
        "a warning\nframefeat extract: Weights file w.pth does not fit resnet18:\n  - no fc.bias\n  - no fc.weight\n"
    )
    said = list(outcome.failures(log.parent, 0, "snakemake --cores 4"))
    assert said[1] == "  Weights file w.pth does not fit resnet18: - no fc.bias"
    assert said[-1] == "  snakemake --cores 4"
