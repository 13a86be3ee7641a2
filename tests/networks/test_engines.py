"""Engines: the same probabilities from every runtime, and no accuracy lost silently."""

import errno
import importlib.util
import logging
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from torch import nn

from tlskit.errors import ParameterError
from tlskit.networks import agreement, compiled, engines, kept
from tlskit.networks import hardware as compute
from tlskit.networks.fusion import fold
from tlskit.networks.models import build_model
from tlskit.networks.runtimes import Applied, streams

HAS_OPENVINO = importlib.util.find_spec("openvino") is not None
needs_openvino = pytest.mark.skipif(not HAS_OPENVINO, reason="openvino, an optional extra, is not installed")
needs_bf16 = pytest.mark.skipif(
    compute.pick_precision("auto", "cpu") != "bf16", reason="this CPU does not multiply bf16 natively"
)


@pytest.fixture(scope="module")
def network():
    """A UNet++ whose batch norms are not the identity and whose probabilities spread."""
    torch.manual_seed(3)
    model = build_model(encoder_weights="none").eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.7, 1.3)
            module.weight.data.uniform_(0.8, 1.2)
            module.bias.data.normal_(0, 0.1)
    head = model.segmentation_head[0]
    with torch.inference_mode():
        logits = model(torch.from_numpy(windows(2)).permute(0, 3, 1, 2).float() / 255)
    head.weight.data *= 0.3 / logits.std()
    head.bias.data = (head.bias.data - logits.mean()) * 0.3 / logits.std()
    return model


