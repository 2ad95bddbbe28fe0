"""``framefeat plan`` where a person is mistaken; what it foretells is compared with real runs in tests/workflow and
tests/edits."""

from pathlib import Path

import pytest
from framefeat.errors import UserError
from framefeat.run import plan as run_plan


def test_outside_of_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"config/config.yaml.*in the folder from which Snakemake is run"):
        run_plan.configuration(None)


@pytest.mark.parametrize("content", [None, b"a: [", b"\xff\xfe", b"- a\n- b\n", b"words"])
def test_what_is_no_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config").mkdir()
    Path("config/config.yaml").write_text("dataset: a\n")
    mine = tmp_path / "mine.yaml"
    if content is not None:
        mine.write_bytes(content)
    with pytest.raises(UserError, match=r"mine.yaml.*no configuration"):
        run_plan.configuration(mine)
