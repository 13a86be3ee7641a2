"""The order of the suite, and what a test leaves to the next one in its process."""

import signal
import sys

import pytest


def pytest_configure():
    """A shell starts what it runs in the background with the interrupt ignored, and so would be what tests start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Files with slow tests come first, so that none is left over when processes share them out (`make test`)."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def nothing_left():
    """Figures that are open, and handlers of the command line, which is meant to have a process to itself."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")
