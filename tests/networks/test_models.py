"""Networks, pretrained weights from files, and checkpoints that say how they are applied."""

import dataclasses
import pickle

import numpy as np
import pandas as pd
import pytest
import segmentation_models_pytorch as smp
import torch
from safetensors.torch import save_file

from tlskit.errors import CheckpointError, ParameterError
from tlskit.files import sha256_of_file
from tlskit.networks.models import Checkpoint, build_model, load_checkpoint, save_checkpoint

ENCODER = "mobilenet_v2"  # a third of efficientnet-b0's time


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(encoder=ENCODER, encoder_weights="none")


@pytest.fixture
def checkpoint(model):
    return Checkpoint(
        model=model,
        encoder=ENCODER,
        magnification=4,
        mpp=2.5,
        tile_px=64,
        overlap=0.5,
        normalisation="divide_255",
        threshold=0.5,
        target_class="TLS",
        resolution_by="mpp",
        split_hash="abc",
        history=pd.DataFrame({"epoch": [1, 2], "val_iou": [0.25, np.nan], "best": [True, False]}),
        params={"seed": np.int64(3), "learning_rate": np.float32(0.5), "betas": (0.9, 0.999), "note": None},
    )


def test_the_default_network_gives_one_logit_a_pixel():
    torch.manual_seed(0)
    network = build_model(encoder_weights="none").eval()
    with torch.inference_mode():
        logits = network(torch.rand(2, 3, 64, 96))
    assert logits.shape == (2, 1, 64, 96)
    assert (logits < 0).any(), "no activation at the end"
    # 6.57 million weights: UNet++ with efficientnet-b0, as the study names it.
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(6.57e6, rel=0.005)


def test_random_weights_come_from_torch_s_seed():
    networks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        networks.append(
            torch.cat([p.flatten() for p in build_model(encoder=ENCODER, encoder_weights="none").parameters()])
        )
    assert torch.equal(networks[0], networks[1]) and not torch.equal(networks[0], networks[2])


def test_batchnorm_follows_quickly_only_where_it_starts_from_nothing(tmp_path):
    def momenta(network):
        return {m.momentum for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)}

    torch.manual_seed(0)
    random = build_model(encoder="efficientnet-b0", encoder_weights="none")
    assert momenta(random) == {0.1}
    torch.save(random.encoder.state_dict(), tmp_path / "encoder.pth")
    pretrained = build_model(encoder="efficientnet-b0", encoder_weights=tmp_path / "encoder.pth")
    assert pytest.approx(0.01) == min(momenta(pretrained))


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
@pytest.mark.parametrize("whole_network", [False, True])
def test_encoder_weights_are_taken_from_a_file(tmp_path, model, suffix, whole_network):
    state = (model if whole_network else model.encoder).state_dict()
    state["classifier.1.weight"] = torch.zeros(1000, 1280)
    path = tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    torch.manual_seed(9)
    loaded = build_model(encoder=ENCODER, encoder_weights=str(path))
    for name, value in model.encoder.state_dict().items():
        assert torch.equal(loaded.encoder.state_dict()[name], value), name
    head = "segmentation_head.0.weight"
    assert not torch.equal(loaded.state_dict()[head], model.state_dict()[head])


def test_timm_s_own_files_fit_the_wrapped_encoders(tmp_path):
    network = build_model(encoder="tu-mobilenetv3_small_050", encoder_weights="none")
    bare = {name.removeprefix("model."): value.clone() for name, value in network.encoder.state_dict().items()}
    save_file(bare, tmp_path / "timm.safetensors")
    loaded = build_model(encoder="tu-mobilenetv3_small_050", encoder_weights=tmp_path / "timm.safetensors")
    assert all(torch.equal(loaded.encoder.state_dict()[f"model.{name}"], value) for name, value in bare.items())


class Payload:
    """Unpickled, it would run something."""

    def __reduce__(self):
        return (print, ("code has run",))


