"""``--mutations N``: how many broken clips."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--mutations", type=int, default=24, help="so many broken clips (default: %(default)s)")
    parser.addoption(
        "--mutation-seed", type=int, default=0, help="the first one's seed (default: %(default)s)"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        first = metafunc.config.getoption("--mutation-seed")
        metafunc.parametrize("seed", range(first, first + metafunc.config.getoption("--mutations")))
