"""Tests that only a machine with a CUDA device can run: skipped, with the reason, where torch cannot use one."""

import functools
import os

import pytest
from framefeat.environment import DEVICES
from framefeat.errors import UserError
from framefeat.extract import devices


@functools.cache
def _missing() -> str:
    try:
        devices.settle("cuda")
    except UserError as error:
        return str(error)
    finally:
        os.environ.pop(DEVICES, None)  # each test asks for itself
    return ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("needs_cuda") and _missing():
            item.add_marker(pytest.mark.skip(reason=_missing()))
