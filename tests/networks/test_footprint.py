"""What a step of training holds in memory, before it is made."""

import subprocess
import sys

import pytest

from tlskit.errors import ParameterError
from tlskit.networks import models
from tlskit.networks.footprint import training_bytes

STEP = """
import resource, sys, torch
from tlskit.networks import models
from tlskit.networks.footprint import training_bytes
from tlskit.networks.hardware import tune_allocator
tune_allocator()
said = training_bytes(models.build_model(encoder_weights="none"), tile_px=256, batch_size=2)
model = models.build_model(encoder_weights="none").train()
adam = torch.optim.Adam(model.parameters())
model(torch.rand(2, 3, 256, 256)).sum().backward()
adam.step()
unit = 1 if sys.platform == "darwin" else 1024
print(said / (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit))
"""


@pytest.mark.slow
def test_the_estimate_is_near_what_a_real_step_takes():
    """Within a third, on a CPU in float32."""
    ran = subprocess.run([sys.executable, "-c", STEP], capture_output=True, text=True, check=True)
    assert 0.67 < float(ran.stdout) < 1.5, ran.stdout


def test_it_grows_with_the_batch_and_the_tile():
    def of(tile_px, batch_size):
        return training_bytes(models.build_model(encoder_weights="none"), tile_px=tile_px, batch_size=batch_size)

    assert of(64, 2) < of(64, 8) < of(256, 8)
    # Pixels count, not how they are dealt: four tiles are one of twice the side.
    assert of(256, 2) == pytest.approx(of(128, 8), rel=0.01)


@pytest.mark.parametrize(("tile_px", "batch_size", "message"), [(100, 8, "divisible by 32"), (32, 1, "more than 1")])
def test_batches_that_cannot_be_trained_on_are_refused(tile_px, batch_size, message):
    with pytest.raises(ParameterError, match=message):
        training_bytes(models.build_model(encoder_weights="none"), tile_px=tile_px, batch_size=batch_size)
