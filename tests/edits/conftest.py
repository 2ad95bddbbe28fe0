"""``--edits N``: how many random edits. The toy collections are those of the workflow tests."""

import pytest

from tests.workflow.conftest import clips, new_collection, new_project, tiny, weights  # noqa: F401


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--edits", type=int, default=3, help="so many random edits (default: %(default)s)")
    parser.addoption("--edit-seed", type=int, default=0, help="seed of the edits (default: %(default)s)")
