"""A network with context: it begins as the one without, and what meets at the hook is one place."""

import numpy as np
import pandas as pd
import pytest
import torch
from made_cohort import outlined_slide, tile_rows
from made_training import write_cohort
from shapely.geometry import box
from torch import nn
from torch.nn import functional

from tlskit.errors import CheckpointError, ParameterError
from tlskit.networks import loop, network_size, training
from tlskit.networks.context import HookedUnetPlusPlus, under_tile
from tlskit.networks.models import Checkpoint, build_model, load_checkpoint, save_checkpoint
from tlskit.tiles import TileDataset

ENCODER = "tu-mobilenetv3_small_050"


def both(ratio, **options):
    made = []
    for r in (0, ratio):
        torch.manual_seed(3)
        made.append(build_model(encoder=options.get("encoder", ENCODER), encoder_weights="none", context_ratio=r))
    return made


@pytest.mark.parametrize(("encoder", "ratio"), [(ENCODER, 2), ("efficientnet-b0", 4), ("resnet18", 8)])
def test_it_begins_as_the_network_without_context_bit_for_bit(encoder, ratio):
    single, hooked = both(ratio, encoder=encoder)
    tile, context = torch.rand(2, 3, 128, 128), torch.rand(2, 3, 96, 96)
    for network in (single, hooked):
        network.eval()
    with torch.inference_mode():
        before = single(tile)
        assert torch.equal(hooked(tile, context), before)
        assert torch.equal(hooked(tile, torch.rand_like(context)), before)
        hooked.hook.weight.normal_(std=0.1)
        assert not torch.equal(hooked(tile, context), before)
        # ... and what was learnt beside the hook leaves no trace where the hook's weights are 0.
        for parameter in [*hooked.context_encoder.parameters(), *hooked.context_decoder.parameters()]:
            parameter.add_(0.01)
        hooked.hook.weight.zero_()
        assert torch.equal(hooked(tile, context), before)
    names = set(single.state_dict())
    assert names <= set(hooked.state_dict())
    assert all(torch.equal(value, hooked.state_dict()[name]) for name, value in single.state_dict().items())


def test_the_context_is_learnt_from_the_second_step_on():
    _, hooked = both(4)
    hooked.train()
    optimizer = torch.optim.Adam(hooked.parameters(), lr=1e-3)
    for step in range(2):
        optimizer.zero_grad()
        hooked(torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)).square().mean().backward()
        moved = max(float(p.grad.abs().max()) for p in hooked.context_decoder.parameters())
        assert hooked.hook.weight.grad.abs().max() > 0
        assert (moved > 0) == (step > 0)
        optimizer.step()


def test_the_auxiliary_loss_alone_teaches_the_context_s_own_head():
    _, hooked = both(4)
    tile, context = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 96, 96)
    logits, wide = hooked.eval()(tile, context, both=True)
    assert logits.shape == (2, 1, 64, 64) and wide.shape == (2, 1, 96, 96)
    assert torch.equal(logits, hooked(tile, context))
    logits.square().mean().backward()
    assert hooked.context_head.weight.grad is None
    hooked(tile, context, both=True)[1].square().mean().backward()
    assert hooked.context_head.weight.grad.any()
    assert any(p.grad.any() for p in hooked.context_encoder.parameters() if p.grad is not None)


def test_parameters_and_arithmetic_are_those_worked_out_by_hand():
    """UNet++/b0 at 512 px: 6.57 M and 44.1 GFLOP; with a context of 256 px at ratio 4: 11.01 M and 45.4 GFLOP."""
    for ratio, weights, gflop, n_rows in ((0, 6.57, 44.1, 1), (4, 11.01, 45.4, 3)):
        model = build_model(encoder_weights="none", context_ratio=ratio)
        size = network_size(checkpoint_of(model, encoder="efficientnet-b0", tile_px=512, context_ratio=ratio))
        assert len(size) == n_rows and size["part"].iloc[-1] == "network"
        assert size["parameters_millions"].iloc[-1] == pytest.approx(weights, abs=0.005)
        assert size["gflop_per_tile"].iloc[-1] == pytest.approx(gflop, abs=0.05)
    assert size["parameters_millions"][0] == pytest.approx(6.57, abs=0.005)
    assert size["gflop_per_tile"][0] == pytest.approx(44.1, abs=0.05)
    assert size["inputs"][0] == "tile 512 x 512 px, context 256 x 256 px"
    hook_px, up1, up2 = (320 + 64) * 320 + 320, (320 + 112) * 64 * 9 + 128, (64 + 40) * 64 * 9 + 128
    encoder = sum(parameter.numel() for parameter in model.encoder.parameters())
    assert size["parameters_millions"][1] * 1e6 == pytest.approx(encoder + hook_px + up1 + up2 + 65)