def windows(count, size=96):
    rng = np.random.default_rng(5)
    coarse = rng.integers(0, 256, (count, size // 16, size // 16, 3)).astype(np.uint8)
    fine = coarse.repeat(16, 1).repeat(16, 2).astype(int) + rng.integers(-20, 20, (count, size, size, 3))
    return np.clip(fine, 0, 255).astype(np.uint8)


def checkpoint(model, normalisation="divide_255"):
    return SimpleNamespace(model=model, normalisation=normalisation)


def plain(model, stack):
    """Independent of the module under test: torch, one window at a time."""
    with torch.inference_mode():
        return np.stack(
            [
                torch.sigmoid(model(torch.from_numpy(w).permute(2, 0, 1)[None].float() / 255))[0, 0].numpy()
                for w in stack
            ]
        )


def make(model, **options):
    return engines.make_engine(checkpoint(model), **{"window_px": 96, "device": "cpu", "threads": 2, **options})


def choose(model, stack, **options):
    return engines.choose(checkpoint(model), stack, **{"device": "cpu", "threads": 2, **options})


@pytest.fixture(scope="module")
def exact(network):
    """Exact engines by name, each made once."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = make(network, engine=name, precision="exact")
        return made[name]

    return get


def test_folding_a_unetplusplus_changes_nothing_but_rounding(network):
    x = torch.from_numpy(windows(2)).permute(0, 3, 1, 2).float() / 255
    folded = fold(network)
    with torch.inference_mode():
        assert torch.allclose(torch.sigmoid(folded(x)), torch.sigmoid(network(x)), atol=5e-6)
    kinds = [type(block).__name__ for block in folded.decoder.blocks.values()]
    assert kinds == ["_FoldedBlock"] * 11
    assert all(type(block).__name__ == "DecoderBlock" for block in network.decoder.blocks.values()), "original changed"


def test_what_folding_does_not_know_comes_back_as_it_is():
    import segmentation_models_pytorch as smp

    x = torch.rand(1, 3, 64, 64)
    for model in (
        smp.Unet("efficientnet-b0", encoder_weights=None),
        smp.UnetPlusPlus("efficientnet-b0", encoder_weights=None, decoder_attention_type="scse"),
        smp.UnetPlusPlus("efficientnet-b0", encoder_weights=None, decoder_interpolation="bilinear"),
        nn.Conv2d(3, 1, 1),
    ):
        model.eval()
        with torch.inference_mode():
            assert torch.equal(fold(model)(x), model(x))


@pytest.mark.parametrize("name", ["torch", pytest.param("openvino", marks=needs_openvino)])
def test_exact_engines_equal_plain_pytorch(network, exact, name):
    stack, engine = windows(3), exact(name)
    assert (engine.name, engine.precision) == (name, "exact")
    assert np.abs(engine.predict(stack) - plain(network, stack)).max() < 1e-5


@pytest.fixture
def any_bf16(monkeypatch):
    """PyTorch computes bf16 on every CPU; where the CPU cannot, it takes its time."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)


@pytest.mark.parametrize("name", ["torch", pytest.param("openvino", marks=[needs_openvino, needs_bf16])])
def test_bf16_engines_stay_near_and_are_measured(network, name):
    stack, expected = windows(3), plain(network, windows(3))
    engine, tried = choose(network, stack, engine=name, precision="bf16")
    difference = np.abs(engine.predict(stack) - expected).max()
    assert (engine.name, engine.precision) == (name, "bf16") and 1e-5 < difference < 0.1
    assert engine.max_dprob == tried[0]["max_dprob"] == pytest.approx(difference, abs=1e-5)


@pytest.mark.parametrize("name", ["torch", pytest.param("openvino", marks=needs_openvino)])
def test_a_result_does_not_depend_on_its_company(exact, name):
    stack, engine = windows(5), exact(name)
    together = engine.predict(stack)
    assert np.array_equal(together, np.concatenate([engine.predict(stack[:2]), engine.predict(stack[2:])]))


@pytest.mark.parametrize("name", ["torch", pytest.param("openvino", marks=needs_openvino)])
def test_a_result_does_not_depend_on_the_number_of_cores(network, exact, name):
    stack, before = windows(3), torch.get_num_threads()
    one = make(network, engine=name, precision="exact", threads=1)
    assert np.array_equal(one.predict(stack), exact(name).predict(stack))
    assert torch.get_num_threads() == before, "the caller's number of threads is the caller's"


def test_the_threads_of_an_engine_end_with_it(network):
    def threads():
        return {thread for thread in threading.enumerate() if thread.name.startswith("tlskit-forward")}

    before, engine = threads(), make(network, engine="torch", precision="exact")
    engine.predict(windows(2))
    own = threads() - before
    assert len(own) == 2
    del engine
    for thread in own:
        thread.join(timeout=10)
        assert not thread.is_alive()


def test_large_windows_are_computed_one_at_a_time():
    assert [streams(threads, 512) for threads in (1, 2, 8, 64)] == [1, 2, 8, 8]
    assert [streams(threads, 512) for threads in (9, 10, 12, 14, 15)] == [3, 5, 6, 7, 5], "all cores have work"
    assert streams(8, 2048) == 1


@pytest.mark.parametrize("name", ["torch", pytest.param("openvino", marks=needs_openvino)])
def test_several_batches_may_be_under_way(network, exact, name):
    stack, engine = windows(7), exact(name)
    expected = plain(network, stack)
    tickets = [engine.submit(stack[:3]), engine.submit(stack[3:6]), engine.submit(stack[6:])]
    got = np.concatenate([engine.result(ticket) for ticket in tickets])
    assert np.abs(got - expected).max() < 1e-5


def test_normalisation_is_the_checkpoints(network):
    stack = windows(1)
    x = torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 255
    x = (x - torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(
        1, 3, 1, 1
    )
    with torch.inference_mode():
        expected = torch.sigmoid(network(x))[:, 0].numpy()
    engine = engines.make_engine(
        checkpoint(network, "imagenet"), engine="torch", precision="exact", window_px=96, device="cpu"
    )
    assert np.abs(engine.predict(stack) - expected).max() < 1e-5


def test_eager_is_plain_pytorch(network):
    stack = windows(2)
    assert np.abs(engines.eager(checkpoint(network), stack) - plain(network, stack)).max() < 1e-5


class Steep(nn.Module):
    """Logits of +-500 per grey level round a threshold: what bf16 rounds away decides the probability."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 1, 1)
        self.layer.weight.data.fill_(1000.0)
        self.layer.bias.data.fill_(-1500.0)

    def forward(self, x):
        return self.layer(x)


class SteepDecoder(nn.Module):
    """As `Steep`, in the half of a network that `mixed` computes in half precision."""

    def __init__(self):
        super().__init__()
        self.encoder = Levels()
        self.decoder = Take()
        self.segmentation_head = Steep().layer

    def forward(self, x):
        return self.segmentation_head(self.decoder(self.encoder(x)))


class Levels(nn.Module):
    def forward(self, x):
        return [x]


@pytest.mark.parametrize("name", ["torch", pytest.param("auto", marks=[needs_openvino, needs_bf16])])
@pytest.mark.usefixtures("any_bf16")
def test_auto_gives_up_a_precision_that_costs_accuracy(name, caplog):
    stack, model = windows(2), SteepDecoder()
    with caplog.at_level(logging.WARNING, logger="tlskit.networks.engines"):
        engine, tried = choose(model, stack, engine=name)
    assert [(rung["precision"], rung["kept"]) for rung in tried] == [("mixed", False), ("exact", True)]
    assert tried[0]["max_dprob"] > agreement.MAX_DPROB and engine.max_dprob <= agreement.EXACT_DPROB
    assert np.abs(engine.predict(stack) - plain(model, stack)).max() < 1e-3
    assert "mixed differs from float32" in caplog.text and "on 2 windows" in caplog.text


@pytest.mark.parametrize("name", ["auto", "torch"])
@pytest.mark.usefixtures("any_bf16")
def test_bf16_throughout_is_to_be_had_by_name_only(network, name):
    assert make(network, engine=name).precision != "bf16"
    assert make(Steep(), engine=name).precision == "exact", "a network without parts has no mixed rung"


class SteepEncoder(nn.Module):
    """What bf16 rounds away decides the probability, but only in the encoder."""

    def __init__(self):
        super().__init__()
        self.encoder = SteepLevels()
        self.decoder = Take()
        self.segmentation_head = nn.Conv2d(3, 1, 1)
        self.segmentation_head.weight.data.fill_(1.0)
        self.segmentation_head.bias.data.fill_(-1.5)

    def forward(self, x):
        return self.segmentation_head(self.decoder(self.encoder(x)))


class SteepLevels(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)
        self.layer.weight.data.fill_(100.0)
        self.layer.bias.data.fill_(-150.0)

    def forward(self, x):
        return [x, torch.sigmoid(self.layer(x))]


class Take(nn.Module):
    def forward(self, features):
        return features[-1]


@pytest.mark.parametrize("name", ["torch", pytest.param("auto", marks=[needs_openvino, needs_bf16])])
@pytest.mark.usefixtures("any_bf16")
def test_auto_keeps_the_encoder_in_float32(name):
    stack, model = windows(2), SteepEncoder()
    engine, tried = choose(model, stack, engine=name)
    assert engine.precision == "mixed" and len(tried) == 1
    assert np.abs(engine.predict(stack) - plain(model, stack)).max() <= agreement.MAX_DPROB


@pytest.mark.parametrize("name", ["torch", pytest.param("openvino", marks=needs_openvino)])
@pytest.mark.usefixtures("any_bf16")
def test_mixed_is_the_same_network_in_two_parts(network, name):
    source = engines.EngineSource(checkpoint(network), window_px=96, engine=name, device="cpu", threads=2)
    engine, stack = source.exactly(name, "mixed"), windows(5)
    tickets = [engine.submit(stack[:2]), engine.submit(stack[2:])]
    got = np.concatenate([engine.result(ticket) for ticket in tickets])
    assert np.abs(got - plain(network, stack)).max() < agreement.MAX_DPROB
    assert np.array_equal(got, engine.predict(stack))


def test_a_precision_that_was_asked_for_is_kept_but_not_silently(caplog):
    stack, model = windows(2), Steep()
    with caplog.at_level(logging.WARNING, logger="tlskit.networks.engines"):
        engine, tried = choose(model, stack, engine="torch", precision="bf16")
    assert engine.precision == "bf16" and engine.max_dprob > agreement.MAX_DPROB and "asked for" in caplog.text
    assert len(tried) == 1 and tried[0]["kept"]


@pytest.mark.parametrize("name", ["auto", "torch"])
def test_exact_ends_at_plain_pytorch(network, name, monkeypatch, caplog):
    stack = windows(3)
    monkeypatch.setattr(agreement, "EXACT_DPROB", 0.0)  # no engine that sums in another order holds this
    with caplog.at_level(logging.WARNING, logger="tlskit.networks.engines"):
        engine, tried = choose(network, stack, engine=name, precision="exact")
    assert (engine.name, engine.precision, engine.max_dprob) == ("eager", "exact", 0.0)
    assert 0 < tried[0]["max_dprob"] < 1e-5 and "trying eager at exact" in caplog.text
    assert np.allclose(engine.predict(stack), engines.eager(checkpoint(network), stack), atol=1e-5)  # in other batches
    source = engines.EngineSource(checkpoint(network), window_px=96, device="cpu", precision="exact")
    assert source.exactly("eager", "exact").name == "eager"  # what a resumed map asks for


@needs_openvino
def test_a_network_that_openvino_cannot_take_falls_back_to_torch(caplog):
    class Untraceable(nn.Module):
        def forward(self, x):
            return torch.linalg.eigh(x[:, :1, :8, :8] @ x[:, :1, :8, :8].mT)[0].sum() + x[:, :1]

    before = logging.getLogger().level
    engine = make(Untraceable(), engine="auto", precision="exact")
    assert logging.getLogger().level == before, "OpenVINO must not mute the warnings of everybody else"
    assert engine.name == "torch" and "PyTorch is used instead" in caplog.text
    stack = windows(1)
    chosen, tried = choose(Untraceable(), stack, precision="exact")
    assert chosen.name == "torch" and tried[0]["max_dprob"] <= agreement.EXACT_DPROB
    with pytest.raises(ParameterError, match="cannot take this network"):
        make(Untraceable(), engine="openvino", precision="exact")


def test_auto_takes_openvino_only_where_it_is_installed(monkeypatch):
    model = nn.Conv2d(3, 1, 1)
    assert make(model, engine="auto").name == ("openvino" if HAS_OPENVINO else "torch")
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else real(name))
    assert make(model, engine="auto").name == "torch"
    with pytest.raises(ParameterError, match=r"pip install tlskit\[openvino\]"):
        make(model, engine="openvino")


def test_unknown_engines_and_precisions_are_refused():
    model = nn.Conv2d(3, 1, 1)
    with pytest.raises(ParameterError, match="auto, torch, openvino, not"):
        make(model, engine="tensorrt")
    with pytest.raises(ParameterError, match="precision"):
        make(model, precision="fp8")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda p: p + 0.03, "a probability by 0.03"),
        (lambda p: np.where(np.abs(p - 0.5) < 0.004, 1.0 - p, p), "pixels change side"),
        (lambda p: np.where(p > 0.5, p - 0.015, p), "objects appear or vanish"),
        (lambda p: p + 0.001, ""),
        (lambda p: p * np.nan, "a probability by nan"),
    ],
)
def test_limits_of_agreement_by_number_and_by_sight(given, said):
    """A field with a target that is sure of itself, one that is hardly one, and a slope through the threshold."""
    p = np.full((1, 512, 512), 0.1, np.float32)
    p[0, 8:208, 8:208], p[0, 260:266, 260:266] = 0.9, 0.51
    p[0, 390:400] = np.linspace(0.45, 0.498, 512)
    if "change side" in said:
        p[0, 390:400] = np.linspace(0.4965, 0.5035, 512)
    found = agreement.compare(given(p).astype(np.float32), p, threshold=0.5)
    assert said in found.broken_limit() and bool(said) == bool(found.broken_limit())
    assert found.n_windows == 1


def test_a_source_makes_its_engine_once_and_keeps_it(network):
    source = engines.EngineSource(checkpoint(network), window_px=96, engine="torch", precision="exact", device="cpu")
    first = source.get(windows(2))
    assert source.get(windows(1)) is first and first.max_dprob < 1e-5 and first.check_s > 0
    assert source.exactly("torch", "exact") is first


@pytest.mark.usefixtures("any_bf16")
def test_a_choice_is_noted_for_a_checkpoint_and_a_machine(network, tmp_path, monkeypatch):
    def source(model=network, sha="a", **options):
        given = SimpleNamespace(model=model, normalisation="divide_255", sha256=sha)
        return engines.EngineSource(
            given, **{"window_px": 96, "engine": "torch", "device": "cpu", "note": note, **options}
        )

    note, stack = tmp_path / "engine.json", windows(2)
    first = source()
    assert not first.is_chosen
    chosen = first.get(stack)
    monkeypatch.setattr(engines, "choose", None)  # nobody chooses again
    again = source()
    assert again.is_chosen and (again.get(stack).name, again.made.precision) == (chosen.name, chosen.precision)
    assert again.made.agreement == chosen.agreement and again.tried == first.tried
    for other in (source(sha="b"), source(precision="exact"), source(window_px=128)):
        assert not other.is_chosen
    note.write_text("[{")  # cut off
    assert not source().is_chosen


def test_a_note_that_may_not_be_written_ends_nothing_but_a_full_disk_does(network, tmp_path, monkeypatch):
    given = checkpoint(network)
    for number in (errno.EACCES, errno.EROFS, errno.ENOSPC):

        def write(path, text, number=number):
            raise OSError(number, os.strerror(number), str(path))

        monkeypatch.setattr(engines, "write_text", write)
        options = {
            "window_px": 96,
            "engine": "torch",
            "precision": "exact",
            "device": "cpu",
            "note": tmp_path / "e.json",
        }
        source = engines.EngineSource(given, **options)
        if number == errno.ENOSPC:
            with pytest.raises(OSError, match="No space"):
                source.get(windows(1))
        else:
            assert source.get(windows(1)).precision == "exact"


@pytest.mark.usefixtures("any_bf16")
def test_a_slide_on_which_the_choice_does_not_hold_ends_it(tmp_path, caplog):
    """Grey windows agree in any precision; coloured ones do not."""
    model, dull = SteepDecoder(), np.zeros((3, 96, 96, 3), np.uint8)
    source = engines.EngineSource(
        checkpoint(model), window_px=96, engine="torch", device="cpu", note=tmp_path / "e.json"
    )
    assert source.recheck(dull).precision == "mixed" and source.made.agreement.n_windows == 6
    with caplog.at_level(logging.WARNING, logger="tlskit.networks.engines"):
        engine = source.recheck(windows(2))
    assert engine.precision == "exact" and source.get(dull) is engine and "not on this slide" in caplog.text
    again = engines.EngineSource(
        checkpoint(model), window_px=96, engine="torch", device="cpu", note=tmp_path / "e.json"
    )
    assert again.get(dull).precision == "exact"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
@pytest.mark.parametrize("precision", ["exact", "auto"])
def test_a_gpu_gives_what_the_cpu_gives(network, precision):
    stack = windows(5)
    engine = engines.make_engine(checkpoint(network), precision=precision, window_px=96, device="cuda")
    tickets = [engine.submit(stack[:3]), engine.submit(stack[3:])]
    got = np.concatenate([engine.result(ticket) for ticket in tickets])
    assert np.abs(got - plain(network, stack)).max() < (1e-4 if precision == "exact" else agreement.MAX_DPROB)


@needs_openvino
def test_nobody_outside_is_told_of_a_network_that_is_run(network):
    """OpenVINO's telemetry sends events from forked copies of the process, at import and at every conversion."""
    code = (
        "import sys, psutil; from tlskit.networks import compiled; openvino = compiled.import_openvino();"
        "from openvino.tools.ovc import telemetry_utils as t; assert t.tm.__name__.endswith('telemetry_stub');"
        "assert sys.modules['openvino_telemetry'] is None and not psutil.Process().children()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    make(network, engine="openvino", precision="exact")
    assert sys.modules["openvino_telemetry"] is None
    assert not [child for child in psutil.Process().children() if child.cmdline() == psutil.Process().cmdline()]


def compile_in(folder, model, sha="a", precision="exact", **options):
    given = SimpleNamespace(model=model, normalisation="divide_255", sha256=sha, **options)
    return compiled.OpenVinoEngine(given, precision, 96, 2, folder)


@needs_openvino
@pytest.mark.parametrize("precision", ["exact", "mixed"])
def test_what_was_compiled_is_loaded_and_gives_the_same_bytes(network, exact, tmp_path, monkeypatch, precision):
    stack, model = windows(3), network if precision == "exact" else SteepDecoder()
    without = exact("openvino") if precision == "exact" else compile_in(None, model, precision=precision)
    fresh = compile_in(tmp_path, model, precision=precision)
    monkeypatch.setattr(compiled, "_convert", None)  # nothing is compiled again
    loaded = compile_in(tmp_path, model, precision=precision)
    assert (fresh.is_loaded, without.is_loaded, loaded.is_loaded) == (False, False, True)
    for engine in (fresh, loaded):
        assert np.array_equal(engine.predict(stack), without.predict(stack))
    assert len(list(tmp_path.iterdir())) == 1


@needs_openvino
@pytest.mark.parametrize("damage", ["cut", "flipped", "other", "foreign"])
def test_a_damaged_or_foreign_file_is_made_again(tmp_path, damage):
    stack, model, other = windows(1), Steep(), Steep()
    other.layer.bias.data += 1
    compile_in(tmp_path / "other", other)
    compile_in(tmp_path, model)
    (path,), (theirs,) = tmp_path.glob("*.zip"), (tmp_path / "other").glob("*.zip")
    whole = path.read_bytes()
    given = {"cut": whole[:-30], "other": theirs.read_bytes(), "foreign": b"PK"}
    given["flipped"] = whole[:200] + bytes([whole[200] ^ 1]) + whole[201:]
    path.write_bytes(given[damage])
    again = compile_in(tmp_path, model)
    assert not again.is_loaded and np.array_equal(again.predict(stack), compile_in(None, model).predict(stack))
    assert path.read_bytes() != given[damage] and compile_in(tmp_path, model).is_loaded


def test_graphs_are_found_only_by_who_made_the_same(tmp_path, monkeypatch):
    def path(model=None, sha="a", **how):
        given = SimpleNamespace(model=model or one, normalisation=how.pop("normalisation", "divide_255"), sha256=sha)
        return kept.graphs_path(tmp_path, given, **{"window_px": 96, **how})

    one, changed = Steep(), Steep()
    changed.layer.bias.data += 1
    first = path()
    assert path(Steep()) == first
    others = [path(changed), path(sha="b"), path(window_px=128), path(normalisation="imagenet"), path(openvino="2")]
    for name, value in {
        "code_state": lambda start: {"networks.fusion": "new"},
        "timm": SimpleNamespace(__version__="0.1"),
    }.items():
        with monkeypatch.context() as patched:
            patched.setattr(kept, name, value)
            others.append(path())
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True})
    assert len({first, *others, path()}) == 9
    assert {"networks.fusion", "networks.runtimes", "networks.context", "tiles.normalisation"} <= set(
        kept.code_state(kept.CODE)
    )


@needs_openvino
def test_what_loads_as_something_else_is_not_kept(tmp_path, monkeypatch):
    """As a network that is saved before it is compiled: OpenVINO then divides by 255 in another way."""

    def otherwise(core, blobs, configs):
        other = Steep()
        other.layer.bias.data += 1
        graph = compiled._convert(Applied(other, "divide_255").eval(), [([1, 96, 96, 3], torch.uint8)])
        return [core.compile_model(graph, "CPU", configs[0])]

    monkeypatch.setattr(compiled, "_loaded", otherwise)
    stack = windows(1)
    engine = compile_in(tmp_path, Steep())
    assert np.abs(engine.predict(stack) - plain(Steep(), stack)).max() < 1e-3 and not list(tmp_path.iterdir())


@needs_openvino
def test_where_nothing_may_be_written_or_nothing_is_known_nothing_is_kept(tmp_path, monkeypatch):
    compile_in(tmp_path, Steep(), sha="")
    assert not list(tmp_path.iterdir())
    for number in (errno.EROFS, errno.ENOSPC):

        def refuse(path, number=number):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(kept, "writing", refuse)
        assert not compile_in(tmp_path, Steep()).is_loaded and not list(tmp_path.iterdir())


def test_of_what_was_compiled_the_newest_few_are_kept(tmp_path):
    for n in range(kept.MOST + 2):
        path = tmp_path / f"compiled-{n}.zip"
        kept.write_graphs(path, [b"graph"])
        os.utime(path, (n, n))
    assert sorted(path.stem for path in tmp_path.iterdir()) == [f"compiled-{n}" for n in range(2, kept.MOST + 2)]
    assert kept.read_graphs(path, 1) == [b"graph"]
    with pytest.raises(KeyError):
        kept.read_graphs(path, 2)


@needs_openvino
def test_a_source_loads_what_another_compiled_beside_its_note(tmp_path):
    def source():
        given = SimpleNamespace(model=Steep(), normalisation="divide_255", sha256="a")
        options = {"window_px": 96, "engine": "openvino", "precision": "exact", "note": tmp_path / "engine.json"}
        return engines.EngineSource(given, **options)

    assert [source().get(windows(1)).is_loaded for _ in range(2)] == [False, True]
