"""Tests with the mark `toolkits` run only where it is asked for."""

import pytest


def pytest_collection_modifyitems(config, items):
    if "toolkits" not in config.getoption("markexpr"):
        for item in items:
            if item.get_closest_marker("toolkits"):
                item.add_marker(pytest.mark.skip(reason="run with pytest -m toolkits"))