def checkpoint_of(model, **changes):
    settings = {
        "model": model, "encoder": ENCODER, "magnification": 10, "mpp": 1.0, "tile_px": 64, "overlap": 0.5,
        "normalisation": "divide_255", "threshold": 0.5, "target_class": "TLS", "resolution_by": "mpp",
        "split_hash": "", "history": pd.DataFrame({"epoch": [1]}),
    }  # fmt: skip
    return Checkpoint(**(settings | changes))


def test_a_checkpoint_carries_its_context_and_refuses_the_settings_of_another(tmp_path):
    single, hooked = both(4)
    with torch.no_grad():
        hooked.hook.weight.normal_()
    said = {"context_ratio": 4, "context_px": 96, "context_of": "self"}
    save_checkpoint(tmp_path / "hooked.pt", checkpoint_of(hooked, **said))
    save_checkpoint(tmp_path / "single.pt", checkpoint_of(single))
    loaded = load_checkpoint(tmp_path / "hooked.pt", device="cpu", **said)
    assert {name: getattr(loaded, name) for name in said} == said and "4 times as coarse (self)" in repr(loaded)
    tile, context = torch.rand(1, 3, 64, 64), torch.rand(1, 3, 96, 96)
    with torch.inference_mode():
        assert torch.equal(loaded.model(tile, context), hooked.eval()(tile, context))
    for changed, word in (
        ({"context_ratio": 0}, "context_ratio"), ({"context_px": 64}, "context_px"), ({"context_of": "field"}, "self"),
    ):  # fmt: skip
        with pytest.raises(CheckpointError, match=word):
            load_checkpoint(tmp_path / "hooked.pt", device="cpu", **(said | changed))
    assert load_checkpoint(tmp_path / "single.pt", device="cpu", context_ratio=0, context_px=64).context_ratio == 0
    with pytest.raises(CheckpointError, match="context_ratio"):
        load_checkpoint(tmp_path / "single.pt", device="cpu", **said)
    held = torch.load(tmp_path / "hooked.pt", weights_only=True)
    torch.save(held | {"context_ratio": "4"}, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match="context_ratio.*train again"):
        load_checkpoint(tmp_path / "odd.pt", device="cpu")
    # A network without context is written as before there were contexts: its file, and so its hash, is the same.
    held = torch.load(tmp_path / "single.pt", weights_only=True)
    assert not [name for name in held if "context" in name]


def test_an_encoder_that_cannot_take_a_context_is_refused():
    class Shallow(nn.Module):
        out_channels, output_stride = [3, 8, 16], 4

    class Net(nn.Module):
        encoder, decoder, segmentation_head = Shallow(), nn.Identity(), nn.Identity()

    with pytest.raises(ParameterError, match="five times"):
        HookedUnetPlusPlus(Net(), 4)


# Alignment


class Pyramid(nn.Module):
    """An encoder that computes nothing: colours averaged over its cells."""

    out_channels, output_stride = [3] * 6, 32

    def forward(self, x):
        return [functional.avg_pool2d(x, 2**stage) for stage in range(6)]


class Skip(nn.Module):
    """A block of a decoder that passes on what it was skipped to: the context's own colours at that stage."""

    def forward(self, x):
        return x[:, -3:]


def identity_network(ratio):
    class Net(nn.Module):
        encoder, decoder, segmentation_head = Pyramid(), nn.Identity(), nn.Identity()

    hooked = HookedUnetPlusPlus(Net(), ratio)
    hooked.context_decoder = nn.ModuleList([Skip() for _ in hooked.context_decoder])
    return hooked


SIDE_PX0, STEP = 1600, 8  # a grey level is 8 px wide


