"""``--kills N``: how many runs are killed. The toy collections are those of the workflow tests."""

import pytest

from tests.workflow.conftest import clips, new_collection, new_project, tiny, weights  # noqa: F401


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=2, help="kill -9 so many runs (default: %(default)s)")
    parser.addoption("--kill-seed", type=int, default=0, help="seed of the moments (default: %(default)s)")
