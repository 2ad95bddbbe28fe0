"""Tests that only a machine with a CUDA device can run: skipped, with the reason, where torch cannot use one.

``--stand-in``: the CPU stands in for two devices, with one backbone and without fp16, which takes minutes there. That
tries the tests, and no device.
"""

import functools
import os

import pytest
from framefeat.environment import DEVICES
from framefeat.errors import UserError
from framefeat.extract import devices


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--stand-in", action="store_true", help="the CPU stands in for the GPU: to try the tests"
    )


@functools.cache
def _missing() -> str:
    try:
        devices.settle("cuda")
    except UserError as error:
        return str(error)
    finally:
        os.environ.pop(DEVICES, None)  # each test asks for itself
    return ""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "family" in metafunc.fixturenames:
        from tests.gpu.test_cuda import FAMILIES, TOLERANCE

        few = metafunc.config.getoption("--stand-in", False)
        families, precisions = (FAMILIES[:1], ["float32", "bf16"]) if few else (FAMILIES, list(TOLERANCE))
        metafunc.parametrize("family", families, indirect=True, scope="module")
        metafunc.parametrize("precision", precisions)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--stand-in", False):
        return
    for item in items:
        if item.get_closest_marker("needs_cuda") and _missing():
            item.add_marker(pytest.mark.skip(reason=_missing()))


@pytest.fixture(scope="session")
def device(pytestconfig: pytest.Config) -> str:
    """What torch calls the device: ``cuda``, or ``cpu`` where it stands in."""
    return "cpu" if pytestconfig.getoption("--stand-in", False) else "cuda"


@pytest.fixture
def real_device(device: str) -> None:
    if device == "cpu":
        pytest.skip("only a real device has this")