@pytest.fixture(scope="module")
def painted(tmp_path_factory):
    """A slide whose colours are the place: red tells x, green y. At um/px that are no power of two of anything."""
    folder, rows = tmp_path_factory.mktemp("painted"), {}
    y, x = np.mgrid[0:SIDE_PX0, 0:SIDE_PX0]
    image = np.stack([x // STEP, y // STEP, np.full_like(x, 120)], 2).astype(np.uint8)
    for mpp0 in (0.5, 0.4417):
        rows[mpp0] = outlined_slide(folder, f"at{mpp0}", image, [box(9, 9, 99, 99)], mpp=mpp0, quality=100)
    return rows


@pytest.mark.parametrize("mpp0", [0.5, 0.4417])
@pytest.mark.parametrize("ratio", [2, 4, 8])
@pytest.mark.parametrize(("tile_px", "context_px"), [(64, 64), (128, 160), (192, 96), (64, 256)])
def test_what_meets_at_the_hook_is_one_place(painted, mpp0, ratio, tile_px, context_px):
    """To under a cell, which is 32 tile pixels: here to the rounding of the context's origin and to the grey levels."""
    if context_px * ratio <= tile_px:
        pytest.skip("no context is left")
    magnification = 10 / 0.9  # 0.9 um/px: 1.8 and 2.04 level-0 pixels
    d = 0.9 / mpp0
    last = int(SIDE_PX0 / d) - tile_px  # flush with the slide's edge, and a few beyond and between
    corners = sorted({0, 1, 3, 37, last // 2, last - 5, last, last + 24})
    tiles = pd.DataFrame(tile_rows(f"at{mpp0}", corners, [0, 21, last], tile_px, d=d))
    tiles["size_px0"] = tile_px * d
    dataset = TileDataset(
        tiles, pd.DataFrame([painted[mpp0]]), magnification=magnification, tile_px=tile_px, target_class="TLS",
        context_ratio=ratio, context_px=context_px,
    )  # fmt: skip
    network = identity_network(ratio)
    images, _, _, contexts = dataset.batch(range(len(tiles)))
    deep = network.encoder(images)[-1]
    meets = under_tile(network.context_features(contexts), deep)
    assert meets.shape == deep.shape == (len(tiles), 3, tile_px // 32, tile_px // 32)
    looked = 0
    for number, row in enumerate(tiles.itertuples()):
        corner = np.rint(np.array([row.y_px0, row.x_px0]) / d)
        # Cells that lie wholly on the slide, with a context pixel to spare: white beyond it has no coordinate.
        there = [(at + np.arange(32, tile_px + 1, 32) + ratio) * d <= SIDE_PX0 for at in corner]
        apart = (meets - deep)[number, :2].numpy()[:, there[0]][:, :, there[1]] * 255 * STEP / d  # in tile pixels
        looked += apart.size
        assert np.abs(apart).max(initial=0) <= ratio / 2 + 1.5, corner
    assert looked > 4 * len(tiles)


# Training


def settings(**changes):
    base = {
        "magnification": 10, "tile_px": 64, "overlap": 0.5, "target_class": "TLS", "encoder": ENCODER,
        "encoder_weights": "none", "epochs": 3, "steps_per_epoch": 2, "batch_size": 4, "learning_rate": 1e-3,
        "precision": "exact", "augment": True, "seed": 1, "device": "cpu", "split_hash": "hash",
        "context_ratio": 4, "context_px": 64,
    }  # fmt: skip
    return base | changes


PLAIN_COLUMNS = ["epoch", "steps", "train_loss", "val_loss", "val_iou", "val_dice", "best"]


@pytest.mark.parametrize("changes", [{}, {"context_of": "other", "context_loss_weight": 0.5}])
def test_a_killed_training_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch, changes):
    tiles, manifest = write_cohort(tmp_path)
    whole = training.train(tiles, manifest, out_path=tmp_path / "whole.pt", **settings(**changes))

    class Killed(BaseException):
        pass

    def die(path, state, parts, real=loop._save_state):
        real(path, state, parts)
        if len(state["history"]) == 1:
            raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(loop, "_save_state", die)
        training.train(tiles, manifest, out_path=tmp_path / "killed.pt", **settings(**changes))
    again = training.train(tiles, manifest, out_path=tmp_path / "killed.pt", workers=2, **settings(**changes))
    pd.testing.assert_frame_equal(again.history[PLAIN_COLUMNS], whole.history[PLAIN_COLUMNS], check_exact=True)
    one, other = (load_checkpoint(tmp_path / f"{name}.pt", device="cpu") for name in ("whole", "killed"))
    weights = [found.model.state_dict().values() for found in (one, other)]
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    assert (one.context_ratio, one.context_px, one.context_of) == (4, 64, changes.get("context_of", "field"))
    moved = {name for name, value in one.model.state_dict().items() if name.startswith("hook") and value.any()}
    assert moved == {"hook.weight", "hook.bias"}


def test_another_context_is_another_training(tmp_path):
    tiles, manifest = write_cohort(tmp_path)
    short = {"epochs": 1, "steps_per_epoch": 1}
    made = set()
    for changes in ({}, {"context_of": "self"}, {"context_ratio": 2}, {"context_px": 96}, {"context_ratio": 0}):
        result = training.train(tiles, manifest, out_path=tmp_path / "c.pt", **settings(**short, **changes))
        made.add(load_checkpoint(result.checkpoint_path, device="cpu").params["fingerprint"])
    assert len(made) == 5
    with pytest.raises(ParameterError, match="no context is left"):
        training.train(tiles, manifest, out_path=tmp_path / "c.pt", **settings(context_ratio=2, context_px=32))
    with pytest.raises(ParameterError, match="needs a `context_ratio`"):
        training.train(tiles, manifest, out_path=tmp_path / "c.pt", **settings(context_ratio=0, context_loss_weight=1))
