"""What ``make`` would do to the machine that it runs on."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_packages_go_into_the_projects_own_environments() -> None:
    """Not into the one that is active in the caller's shell, which uv takes where it is told of none."""
    asked = ["make", "--dry-run", "--always-make", "env", "env-dev", "env-bench", "env-slurm"]
    told = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    installs = [line.split() for line in told.splitlines() if "uv pip install" in line]
    assert len(installs) == 7
    for words in installs:
        assert words[words.index("--python") + 1] in (".venv/bin/python", ".venv-slurm/bin/python")


def test_one_command_checks_a_machine_with_a_gpu_and_measures_it() -> None:
    told = subprocess.run(
        ["make", "--dry-run", "test-gpu"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    tests, speed = (
        told.index(words) for words in ("pytest -q -s -rs --timeout 900 tests/gpu", "python -m bench.gpu")
    )
    assert tests < speed
