"""The last lines of a run that failed."""

from pathlib import Path

from framefeat import outcome


def test_a_list_of_problems_is_not_cut_at_its_heading(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "a.log"
    log.parent.mkdir()
    log.write_text(
        "a warning\nframefeat extract: Weights file w.pth does not fit resnet18:\n  - no fc.bias\n  - no fc.weight\n"
    )
    said = list(outcome.failures([log.parent], 0, "snakemake --cores 4"))
    assert said[:3] == ["1 job(s) failed:", "  Weights file w.pth does not fit resnet18:", "    - no fc.bias"]
    assert said[-1] == "  snakemake --cores 4"


def test_what_two_jobs_say_is_said_once_and_not_at_any_length(tmp_path: Path) -> None:
    """Two backbones are refused for the same damaged videos."""
    listed = "".join(f"  - 'v{number}': damaged\n" for number in range(30))
    for name in ("a", "b"):
        (tmp_path / f"{name}.log").write_text(
            f"framefeat assemble: 30 videos have bad rows:\n{listed}Mend them.\n"
        )
    said = list(outcome.failures([tmp_path, tmp_path / "no such"], 0, "snakemake"))
    assert said[0] == "2 job(s) failed:"
    assert sum("'v3'" in line for line in said) == 1
    assert not any("'v25'" in line for line in said)
    assert said[22:24] == ["    ... and 10 more; the log lists them all", "  Mend them."]
    assert f"    log: {tmp_path / 'a.log'}, {tmp_path / 'b.log'}" in said
