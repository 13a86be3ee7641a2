"""Windows with a context through every runtime: two named inputs, one output, and no accuracy lost silently."""

import importlib.util
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from tlskit.networks import agreement, engines, inputs
from tlskit.networks import hardware as compute
from tlskit.networks.fusion import fold
from tlskit.networks.models import build_model
from tlskit.networks.runtimes import TorchEngine

HAS_OPENVINO = importlib.util.find_spec("openvino") is not None
needs_openvino = pytest.mark.skipif(not HAS_OPENVINO, reason="openvino, an optional extra, is not installed")
needs_bf16 = pytest.mark.skipif(
    compute.pick_precision("auto", "cpu") != "bf16", reason="this CPU does not multiply bf16 natively"
)
TILE_PX, CONTEXT_PX, RATIO = 96, 64, 2
ENGINES = ["torch", pytest.param("openvino", marks=needs_openvino)]


class Hooked(nn.Module):
    """A UNet++ whose deepest features take in a wider field: what a network with context is to its engines."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        base = build_model(encoder_weights="none")
        self.encoder, self.decoder, self.segmentation_head = base.encoder, base.decoder, base.segmentation_head
        self.context_encoder = nn.Conv2d(3, 320, 16, stride=16)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.7, 1.3)

    def features(self, tile, context):
        found = list(self.encoder(tile))
        wide = self.context_encoder(context)
        side = found[-1].shape[-1]
        first = (wide.shape[-1] - side) // 2
        found[-1] = found[-1] + 30 * wide[..., first : first + side, first : first + side]
        return found

    def forward(self, tile, context):
        return self.segmentation_head(self.decoder(self.features(tile, context)))


def spread():
    """A network whose probabilities spread."""
    network = Hooked().eval()
    head = network.segmentation_head[0]
    images = [part.permute(0, 3, 1, 2).float() / 255 for part in inputs.as_tensors(windows(2))]
    with torch.inference_mode():
        logits = network(*images)
    head.weight.data *= 0.3 / logits.std()
    head.bias.data = (head.bias.data - logits.mean()) * 0.3 / logits.std()
    return network


@pytest.fixture(scope="module")
def network():
    return spread()


def checkpoint(model):
    return SimpleNamespace(
        model=model, normalisation="divide_255", context_ratio=RATIO, context_px=CONTEXT_PX, context_of="field"
    )


def windows(count, seed=5):
    rng = np.random.default_rng(seed)
    stack = inputs.room(count, TILE_PX, CONTEXT_PX)
    for field in inputs.fields(stack):
        side = field.shape[1] // 16
        field[:] = rng.integers(0, 256, (count, side, side, 3), np.uint8).repeat(16, 1).repeat(16, 2)
    return stack


def plain(model, stack):
    """Independent of the module under test: torch, one window at a time."""
    found = []
    for window in stack:
        images = [
            torch.from_numpy(window[name].copy()).permute(2, 0, 1)[None].float() / 255 for name in window.dtype.names
        ]
        with torch.inference_mode():
            found.append(torch.sigmoid(model(*images))[0, 0].numpy())
    return np.stack(found)


def make(model, **options):
    return engines.make_engine(checkpoint(model), **{"window_px": TILE_PX, "device": "cpu", "threads": 2, **options})


def test_room_is_what_it_was_without_a_context_and_two_named_fields_with_one():
    assert inputs.room(3, 64).shape == (3, 64, 64, 3) and inputs.room(3, 64).dtype == np.uint8
    stack = inputs.room(3, 64, 96)
    assert stack.shape == (3,) and [field.shape for field in inputs.fields(stack)] == [(3, 64, 64, 3), (3, 96, 96, 3)]
    assert inputs.window_px_of(stack) == inputs.window_px_of(inputs.room(0, 64)) == 64
    stack[1] = (np.full((64, 64, 3), 7), np.full((96, 96, 3), 9))
    assert (stack["tile"][1] == 7).all() and (stack["context"][1] == 9).all()
    taken = inputs.room(2, 64, 96, allocate=lambda count: np.zeros(count, np.uint8))
    assert taken.shape == (2,) and not taken["context"].any()
    assert inputs.room(2, 64, allocate=lambda count: np.zeros(count, np.uint8)).shape == (2, 64, 64, 3)
    for without in (SimpleNamespace(), SimpleNamespace(context_ratio=0, context_px=256)):
        assert inputs.context_px_of(without) == 0


def test_tensors_are_the_fields_in_their_order():
    stack = windows(3)
    tile, context = inputs.as_tensors(stack[1:])
    assert np.array_equal(tile.numpy(), stack["tile"][1:]) and np.array_equal(context.numpy(), stack["context"][1:])
    (only,) = inputs.as_tensors(stack["tile"].copy())
    assert np.array_equal(only.numpy(), stack["tile"])


@pytest.mark.parametrize("name", ENGINES)
def test_every_runtime_gives_the_plain_networks_probabilities(network, name):
    stack = windows(5)
    expected = plain(network, stack)
    assert expected.std() > 0.05
    other = stack.copy()
    other["context"] = 255
    assert np.abs(plain(network, other) - expected).max() > 0.05, "the context decides"
    engine = make(network, engine=name, precision="exact")
    tickets = [engine.submit(stack[:2]), engine.submit(stack[2:])]
    got = np.concatenate([engine.result(ticket) for ticket in tickets])
    assert got.shape == (5, TILE_PX, TILE_PX) and np.abs(got - expected).max() < agreement.EXACT_DPROB
    assert engine.empty(2, TILE_PX).dtype == stack.dtype
    assert np.abs(engines.eager(checkpoint(network), stack) - expected).max() < 1e-5


def test_a_batch_at_a_time_is_the_same(network):
    stack = windows(3)
    engine = TorchEngine(checkpoint(network), "exact", torch.device("cpu"))
    assert np.abs(engine.predict(stack) - plain(network, stack)).max() < agreement.EXACT_DPROB


@pytest.mark.parametrize("name", ENGINES)
@needs_bf16
def test_mixed_precision_keeps_both_encoders_in_float32(network, name):
    stack = windows(4)
    engine = engines.EngineSource(
        checkpoint(network), window_px=TILE_PX, engine=name, device="cpu", threads=2
    ).exactly(name, "mixed")  # fmt: skip
    assert np.abs(engine.predict(stack) - plain(network, stack)).max() <= agreement.MAX_DPROB


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
def test_a_gpu_gives_what_the_cpu_gives(network):
    engine = make(network, precision="exact", device="cuda")
    stack = engine.empty(5, TILE_PX)
    stack[:] = windows(5)
    tickets = [engine.submit(stack[:3]), engine.submit(stack[3:])]
    got = np.concatenate([engine.result(ticket) for ticket in tickets])
    assert np.abs(got - plain(network, stack)).max() < agreement.EXACT_DPROB


def test_the_decoder_is_folded(network):
    folded = fold(network)
    blocks = [type(block).__name__ for block in folded.decoder.blocks.values()]
    assert set(blocks) == {"_FoldedBlock"}
    stack = windows(2)
    assert np.abs(plain(folded, stack) - plain(network, stack)).max() < 1e-4


@needs_bf16
def test_auto_is_compared_with_float32_by_windows_with_their_context(network, caplog):
    stack = windows(4)
    options = {"device": "cpu", "threads": 2}
    # a threshold away from the bulk of this network's probabilities: no rounding decides a side
    engine, tried = engines.choose(checkpoint(network), stack, threshold=0.05, **options)
    assert engine.precision == "mixed" and tried[0]["n_windows"] == 4 and tried[0]["kept"]
    steep = Steep(network)
    with caplog.at_level(logging.WARNING, logger="tlskit.networks.engines"):
        engine, tried = engines.choose(checkpoint(steep), stack, **options)
    assert tried[0]["precision"] == "mixed" and not tried[0]["kept"] and engine.precision == "exact"
    assert "mixed differs from float32" in caplog.text


class Steep(nn.Module):
    """What bf16 rounds away in the decoder decides the probability."""

    def __init__(self, network):
        super().__init__()
        self.encoder, self.decoder, self.whole = network.encoder, network.decoder, network
        self.segmentation_head = Sharpened(network.segmentation_head)

    def features(self, tile, context):
        return self.whole.features(tile, context)

    def forward(self, tile, context):
        return self.segmentation_head(self.decoder(self.features(tile, context)))


class Sharpened(nn.Module):
    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, x):
        return 300 * self.head(x)
