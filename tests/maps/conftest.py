"""What all tests of maps need."""

import pytest
import torch
from made_maps import painted_slide


@pytest.fixture(autouse=True)
def one_thread():
    """Networks here are tiny: threads of their own would only wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def painted(tmp_path_factory):
    return painted_slide(tmp_path_factory.mktemp("painted"))
