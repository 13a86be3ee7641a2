"""The order of the suite."""


def pytest_collection_modifyitems(items):
    """Files with slow tests come first, so that none is left over when processes share them out (`make test`)."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