def test_weight_files_that_do_not_fit_say_why(tmp_path, model, capsys):
    with pytest.raises(ParameterError, match="there is no file"):
        build_model(encoder=ENCODER, encoder_weights=tmp_path / "none.pth")
    (tmp_path / "broken.pth").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(ParameterError, match="not a state dict that can be read safely"):
        build_model(encoder=ENCODER, encoder_weights=tmp_path / "broken.pth")
    (tmp_path / "broken.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(ParameterError, match="not a state dict that can be read safely"):
        build_model(encoder=ENCODER, encoder_weights=tmp_path / "broken.safetensors")
    torch.save({"x": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(ParameterError, match="can run code"):
        build_model(encoder=ENCODER, encoder_weights=tmp_path / "evil.pth")
    assert "code has run" not in capsys.readouterr().out
    torch.save({"epoch": 3}, tmp_path / "log.pth")
    with pytest.raises(ParameterError, match="tensors by name and nothing else"):
        build_model(encoder=ENCODER, encoder_weights=tmp_path / "log.pth")
    torch.save(model.encoder.state_dict(), tmp_path / "other.pth")
    with pytest.raises(ParameterError, match=r"does not hold the encoder resnet18.*missing"):
        build_model(encoder="resnet18", encoder_weights=tmp_path / "other.pth")
    with pytest.raises(ParameterError, match="'imagenet', 'none', or the path"):
        build_model(encoder=ENCODER, encoder_weights="imagenett")


def test_an_unknown_encoder_is_refused_with_the_nearest_name():
    with pytest.raises(ParameterError, match="Did you mean efficientnet-b0"):
        build_model(encoder="efficientnetb0", encoder_weights="none")
    with pytest.raises(ParameterError, match="cannot be built"):
        build_model(encoder="mit_b0", encoder_weights="none")


def test_without_internet_the_message_names_the_file_to_bring_and_where_to_put_it(monkeypatch):
    def offline(*args, **kwargs):
        from huggingface_hub.errors import LocalEntryNotFoundError

        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(smp.encoders, "hf_hub_download", offline)
    with pytest.raises(ParameterError) as caught:
        build_model(encoder="efficientnet-b0", encoder_weights="imagenet")
    message = str(caught.value)
    assert "smp-hub/efficientnet-b0.imagenet/resolve/" in message and "model.safetensors" in message
    assert "`encoder_weights: path/to/" in message and "`encoder_weights: none`" in message


def test_a_checkpoint_comes_back_with_all_it_carried(checkpoint, tmp_path):
    saved = save_checkpoint(tmp_path / "a" / "checkpoint.pt", checkpoint)
    before = torch.random.get_rng_state()
    loaded = load_checkpoint(tmp_path / "a" / "checkpoint.pt", device="cpu")
    assert torch.equal(torch.random.get_rng_state(), before), "loading must not shift random numbers"
    assert loaded.sha256 == saved.sha256 == sha256_of_file(tmp_path / "a" / "checkpoint.pt")
    assert not loaded.model.training
    for name, value in checkpoint.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], value), name
    for field in dataclasses.fields(Checkpoint):
        if field.name not in ("model", "history", "params", "sha256"):
            assert getattr(loaded, field.name) == getattr(checkpoint, field.name), field.name
    pd.testing.assert_frame_equal(loaded.history, checkpoint.history)
    assert loaded.params == {"seed": 3, "learning_rate": 0.5, "betas": [0.9, 0.999], "note": None}
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["checkpoint.pt"]


def test_a_checkpoint_file_holds_no_pickled_code(checkpoint, tmp_path):
    save_checkpoint(tmp_path / "c.pt", checkpoint)
    assert isinstance(torch.load(tmp_path / "c.pt", weights_only=True), dict)


def test_a_failed_save_leaves_the_old_file(checkpoint, tmp_path):
    path = tmp_path / "c.pt"
    save_checkpoint(path, checkpoint)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=r"params\['oops'\] is of type object"):
        save_checkpoint(path, dataclasses.replace(checkpoint, params={"oops": object()}))
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_files_that_are_no_checkpoint_are_refused_with_the_reason(checkpoint, tmp_path, capsys):
    path = tmp_path / "c.pt"
    with pytest.raises(CheckpointError, match="Run 03_training"):
        load_checkpoint(path)
    save_checkpoint(path, checkpoint)
    whole = path.read_bytes()
    for damaged in (b"", b"hello", whole[: len(whole) // 2], whole[:200] + bytes(400) + whole[600:]):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="damaged|do not fit|incomplete"):
            load_checkpoint(path)
    path.write_bytes(pickle.dumps({"format": "tlskit checkpoint"}, protocol=2))
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
    torch.save({"a": Payload()}, path)
    with pytest.raises(CheckpointError, match="damaged, or it is not one of tlskit"):
        load_checkpoint(path)
    assert "code has run" not in capsys.readouterr().out
    torch.save(checkpoint.model.state_dict(), path)
    with pytest.raises(CheckpointError, match="`encoder_weights`"):
        load_checkpoint(path)

    path.write_bytes(whole)
    payload = torch.load(path, weights_only=True)
    for changes, message in (
        ({"version": 99}, "format 99"),
        ({"encoder": "resnet18"}, "do not fit a UNet"),
    ):
        torch.save(payload | changes, path)
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(path)
    del payload["threshold"]
    torch.save(payload, path)
    with pytest.raises(CheckpointError, match="lacks threshold"):
        load_checkpoint(path)


def test_a_checkpoint_refuses_what_it_was_not_trained_for(checkpoint):
    checkpoint.check_fits(magnification=4.0, tile_px=64, target_class="TLS", resolution_by="mpp", split_hash="abc")
    checkpoint.check_fits()
    with pytest.raises(CheckpointError, match=r"`magnification` 4, asked for 20; `split_hash`"):
        checkpoint.check_fits(magnification=20, split_hash="def")
    several = dataclasses.replace(checkpoint, target_class=["TLS", "GC"])
    several.check_fits(target_class=("GC", "TLS"))


def test_a_checkpoint_with_a_flipped_bit_is_refused_or_the_same(checkpoint, tmp_path):
    path = tmp_path / "c.pt"
    save_checkpoint(path, checkpoint)
    data, rng = path.read_bytes(), np.random.default_rng(0)
    weights, refused = checkpoint.model.state_dict(), 0
    for place in rng.integers(0, len(data), 40):
        flipped = bytearray(data)
        flipped[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        try:
            loaded = load_checkpoint(path, device="cpu")
        except CheckpointError:
            refused += 1
            continue
        assert all(torch.equal(value, weights[name]) for name, value in loaded.model.state_dict().items()), place
        assert loaded.threshold == checkpoint.threshold and loaded.mpp == checkpoint.mpp
    assert refused > 30
