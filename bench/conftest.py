"""How the pytest-benchmark tables look, and what the benchmarks share: the C loop, both twins of a seam."""

import importlib.util
import sys

import pytest

from evloop.bench import native


def pytest_configure(config):
    """Choose the columns; mean and deviation say little where one interrupt is ten times the rest."""
    config.option.benchmark_columns = ["min", "median", "max", "rounds"]
    config.option.benchmark_sort = "min"


@pytest.fixture(scope="session", autouse=True)
def framing_floor():
    """Make the C loop importable, as the framing's cases want it."""
    path = native.build_module(native.FRAMING_FLOOR)
    spec = importlib.util.spec_from_file_location("framing_floor", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules["framing_floor"] = module
